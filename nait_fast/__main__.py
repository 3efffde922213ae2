"""``python -m nait_fast`` is the command line."""

import sys

from nait_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
