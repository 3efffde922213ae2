"""What files need whatever they hold: whole writes, checksums, checked values, locks and names."""
