"""Popcount scan: weighted AND-popcount scores of bit codes against bit planes."""
