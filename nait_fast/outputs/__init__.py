"""Output folders: what a command may write there, and what it must leave alone."""
