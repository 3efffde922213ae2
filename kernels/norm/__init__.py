"""RMSNorm in one pass."""
