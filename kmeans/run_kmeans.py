"""The published command; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from kmeans.cli import main  # noqa: E402 (the checkout goes first on the path)

if __name__ == "__main__":
    sys.exit(main())
