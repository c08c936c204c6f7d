"""The data sets of X-LXMERT: where images lie, what files are made of them, how many there are.

Standard library only. Paths, patterns, splits and file names are those of the published scripts
(allenai/x-lxmert 561ff6e); counts are those of the published data sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import recipe
from .config import SPECS, Spec
from .errors import UnknownName


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    name: str
    """The published name: train, valid or test; empty where a data set has no splits."""
    folder: str
    """Folder below ``<root>/images``; empty for ``images`` itself."""
    images: int
    """Distinct image ids in the published data set."""
    kmeans_name: str
    """What ``run_kmeans.py --src/--tgt`` calls the grid features of this split."""


@dataclass(frozen=True)
class DataSet:
    """One data set: the row of the table that the eight published scripts differ in."""

    name: str
    title: str
    root_flag: str
    """Published flag that names the root folder, without dashes."""
    folder: str
    """Folder below ``datasets/`` that the published scripts use."""
    published_folder: str
    """Folder name used by the published downloads, where it differs."""
    pattern: str
    """File name pattern of the images ("*": every file, as the COCO scripts list their folder)."""
    recursive: bool
    """Whether the pattern is searched below the image folder or in it alone."""
    splits: tuple[Split, ...]
    script: str
    """How the names of the published scripts begin: ``<script>_extract_grid_feature.py``."""

    @property
    def default_root(self) -> str:
        """Root as the published scripts default it: relative to ``feature_extraction/``."""
        return f"../datasets/{self.folder}/"

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.splits if s.name)

    def split(self, name: str) -> Split:
        """The split called ``name`` ("" where the data set has none). Raises UnknownName."""
        for split in self.splits:
            if split.name == name:
                return split
        known = ", ".join(self.split_names) or "none: leave --split out"
        raise UnknownName(f"{self.title} has no split {name!r}; its splits: {known}")

    def images_dir(self, root: Path, split: Split) -> Path:
        return root / "images" / split.folder

    def features_file(self, root: Path, split: Split, suffix: str, *, encoder: str = "maskrcnn") -> Path:
        """Published path of a feature file, ``<root>/features/maskrcnn_train_grid8.h5``; the suffix is a spec's."""
        return root / "features" / f"{'_'.join(filter(None, (encoder, split.name, suffix)))}.h5"


COCO: Final = DataSet(
    "coco", "COCO", "cocoroot", "COCO", "COCO", "*", False,
    (
        Split("train", "train2014", 82_783, "mscoco_train"),
        Split("valid", "val2014", 40_504, "mscoco_valid"),
        Split("test", "test2015", 81_434, "mscoco_test"),
    ),
    "coco",
)  # fmt: skip
VG: Final = DataSet("vg", "Visual Genome", "vgroot", "VG", "VG", "*.jpg", True, (Split("", "", 108_077, "vg"),), "VG")
GQA: Final = DataSet("gqa", "GQA", "gqaroot", "GQA", "GQA", "*.jpg", True, (Split("", "", 148_854, "gqa"),), "GQA")
NLVR2: Final = DataSet(
    "nlvr2", "NLVR2", "nlvrroot", "nlvr2", "NLVR2", "*.png", True,
    (
        Split("train", "train", 103_170, "nlvr_train"),
        Split("valid", "dev", 8_102, "nlvr_valid"),
        Split("test", "test1", 8_082, "nlvr_test"),
    ),
    "nlvr2",
)  # fmt: skip

DATA_SETS: Final[dict[str, DataSet]] = {d.name: d for d in (COCO, VG, GQA, NLVR2)}


def data_set(name: str) -> DataSet:
    """The data set called ``name``. Raises UnknownName."""
    if name not in DATA_SETS:
        raise UnknownName(f"no data set {name!r}; the data sets: {', '.join(DATA_SETS)}")
    return DATA_SETS[name]


def kmeans_sources() -> dict[str, tuple[DataSet, Split]]:
    """Every name that ``run_kmeans.py`` accepts as source or target."""
    return {s.kmeans_name: (d, s) for d in DATA_SETS.values() for s in d.splits}


# --- the 16 feature files ---------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureFile:
    """One of the 16 published feature files: of which images, made by which script, lying where."""

    data: DataSet
    split: Split
    spec: Spec

    @property
    def name(self) -> str:
        """``coco-train-grid``, ``vg-boxes``: the make target is ``extract-<name>``."""
        return "-".join(filter(None, (self.data.name, self.split.name, self.spec.name)))

    @property
    def script(self) -> str:
        """File name of the published script, in ``feature_extraction/``."""
        return f"{self.data.script}_extract_{self.spec.script_word}_feature.py"

    @property
    def bytes_per_image(self) -> int:
        """Room that one image takes in the file."""
        return self.spec.bytes_per_image(recipe.FEATURE_DIM, recipe.NUM_CLASSES)

    @property
    def published_name(self) -> str:
        """Its name below the published downloads, e.g. ``NLVR2/maskrcnn_valid_grid8.h5``."""
        return f"{self.data.published_folder}/{self.path(Path()).name}"

    def images(self, datasets: Path) -> Path:
        """Folder of its images below the folder ``datasets``."""
        return self.data.images_dir(datasets / self.data.folder, self.split)

    def path(self, datasets: Path) -> Path:
        """Its published path below the folder ``datasets``."""
        return self.data.features_file(datasets / self.data.folder, self.split, self.spec.suffix)


def feature_files() -> tuple[FeatureFile, ...]:
    """All 16, in the order in which they are made: the grids, which the k-means reads, first."""
    return tuple(FeatureFile(d, s, spec()) for spec in SPECS.values() for d in DATA_SETS.values() for s in d.splits)


# --- addresses, as documented; whether they answer today is not known ------------------------------

_DETECTRON: Final = "https://dl.fbaipublicfiles.com"
CHECKPOINT_URLS: Final[dict[str, dict[str, str]]] = {
    "x-152": {
        "detectron_model.pth": f"{_DETECTRON}/vilbert-multi-task/detectron_model.pth",
        "detectron_config.yaml": f"{_DETECTRON}/vilbert-multi-task/detectron_config.yaml",
    },
    "x-101": {
        "detectron_model.pth": f"{_DETECTRON}/pythia/detectron_model/detectron_model.pth",
        "detectron_model.yaml": f"{_DETECTRON}/pythia/detectron_model/detectron_model.yaml",
    },
    "mmf-x-152": {
        "detectron_model_x152.pth": f"{_DETECTRON}/pythia/detectron_model/detectron_model_x152.pth",
        "detectron_model_x152.yaml": f"{_DETECTRON}/pythia/detectron_model/detectron_model_x152.yaml",
    },
}
"""Detector -> its files, by the names they are published under: ViLBERT's (the paper's), Pythia's, and the one that
MMF's extraction fetches."""
CHECKPOINT_NAMES: Final = {
    "detectron_model.pth": ("model_final.pth", "detectron_model_x152.pth"),
    "detectron_config.yaml": (
        "e2e_faster_rcnn_X-152-32x8d-FPN_1x_MLP_2048_FPN_512_train.yaml",
        "detectron_model.yaml",
        "detectron_model_x152.yaml",
    ),
}
"""Script's name -> the other names it goes by: first the one under which the published README tells the reader to save
it, then those of Pythia and MMF."""
FEATURES_BASE_URL: Final = "https://ai2-vision-x-lxmert.s3-us-west-2.amazonaws.com/butd_features"
PRETRAINED_URL: Final = "https://ai2-vision-x-lxmert.s3-us-west-2.amazonaws.com/x-lxmert/Epoch20_LXRT.pth"
"""X-LXMERT's weights; ``vis_emb.weight`` is set from the paper's centroids."""
GENERATOR_URL: Final = "https://ai2-vision-x-lxmert.s3-us-west-2.amazonaws.com/image_generator/G_60.pth"
"""The weights of X-LXMERT's image generator."""
PRETRAINED_URLS: Final = {"x-lxmert/Epoch20_LXRT.pth": PRETRAINED_URL, "image_generator/G_60.pth": GENERATOR_URL}
"""Name at a mirror -> address."""
IMAGE_ARCHIVE_URLS: Final[dict[str, tuple[str, ...]]] = {
    # plain http: the certificate of images.cocodataset.org does not match its name
    "coco": tuple(f"http://images.cocodataset.org/zips/{s.folder}.zip" for s in COCO.splits),
    "vg": tuple(f"https://cs.stanford.edu/people/rak248/VG_100K_2/{n}.zip" for n in ("images", "images2")),
    "gqa": ("https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",),
    "nlvr2": (),  # only by the form of the NLVR project
}
