"""The same as ``kmeans/run_kmeans.py``, in the folder where it was published."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the repository, not this folder

from kmeans.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
