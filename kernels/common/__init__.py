"""What the ops share: choice of a backend, and Triton helpers."""
