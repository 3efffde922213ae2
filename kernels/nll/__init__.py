"""Losses of tokens from hidden states and a language-model head, without their logits."""
