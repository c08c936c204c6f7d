"""``python -m kmeans``: the same as run_kmeans.py."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
