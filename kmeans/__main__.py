"""``python -m kmeans``: the same as run_kmeans.py."""

from feature_extraction.terminal import run_main

from .cli import main

if __name__ == "__main__":
    run_main(main)
