"""What turns scores into one order, and what else decides about a row."""
