"""One extraction, described: what the command line and Python both fill in, so that defaults cannot diverge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import recipe
from .catalog import Kind
from .images.decode import Decode

EXIT_ALL: Final = 0
EXIT_NOTHING: Final = 1
EXIT_SOME_FAILED: Final = 3


@dataclass(frozen=True)
class ExtractConfig:
    """One extraction, as the command line or Python gives it. Defaults are the published ones."""

    kind: Kind
    images: Path
    """Folder of images."""
    pattern: str
    recursive: bool
    output: Path
    dataset: str = "images"
    split: str = ""
    grid_size: int = recipe.GRID_SIZE
    num_boxes: int = recipe.NUM_BOXES
    imsize: int | None = None
    class_probs: bool = False
    decode: Decode = "proper"
    batch_size: int = 1
    checkpoint_dir: Path = Path("mask_rcnn_ckpt")
    engine: str = "native"
    device: str = "auto"
    precision: str = "float32"
    workers: int = 0
    """Decoding threads; 0: chosen by the number of cores."""
    shard: tuple[int, int] = (0, 1)
    """This run's share, counted from 0, and the number of shares."""
