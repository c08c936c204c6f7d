"""Runs killed with SIGKILL go on where they were and end with the same bits."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.kmeans_cases import cluster, environment, features, write_features

KILLED = Path(__file__).resolve().parents[1] / "helpers" / "kmeans_killed.py"
ITERATIONS = 8


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A feature file (9,600 rows) and what an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp("killed")
    path = write_features(folder / "some.h5", features(150, 8, 24, seed=5))
    return path, cluster(path, folder, 16, n_iter=ITERATIONS)


def run(event, number, path, folder, *further):
    return subprocess.run(
        [
            *(sys.executable, str(KILLED), event, str(number)),
            *(f"--src={path}", f"--tgt={path}", f"--datasets_dir={folder}"),
            *("--n_centroids=16", f"--n_iter={ITERATIONS}", "--feat_dim=24", *further),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def assert_same(folder, expected):
    for kind, pattern in (("centroids", "*_some_centroids16*.npy"), ("index", "*_cluster_index_*.npy")):
        (path,) = (folder / "clustering").glob(pattern)
        assert np.array_equal(np.load(path), expected[kind])
    left = {path.name for path in (folder / "cluster_centroids").iterdir()}
    assert not [name for name in left if name.startswith(".") or "work" in name or "sample" in name]


@pytest.mark.parametrize("memory", [[], ["--memory=0.001"]], ids=["in memory", "on disk"])
def test_killed_at_every_iteration_in_turn(case, tmp_path, memory):
    path, expected = case
    for done in range(ITERATIONS):
        killed = run("iteration", 1, path, tmp_path, *memory)
        assert killed.returncode == -signal.SIGKILL
        # each run does the one iteration that follows those of the runs before it
        resumed = [line for line in killed.stdout.splitlines() if line.startswith("resuming")]
        assert resumed == ([f"resuming after iteration {done} of {ITERATIONS}"] if done else [])
        assert ("read the sample" in killed.stdout) == (not memory or not done)
    last = run("iteration", 1, path, tmp_path, *memory)
    assert last.returncode == 0, last.stderr
    assert_same(tmp_path, expected)


def test_killed_again_and_again_at_any_change_of_any_file(case, tmp_path):
    """Each run dies one event later than the one before: at renames, appends, removals and syncs alike."""
    path, expected = case
    killed = run("row", 1000, path, tmp_path, "--memory=0.001")  # amid the scratch file
    assert killed.returncode == -signal.SIGKILL
    deaths = 0
    while (done := run("file", deaths + 1, path, tmp_path, "--memory=0.001")).returncode != 0:
        assert done.returncode == -signal.SIGKILL, done.stderr
        deaths += 1
    assert deaths >= 7
    assert_same(tmp_path, expected)


def test_a_target_that_was_half_assigned_is_continued(case, tmp_path):
    path, expected = case
    assert run("file", 10**9, path, tmp_path, "--memory=0.001").returncode == 0
    (index,) = (tmp_path / "cluster_centroids").glob("*_cluster_index_*.npy")
    index.unlink()
    assert run("file", 5, path, tmp_path, "--memory=0.001").returncode == -signal.SIGKILL
    again = run("file", 10**9, path, tmp_path, "--memory=0.001")
    assert "is there, made by this same run" in again.stdout
    assert_same(tmp_path, expected)


def test_a_finished_run_is_not_done_again_but_another_one_is(case, tmp_path):
    path, expected = case
    assert run("file", 10**9, path, tmp_path).returncode == 0
    again = run("file", 10**9, path, tmp_path)
    assert "iteration" not in again.stdout
    assert "is assigned already" in again.stdout
    anew = run("file", 10**9, path, tmp_path, "--restart")
    assert f"iteration {ITERATIONS}/{ITERATIONS}" in anew.stdout
    assert_same(tmp_path, expected)


def test_a_changed_source_is_clustered_anew(tmp_path):
    path = write_features(tmp_path / "some.h5", features(150, 8, 24, seed=6))
    assert run("iteration", 3, path, tmp_path).returncode == -signal.SIGKILL
    write_features(path, features(150, 8, 24, seed=5))
    changed = run("file", 10**9, path, tmp_path)
    assert "an interrupted run of another source" in changed.stderr
    assert f"iteration {ITERATIONS}/{ITERATIONS}" in changed.stdout
    assert_same(tmp_path, cluster(path, tmp_path / "clean", 16, n_iter=ITERATIONS))
