"""Feature files that are replaced, written to or removed while they are read."""

import contextlib
import os

import numpy as np
import pytest
from helpers.kmeans_cases import cluster, features, write_features

from feature_extraction.errors import StoreError
from kmeans import assign, train
from kmeans.vectors import FeatureFile

K = 16


def replace(path, values):
    """As the extraction does: another file takes the name."""
    os.replace(write_features(path.with_name("new.h5"), values), path)


def overwrite(path, values):
    """In place, the size unchanged."""
    other = write_features(path.with_name("new.h5"), values)
    with path.open("r+b") as file:
        file.write(other.read_bytes())


WAYS = {"replaced": replace, "written to": overwrite}


@pytest.fixture
def files(tmp_path):
    source = write_features(tmp_path / "src.h5", features(150, 8, 24, seed=5))
    return source, write_features(tmp_path / "tgt.h5", features(100, 8, 24, seed=6))


def once(function):
    """A function that does what it does the first time only."""
    called = []

    def do(*arguments):
        if not called:
            called.append(1)
            function(*arguments)

    return do


@contextlib.contextmanager
def after(owner, name, what):
    """While the block runs, ``what`` happens behind every call of a method, which has to be called."""
    real, happened = getattr(owner, name), []

    def wrapped(*arguments, **options):
        result = real(*arguments, **options)
        what()
        happened.append(1)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, wrapped)
        yield
    assert happened, f"{name} is never called"


def results_of(source, target, folder):
    return cluster(source, folder, K, n_iter=3, tgt=(str(target),))


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_changes_while_k_means_trains(files, tmp_path, way):
    source, target = files
    change = once(lambda: WAYS[way](target, features(100, 8, 24, seed=7)))
    with after(train.Training, "run", change):
        first = results_of(source, target, tmp_path / "o")
    again, clean = (results_of(source, target, tmp_path / name) for name in ("o", "clean"))
    assert np.array_equal(first["index"], clean["index"])
    assert np.array_equal(again["index"], clean["index"])


@pytest.mark.parametrize("way", WAYS)
def test_a_target_that_changes_while_it_is_assigned(files, tmp_path, way):
    source, target = files
    change = once(lambda: WAYS[way](target, features(100, 8, 24, seed=7)))
    with after(assign.Assignment, "_fill", change):
        found = results_of(source, target, tmp_path / "o")
    assert np.array_equal(found["index"], results_of(source, target, tmp_path / "clean")["index"])


@pytest.mark.parametrize("memory", [8, 0.001])
@pytest.mark.parametrize("way", WAYS)
def test_a_source_that_changes_while_the_sample_is_read(files, tmp_path, way, memory):
    source, target = files
    change = once(lambda: WAYS[way](source, features(150, 8, 24, seed=7)))
    with after(FeatureFile, "gather", change):
        found = cluster(source, tmp_path / "o", K, n_iter=3, tgt=(str(target),), memory=memory)
    clean = results_of(source, target, tmp_path / "clean")
    assert np.array_equal(found["centroids"], clean["centroids"])
    assert np.array_equal(found["index"], clean["index"])


def test_a_source_that_changes_after_it_was_read_gives_the_vocabulary_of_what_was_read(files, tmp_path):
    """And the statistics say so: the next run clusters the new file."""
    source, target = files
    expected = results_of(source, target, tmp_path / "before")
    with after(train.Training, "_resume", once(lambda: replace(source, features(150, 8, 24, seed=7)))):
        first = results_of(source, target, tmp_path / "o")
    assert np.array_equal(first["centroids"], expected["centroids"])
    again, clean = (results_of(source, target, tmp_path / name) for name in ("o", "clean"))
    assert np.array_equal(again["centroids"], clean["centroids"])
    assert np.array_equal(again["index"], clean["index"])


def test_a_file_that_never_stands_still_is_refused(files, tmp_path):
    source, target = files
    moving = after(assign.Assignment, "_fill", lambda: os.utime(target))
    with moving, pytest.raises(StoreError, match="changed 3 times while it was read"):
        results_of(source, target, tmp_path / "o")
    assert not list((tmp_path / "o").rglob("*cluster_index*.npy"))


def test_a_file_that_is_removed(files, tmp_path):
    source, target = files
    with after(train.Training, "run", target.unlink), pytest.raises(StoreError, match="does not exist"):
        results_of(source, target, tmp_path / "o")


def test_another_file_between_the_two_openings(files, monkeypatch):
    """The file is opened twice, by us and by HDF5: both must have opened the same one."""
    from feature_extraction.storage import store

    source, _ = files
    real = store.open_features

    def late(path):
        replace(source, features(150, 8, 24, seed=7))
        return real(path)

    monkeypatch.setattr(store, "open_features", late)
    with pytest.raises(StoreError, match="was replaced"):
        FeatureFile(source, dim=24, grid_size=8)
