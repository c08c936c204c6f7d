"""What is asked of every pair of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from feature_extraction.tolerance import PUBLISHED, Tolerance


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a pair is compared, and what its worst images are recomputed from."""

    tolerance: Tolerance = PUBLISHED
    sample: int | None = None
    """Images of each file; None: all, or some of a file behind an address."""
    explain: bool = False
    images: Path | None = None
    """Where the images lie that are recomputed; None: where our file says that they lay."""
    checkpoint_dir: Path | None = None
    device: str = "auto"
