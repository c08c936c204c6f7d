"""The published command; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from feature_extraction.terminal import run_main  # noqa: E402 (the checkout goes first on the path)
from kmeans.cli import main  # noqa: E402

if __name__ == "__main__":
    run_main(main)
