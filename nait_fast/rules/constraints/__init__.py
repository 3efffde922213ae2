"""What else decides about a row than its score: each constraint a module of pure functions on codes in rank order."""
