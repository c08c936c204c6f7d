"""Feature files and runs for the tests of k-means."""

import contextlib
import itertools
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from kmeans import Options, run


def write_features(path, values, ids=None, **dataset):
    """A grid file from values (images, g, g, d); ids 000001, 000002, .. unless given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for i, image in enumerate(values):
            name = f"{i + 1:06}" if ids is None else ids[i]
            file.create_group(name).create_dataset("features", data=image, **dataset)
    return path


def features(images, grid, dim, seed=0, clusters=None):
    """Non-negative values (images, grid, grid, dim), scattered about some centres if ``clusters`` says how
    many."""
    rng = np.random.default_rng(seed)
    shape = (images, grid, grid, dim)
    values = rng.standard_normal(shape, dtype=np.float32)
    if clusters:
        centres = 4 * rng.standard_normal((clusters, dim), dtype=np.float32)
        values += centres[rng.integers(0, clusters, shape[:3])]
    return np.maximum(values, 0)


def cluster(path, folder, k, n_iter=20, grid=8, **options):
    """Run k-means on the file ``path``, which is also the only target unless another is given; returns the
    results."""
    with h5py.File(path) as file:
        dim = next(iter(file.values()))["features"].shape[-1]
    options = {"tgt": (str(path),), "n_iter": n_iter, "grid_size": grid, **options}
    run(Options(n_centroids=k, feat_dim=dim, src=str(path), datasets_dir=Path(folder), **options))
    return results(folder)


def results(folder):
    """Kind -> array, of all files that a run with one target left."""
    found = {}
    for path in (Path(folder) / "cluster_centroids").glob("*.npy"):
        found["index" if "_cluster_index_" in path.name else "centroids"] = np.load(path)
    return found


def environment(**changes):
    """For subprocesses that import this repository."""
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, **changes}


@contextlib.contextmanager
def interrupted_after(owner, name, calls):
    """While the block runs, Ctrl-C comes behind the given call of a method; the block must end by it."""
    real, count = getattr(owner, name), itertools.count(1)

    def counted(self, *args, **more):
        real(self, *args, **more)
        if next(count) == calls:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(KeyboardInterrupt):
            yield
