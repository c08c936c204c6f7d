"""System calls that fail: one line, nothing wrong at a final path, and the next run ends right."""

import errno
import fcntl
import os
import pathlib
import shutil

import numpy as np
import pytest
from helpers.kmeans_cases import features, results, write_features

from kmeans import cli

DIM, GRID, K = 6, 4, 5
CALLS = [(os, "fsync"), (os, "write"), (os, "pwrite"), (os, "preadv"), (os, "ftruncate"), (os, "open"), (os, "mkdir")]
CALLS += [(pathlib.Path, name) for name in ("replace", "open", "unlink", "mkdir", "symlink_to")] + [(np, "savez")]

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 30, 50)
"""Which of the calls fails; every one of the first, then now and then: the reads are all alike."""


def command(path, folder, *more):
    return [
        *(f"--src={path}", "--tgt", str(path), f"--datasets_dir={folder}", f"--n_centroids={K}", "--n_iter=4"),
        *(f"--feat_dim={DIM}", f"--grid_size={GRID}", *more),
    ]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    path = write_features(folder / "some.h5", features(40, GRID, DIM))
    assert cli.main(command(path, folder / "clean")) == 0
    return path, results(folder / "clean")


def told_in_one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("error: "), said
    assert said.count("\n") == 1, said
    assert "Traceback" not in said
    return said


class Failing:
    """The ``number``-th call fails."""

    def __init__(self, owner, name, number, error):
        self.real, self.left, self.error = getattr(owner, name), number, error

    def __get__(self, instance, owner=None):
        return self if instance is None else lambda *a, **k: self(instance, *a, **k)

    def __call__(self, *arguments, **options):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.error, os.strerror(self.error))
        return self.real(*arguments, **options)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(("owner", "name"), CALLS, ids=lambda value: getattr(value, "__name__", value))
def test_every_call_of_its_kind_fails_once(case, tmp_path, capsys, monkeypatch, owner, name, error):
    path, expected = case
    faults = 0
    for number in NUMBERS:
        folder = tmp_path / str(number)
        failing = Failing(owner, name, number, error)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, failing)
            code = cli.main(command(path, folder, "--memory=0.001" if name == "pwrite" else "--memory=8"))
        if failing.left > 0:
            assert code == 0  # it is called less often than that
            break
        faults += 1
        if code:
            assert code == 1
            told_in_one_line(capsys)
        for there in folder.rglob("cluster_centroids/*.npy"):  # what stands at a final path is right
            kind = "index" if "_cluster_index_" in there.name else "centroids"
            assert np.array_equal(np.load(there), expected[kind])
        assert cli.main(command(path, folder)) == 0
        found = results(folder)
        assert all(np.array_equal(found[kind], expected[kind]) for kind in expected)
        capsys.readouterr()
        shutil.rmtree(folder)
    assert faults, f"{name} is never called"


def test_a_file_where_the_results_should_go(case, tmp_path, capsys):
    (tmp_path / "f").touch()
    assert cli.main(command(case[0], tmp_path / "f")) == 1
    assert "in the way of the results" in told_in_one_line(capsys)


def test_a_name_that_is_too_long(case, tmp_path, capsys):
    assert cli.main(command(case[0], tmp_path, f"--encoder={'x' * 300}", "--assign_only")) == 1
    told_in_one_line(capsys)
    path = shutil.copy(case[0], tmp_path / f"{'n' * 240}.h5")
    assert cli.main(command(path, tmp_path)) == 1
    assert "shorter names" in told_in_one_line(capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(case, tmp_path, capsys):
    (tmp_path / "ro").mkdir(mode=0o555)
    assert cli.main(command(case[0], tmp_path / "ro")) == 1
    assert "may write to" in told_in_one_line(capsys)


def test_a_file_system_that_is_read_only(case, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    assert cli.main(command(case[0], tmp_path / "new")) == 1
    assert "Read-only file system" in told_in_one_line(capsys)


def test_a_file_system_without_locks_is_refused_as_in_the_extraction(case, tmp_path, capsys, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert cli.main(command(case[0], tmp_path)) == 1
    assert "this file system has no locks" in told_in_one_line(capsys)
    assert not list(tmp_path.rglob("*.npy"))


def test_no_memory(case, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise MemoryError("Unable to allocate 43.4 GiB")

    monkeypatch.setattr("kmeans.train.Training._gather", refuse)
    assert cli.main(command(case[0], tmp_path)) == 1
    assert "give a smaller --memory" in told_in_one_line(capsys)
