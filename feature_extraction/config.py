"""One extraction, described: what is computed (``Grid``, ``Boxes``) and of what.

The command line and Python fill in the same dataclasses: defaults and choices are written here and nowhere else.
Standard library only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

from . import recipe
from .errors import UsageError
from .names import printable

Engine = Literal["native", "reference"]
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
Decoder = Literal["proper", "as_published"]
Layer = Literal["fc6", "fc7", "both"]
ClassProbs = Literal[False, True, "foreground"]
BoxFormat = Literal["xyxy", "xywh"]
BoxScaling = Literal["image", "vilbert-mt"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
DECODERS: Final[tuple[Decoder, ...]] = get_args(Decoder)
LAYERS: Final[tuple[Layer, ...]] = get_args(Layer)
BOX_FORMATS: Final[tuple[BoxFormat, ...]] = get_args(BoxFormat)
BOX_SCALINGS: Final[tuple[BoxScaling, ...]] = get_args(BoxScaling)

OPTION: Final = "option_"
"""How the names of settings begin that stand in a file only where they are not the published ones: without such a name
the published value is meant, so that files of before these settings existed go on."""

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
    """Boxes per image; the most of them where ``min_boxes`` is given."""
    class_probs: ClassProbs = False
    """Store cls_prob (boxes, classes) as well; "foreground": without the background's column."""
    min_boxes: int | None = None
    """None: ``num_boxes`` rows for every image. A number: as many as score at least ``threshold``, from so many to
    ``num_boxes``."""
    threshold: float = 0.0
    """A class probability counts as a score only above it (with ``min_boxes``: a box is kept from it)."""
    background: bool = False
    """Rank by, and name, the background as one of the classes; its obj_id is -1."""
    layer: Layer = "fc6"
    """The fully connected layer whose output is stored as features; both: fc7 as features_fc7."""
    obj_conf: bool = False
    """Store the score that ranked each box as well."""
    clip: bool = False
    """Move the stored boxes into the image; the features are of the proposal as it was."""

    def __post_init__(self) -> None:
        if self.min_boxes is not None and not 1 <= self.min_boxes <= self.num_boxes:
            raise UsageError(f"min_boxes is {self.min_boxes}, expected 1 to num_boxes, which is {self.num_boxes}")
        if not 0 <= self.threshold < 1:
            raise UsageError(f"threshold is {self.threshold}, expected a probability: from 0, below 1")

    @property
    def suffix(self) -> str:
        """End of the published file name."""
        number = f"{self.num_boxes}" if self.min_boxes is None else f"{self.min_boxes}to{self.num_boxes}"
        return f"boxes{number}" + ("" if self.layer == "fc6" else f"_{self.layer}")

    @property
    def identity(self) -> dict[str, Any]:
        """What is written into files and compared on resuming."""
        published = {"kind": self.name, "num_boxes": self.num_boxes, "class_probs": self.class_probs}
        return {**published, **self._options()}

    def _options(self) -> dict[str, Any]:
        """The settings of this family of recipes, where they are not X-LXMERT's."""
        given = {f.name: getattr(self, f.name) for f in fields(Boxes) if f.name not in ("num_boxes", "class_probs")}
        defaults = {f.name: f.default for f in fields(Boxes)}
        return {OPTION + name: value for name, value in given.items() if value != defaults[name]}

    def bytes_per_image(self, feature_dim: int, num_classes: int) -> int:
        """Size of one image's arrays in the file, with HDF5's overhead; at most, where the number of boxes varies."""
        layers = 2 if self.layer == "both" else 1
        scores = 4 if self.obj_conf else 0
        per_box = layers * feature_dim * 4 + 8 + 16 + scores + (num_classes * 4 if self.class_probs else 0)
        return self.num_boxes * per_box + 5120


@dataclass(frozen=True, kw_only=True)
class GivenBoxes(Boxes):
    """Features of boxes that a file gives (ground truth, words read in the image, another detector's), instead of
    proposals: all of them, in the file's order. ``obj_conf`` is then the best class probability."""

    boxes_from: Path
    """.h5, .json or .npy: boxes by image id (``images.given``)."""
    boxes_format: BoxFormat = "xyxy"
    """x1 y1 x2 y2, or x y width height; pixels of the original image."""
    boxes_scaling: BoxScaling = "image"
    """image: by the factor that the image is resized by. vilbert-mt: by padded / original width and height, as that
    program has it, which stretches the boxes a little where the image is padded."""

    def __post_init__(self) -> None:
        ranking = ("num_boxes", "min_boxes", "threshold")
        chosen = [f.name for f in fields(Boxes) if f.name in ranking and getattr(self, f.name) != f.default]
        if chosen:
            raise UsageError(f"{', '.join(chosen)} and boxes_from: the file says which boxes; leave one of them out")

    @property
    def suffix(self) -> str:
        """End of the file name."""
        return "boxes_given" + ("" if self.layer == "fc6" else f"_{self.layer}")

    @property
    def identity(self) -> dict[str, Any]:
        """What is written into files and compared on resuming: the file of boxes by its contents. Raises UsageError
        where it cannot be read."""
        given = {"boxes_format": self.boxes_format, "boxes_scaling": self.boxes_scaling}
        options = {OPTION + name: value for name, value in given.items()}
        return {
            "kind": self.name, "class_probs": self.class_probs, **self._options(), **options,
            OPTION + "boxes_sha256": _sha256(self.boxes_from),
        }  # fmt: skip


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{printable(path)}, the file of boxes, cannot be read: {error.strerror}") from error


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
