"""What run_kmeans.py can be asked to do, and which feature files the names in it mean. Standard library only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction import catalog, places, recipe
from feature_extraction.arguments import choose, nearest
from feature_extraction.config import Grid
from feature_extraction.errors import UnknownName, UsageError

DEVICES: Final = ("auto", "cpu", "cuda")
ASSIGNMENTS: Final = ("auto", "faiss", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What run_kmeans.py is asked to do; the defaults are the published ones. Raises UsageError for what cannot be."""

    n_centroids: int = recipe.KMEANS_CENTROIDS
    n_iter: int = recipe.KMEANS_ITERATIONS
    feat_dim: int = recipe.FEATURE_DIM
    grid_size: int = recipe.GRID_SIZE
    imsize: int | None = None
    """Pixels: use the feature files that were extracted with ``--imsize``, and name the results after it."""
    verbose: bool = True
    encoder: str = "maskrcnn"
    """First part of the names of feature files and results."""
    assign_only: bool = False
    src: str = "mscoco_train"
    """A name of the catalogue, or the path of a feature file."""
    tgt: tuple[str, ...] = ("mscoco_train",)
    datasets_dir: Path | None = None
    """None: DATASETS of the environment, ../datasets as published, or the checkout's."""
    memory: float | None = None
    """GB (1e9 bytes) that each process may use; None: most of what is free."""
    scratch: Path | None = None
    """Folder of the scratch file, where one is needed; None: beside the results."""
    device: str = "auto"
    """cpu; cuda: train and assign there; auto: train on the CPU, assign on a GPU if there is one."""
    assignment: str = "auto"
    """faiss, bfloat16 (the same result, see nearest/by_bfloat16.py) or auto: the faster of the two."""
    restart: bool = False
    """Train and assign anew even where results of the same run exist, or results of another source of that name."""

    def __post_init__(self) -> None:
        for name in ("n_centroids", "n_iter", "feat_dim", "grid_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}: expected a positive number")
        choose("device", self.device, DEVICES)
        choose("assignment", self.assignment, ASSIGNMENTS)
        if not self.tgt:
            raise UsageError("no target: name at least one of the feature files to assign")
        if os.sep in self.encoder or not self.encoder:
            raise UsageError(f"encoder {self.encoder!r}: expected the first part of a file name")

    @property
    def datasets(self) -> Path:
        """The folder that holds COCO, VG, ... and, below ``cluster_centroids``, the results."""
        return self.datasets_dir or places.first_existing(places.dataset_roots(""))


def is_path(name: str) -> bool:
    """Whether ``--src`` or ``--tgt`` gives a path rather than a name of the catalogue."""
    return name.endswith(".h5") or os.sep in name


def feature_path(name: str, options: Options) -> Path:
    """The feature file called ``name``: of the catalogue, or a path. Raises UnknownName."""
    if is_path(name):
        return Path(name)
    known = catalog.kmeans_sources()
    if name not in known:
        raise UnknownName(
            f"no feature file is called {name!r}, and it is no path of an .h5 file; {nearest(name, list(known))}"
        )
    data_set, split = known[name]
    suffix = Grid(grid_size=options.grid_size, imsize=options.imsize).suffix
    paths = [
        data_set.features_file(options.datasets / folder, split, suffix, encoder=options.encoder)
        for folder in dict.fromkeys((data_set.folder, data_set.published_folder))
    ]
    return next((p for p in paths if p.exists()), paths[0])


def label(name: str) -> str:
    """What stands for ``name`` in the names of the results: a catalogue name itself, or a path's stem."""
    return Path(name).stem if is_path(name) else name


def target_files(options: Options) -> dict[str, Path]:
    """Label -> feature file, of all targets. Raises UnknownName, or UsageError where two would get one name."""
    found: dict[str, Path] = {}
    for name in dict.fromkeys(options.tgt):
        path = feature_path(name, options)
        other = found.setdefault(label(name), path)
        if os.path.abspath(other) != os.path.abspath(path):
            raise UsageError(
                f"two targets would get the same name in the results, {label(name)}: {other} and {path};"
                " give them in separate runs, with another --datasets_dir"
            )
    return found
