"""What else decides about a row than its score."""
