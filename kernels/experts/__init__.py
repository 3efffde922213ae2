"""Sums over the tokens of each sequence that went to each expert."""
