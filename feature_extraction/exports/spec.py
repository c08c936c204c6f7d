"""One export, described: what can be chosen, written once for the command line, the engine and the README.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ..arguments import nearest
from ..errors import UsageError

Dtype = Literal["float32", "float16"]
Keys = Literal["id", "number"]
DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)
KEYS: Final[tuple[Keys, ...]] = get_args(Keys)
IMAGES_PER_FILE: Final = 256


@dataclass(frozen=True)
class Row:
    """What is to be known of a format before anything is read."""

    readers: str
    holds: str
    """What OUT is."""
    ending: str = ""
    """What OUT has to end with."""
    float16: bool = True
    """Whether its readers take features in two bytes a number."""
    quirks: tuple[str, ...] = ()
    several: bool = False
    """Whether several images share a file of OUT."""
    split: bool = False
    """Whether it names a split."""


FORMATS: Final[dict[str, Row]] = {
    "vilbert-npy": Row("ViLBERT-MT, 12-in-1", "folder of KEY.npy, a pickled dict each", quirks=("objects",)),
    "vilbert-lmdb": Row("ViLBERT-MT, 12-in-1", "LMDB: key -> pickled dict", quirks=("base64",)),
    "mmf-npy": Row("MMF: VisualBERT, MMBT, Pythia", "folder of KEY.npy and KEY_info.npy"),
    "mmf-lmdb": Row("MMF", "LMDB: key -> pickled dict", ending=".lmdb"),
    "lxmert-tsv": Row("LXMERT, VL-T5's converter", "text, ten columns, arrays in base64", float16=False),
    "fga-h5": Row("fga", "HDF5: SPLIT_features (M, 37, D), the mean first", split=True),
    "npz": Row("anything with NumPy", "folder of KEY.npz"),
    "safetensors": Row("anything with safetensors", "folder of 00000.safetensors: KEY/array", several=True),
    "webdataset": Row("WebDataset", "folder of 00000.tar: KEY.array.npy, KEY.json", several=True),
}


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """One export."""

    source: Path
    """The feature file, .h5."""
    format: str
    output: Path
    dtype: Dtype = "float32"
    """Of the features; everything else stays as it is stored."""
    keys: Keys = "id"
    """What images are called in OUT: by their id, or the number that it ends with (COCO_val2014_000000000042: 42)."""
    ids: Path | None = None
    """A list of the images to be written, one id a line, in its order; None: all, ascending."""
    features: str = "features"
    """The array that is written as the features."""
    split: str = ""
    quirks: tuple[str, ...] = ()
    """Mistakes and older forms of the published programs, reproduced by name."""
    per_file: int = IMAGES_PER_FILE
    """Images per file, where several share one."""

    @property
    def row(self) -> Row:
        return FORMATS[self.format]

    @property
    def identity(self) -> dict[str, Any]:
        """What of these settings decides the bytes that are written."""
        chosen = {"format": self.format, "dtype": self.dtype, "keys": self.keys, "features": self.features}
        return {**chosen, "split": self.split, "quirks": list(self.quirks), "per_file": self.per_file}


def check(config: ExportConfig) -> None:
    """Raise UsageError for what does not go together."""
    if config.format not in FORMATS:
        raise UsageError(f"no format {config.format!r}; {nearest(config.format, list(FORMATS))}")
    row = config.row
    if not config.output.name.endswith(row.ending):
        raise UsageError(f"{config.output}: its readers know a file of {config.format} by its name, OUT{row.ending}")
    if config.dtype == "float16" and not (row.float16 and "base64" not in config.quirks):
        raise UsageError(f"the readers of {config.format} take features of 4 bytes a number: no --dtype float16")
    for quirk in config.quirks:
        if quirk not in row.quirks:
            known = f"; it has: {', '.join(row.quirks)}" if row.quirks else ""
            raise UsageError(f"{config.format} has no quirk {quirk!r}{known}")
    if row.split != bool(config.split):
        raise UsageError(f"{config.format} " + ("needs --split NAME" if row.split else "has no --split"))
    if "/" in config.split or "\0" in config.split:
        raise UsageError(f"--split {config.split!r}: it becomes the name of an array, which has no '/'")
    if not config.features.startswith("features"):
        raise UsageError(f"--features {config.features!r}: expected features, or an array as features_fc7")
    if config.per_file != IMAGES_PER_FILE and not row.several:
        raise UsageError(f"in {config.format} no file holds several images: no --per_file")
