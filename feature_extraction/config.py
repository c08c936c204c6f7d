"""One extraction, described: what is computed (``Grid``, ``Boxes``) and of what.

The command line and Python fill in the same dataclasses: defaults and choices are written here and nowhere else.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

from . import recipe

Engine = Literal["native", "reference"]
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
Decoder = Literal["proper", "as_published"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
DECODERS: Final[tuple[Decoder, ...]] = get_args(Decoder)

EXIT_ALL: Final = 0
EXIT_NOTHING: Final = 1
EXIT_USAGE: Final = 2
EXIT_SOME_FAILED: Final = 3


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Features of equal cells of the whole image. Every field decides values."""

    name: ClassVar[str] = "grid"
    script_word: ClassVar[str] = "grid"
    """What the published scripts' names call it."""
    grid_size: int = recipe.GRID_SIZE
    """Cells per side."""
    imsize: int | None = None
    """Pixels: every image is resized to this square instead of by its sides; a multiple of 32."""

    @property
    def suffix(self) -> str:
        """End of the published file name."""
        return f"grid{self.grid_size}" + (f"_imsize{self.imsize}" if self.imsize is not None else "")

    @property
    def identity(self) -> dict[str, Any]:
        """What is written into files and compared on resuming."""
        return {"kind": self.name, "grid_size": self.grid_size, "imsize": self.imsize or 0}

    def bytes_per_image(self, feature_dim: int, num_classes: int) -> int:
        """Size of one image's arrays in the file, with HDF5's overhead."""
        return self.grid_size**2 * feature_dim * 4 + 2048


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Features of the best region proposals. Every field decides values."""

    name: ClassVar[str] = "boxes"
    script_word: ClassVar[str] = "bbox"
    """What the published scripts' names call it."""
    num_boxes: int = recipe.NUM_BOXES
    """Boxes per image."""
    class_probs: bool = False
    """Store cls_prob (boxes, classes) as well."""

    @property
    def suffix(self) -> str:
        """End of the published file name."""
        return f"boxes{self.num_boxes}"

    @property
    def identity(self) -> dict[str, Any]:
        """What is written into files and compared on resuming."""
        return {"kind": self.name, "num_boxes": self.num_boxes, "class_probs": self.class_probs}

    def bytes_per_image(self, feature_dim: int, num_classes: int) -> int:
        """Size of one image's arrays in the file, with HDF5's overhead."""
        per_box = feature_dim * 4 + 8 + 16 + (num_classes * 4 if self.class_probs else 0)
        return self.num_boxes * per_box + 5120


Spec = Grid | Boxes
SPECS: Final[dict[str, type[Spec]]] = {Grid.name: Grid, Boxes.name: Boxes}
"""Every kind of features, by the name that files and the command line use."""


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """One extraction. Defaults are the published ones."""

    spec: Spec
    images: str | Path
    """Folder of images, one image, a list file (.txt, one path a line), a .tar or a series of them
    (``cc3m/{00000..00331}.tar``), or the address of one (``s3://...``; a str)."""
    pattern: str = "*"
    recursive: bool = True
    output: Path
    """The feature file, .h5; of tars the folder of their feature files."""
    dataset: str = "images"
    split: str = ""
    decode: Decoder = "proper"
    batch_size: int = 1
    checkpoint_dir: Path | None = None
    """None: looked for where ``places.checkpoint_folders`` says."""
    engine: Engine = "native"
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Precision = "float32"
    workers: int = 0
    """Decoding threads; 0: by the processors that this process may use."""
    threads: int = 0
    """Threads of a CPU computation; 0: the same, unless OMP_NUM_THREADS is set."""
    shard: tuple[int, int] = (0, 1)
    """This run's share, counted from 0, and the number of shares."""

    @property
    def identity(self) -> dict[str, Any]:
        """What of these settings decides values: written into files and compared on resuming."""
        settings = {"dataset": self.dataset, "split": self.split, **self.spec.identity}
        return {**settings, "decode": self.decode, "batch_size": self.batch_size}
