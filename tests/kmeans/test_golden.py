"""Against the outputs of the published script on the same feature files (tests/data/kmeans)."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kmeans import load_vocabulary
from kmeans.cli import main

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parents[1] / "data" / "kmeans"
TARGETS = {"mscoco_train": 448, "mscoco_valid": 128, "vg": 64}


class NumbersOnly(pickle.Unpickler):
    """Knows arrays and nothing else: what a pickle of numbers may contain."""

    def find_class(self, module, name):
        allowed = {("numpy", "ndarray"), ("numpy", "dtype"), ("numpy._core.multiarray", "_reconstruct")}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.fixture
def datasets(tmp_path):
    for name in ("COCO", "VG"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    return tmp_path


def arguments(datasets, k):
    return [f"--n_centroids={k}", "--feat_dim=64", f"--datasets_dir={datasets}"]


def assert_golden(datasets, k):
    """Everything the published script wrote is there, with the same values."""
    expected = sorted((GOLDEN / "cluster_centroids").glob(f"*_{k}_iter*.pkl"))
    expected += sorted((GOLDEN / "cluster_centroids").glob(f"*centroids{k}_iter*.npy"))
    assert len(expected) == 7
    for path in expected:
        for folder in ("cluster_centroids", "clustering"):
            ours = datasets / folder / path.name
            if path.suffix == ".npy":
                want, got = np.load(path), np.load(ours)
                assert got.dtype == want.dtype
                assert np.array_equal(got, want)
                continue
            with open(path, "rb") as a, open(ours, "rb") as b:
                want, got = NumbersOnly(a).load(), NumbersOnly(b).load()
            assert list(got) == list(want)
            for name in want:
                assert got[name].dtype == want[name].dtype
                assert got[name].flags.writeable
                assert np.array_equal(got[name], want[name])


@pytest.mark.parametrize("k", [8, 1])
@pytest.mark.parametrize("further", [[], ["--memory=0.001"], ["--assignment=bfloat16"]])
def test_the_outputs_are_the_published_ones(datasets, k, further):
    assert main([*arguments(datasets, k), "--tgt", *TARGETS, *further]) == 0
    assert_golden(datasets, k)


@pytest.mark.parametrize("folder", ["kmeans", "feature_extraction"])
def test_the_readmes_command_from_both_folders(datasets, folder):
    command = [
        sys.executable, "run_kmeans.py", "--src=mscoco_train", "--tgt", "mscoco_train", "mscoco", "valid",
        "vg",
    ]  # fmt: skip
    done = subprocess.run(
        [*command, *arguments(datasets, 8)], cwd=ROOT / folder, capture_output=True, text=True, check=True
    )
    assert "--tgt mscoco valid: understood as mscoco_valid\n" in done.stdout
    assert "next: " in done.stdout
    assert_golden(datasets, 8)


def test_assign_only_works_for_every_target_and_for_the_source(datasets):
    """The published script stops with a NameError where target and source are the same."""
    shutil.copytree(GOLDEN / "cluster_centroids", datasets / "clustering", ignore=lambda _, names: [
        n for n in names if "_mscoco_train_centroids8" not in n
    ])  # fmt: skip
    assert main([*arguments(datasets, 8), "--assign_only", "--tgt", *TARGETS]) == 0
    (datasets / "cluster_centroids" / "maskrcnn_mscoco_train_centroids8_iter20_d64_grid8.npy").symlink_to(
        datasets / "clustering" / "maskrcnn_mscoco_train_centroids8_iter20_d64_grid8.npy"
    )
    assert_golden(datasets, 8)


def test_the_vocabulary_reads_back_what_was_written(datasets):
    assert main([*arguments(datasets, 8), "--tgt", *TARGETS]) == 0
    stem = "maskrcnn_mscoco_train_centroids8_iter20_d64_grid8.npy"
    vocabulary = load_vocabulary(datasets / "clustering" / stem)
    assert vocabulary.centroids.shape == (8, 64)
    assert {t: 64 * len(images) for t, images in vocabulary.images.items()} == TARGETS
    for path in (GOLDEN / "cluster_centroids").glob("*_8_iter*.pkl"):
        with open(path, "rb") as file:
            for name, ids in NumbersOnly(file).load().items():
                assert np.array_equal(vocabulary.ids(name), ids)
