"""The published command; see ``--help``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from feature_extraction.cli import main_for
from feature_extraction.terminal import run_main

if __name__ == "__main__":
    run_main(lambda: main_for("gqa", "grid"))
