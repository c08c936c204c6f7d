"""What is asked of the page. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """What the page is to show."""

    datasets: Path
    per_file: int = 12
    """Images of each file."""
    words: tuple[int, ...] = ()
    """Words asked for by number."""
    rows: int = 800
    """Words at most whose nearest cells are cut from their photographs."""
    images: tuple[Path, ...] = ()
    """Further folders with images."""
    names: Path | None = None
    """File of the class names; None: looked for in the data folder and beside the checkpoint."""
    vocabulary: str | None = None
    """Name of the centroids' file; None: the one with most targets."""
