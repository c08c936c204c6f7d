"""What run_kmeans.py can be asked to do, and which feature files the names in it mean."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from feature_extraction import catalog, recipe
from feature_extraction.errors import UnknownName


class UsageError(ValueError):
    """A run that was asked for in a way that cannot work."""


@dataclass(frozen=True)
class Options:
    """What run_kmeans.py is asked to do; the defaults are the published ones."""

    n_centroids: int = recipe.KMEANS_CENTROIDS
    n_iter: int = recipe.KMEANS_ITERATIONS
    feat_dim: int = recipe.FEATURE_DIM
    grid_size: int = recipe.GRID_SIZE
    imsize: int | None = None
    """Pixels: use the feature files that were extracted with ``--imsize``, and name the results after it."""
    verbose: bool = True
    encoder: str = "maskrcnn"
    assign_only: bool = False
    src: str = "mscoco_train"
    """A name of the catalogue, or the path of a feature file."""
    tgt: tuple[str, ...] = ("mscoco_train",)
    datasets_dir: Path = Path("../datasets/")
    memory: float | None = None
    """GB (1e9 bytes) that may be used; None: most of what is free."""
    scratch: Path | None = None
    """Folder of the scratch file, where one is needed; None: beside the results."""
    device: str = "auto"
    """cpu; cuda: train and assign there; auto: train on the CPU, assign on a GPU if there is one."""
    assignment: str = "auto"
    """faiss, bfloat16 (the same result, see assign.py) or auto: the faster of the two."""
    restart: bool = False
    """Train and assign anew even where results of the same run exist."""


def feature_path(name: str, options: Options) -> Path:
    """The feature file called ``name``: of the catalogue, or a path. Raises UnknownName."""
    if name.endswith(".h5") or os.sep in name:
        return Path(name)
    known = catalog.kmeans_sources()
    if name not in known:
        raise UnknownName(
            f"no feature file is called {name!r}; known: {', '.join(known)}; or give the path of an .h5 file"
        )
    data_set, split = known[name]
    paths = [
        data_set.features_file(
            options.datasets_dir / folder,
            split,
            "grid",
            encoder=options.encoder,
            grid_size=options.grid_size,
            imsize=options.imsize,
        )
        for folder in dict.fromkeys((data_set.folder, data_set.published_folder))
    ]
    return next((p for p in paths if p.exists()), paths[0])


def label(name: str) -> str:
    """What stands for ``name`` in the names of the results: a catalogue name itself, or a path's stem."""
    return Path(name).stem if name.endswith(".h5") or os.sep in name else name
