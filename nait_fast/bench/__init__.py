"""``nait-fast bench``: what the ops, the scan and the whole index pass reach on this machine, checked before timed."""
