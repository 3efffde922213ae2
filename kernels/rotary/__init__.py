"""Rotary position embedding in one pass."""
