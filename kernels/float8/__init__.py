"""Rows as FP8 (e4m3) numbers and a scale each, in one pass."""
