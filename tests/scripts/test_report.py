"""The page about what was made: every file's state, figures in the page, nothing of a user's file names as HTML."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.common import DATA

from scripts.report import __main__ as report


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    """The golden k-means tree as datasets/, with a box file, a cut file, an unfinished one and a report of failures."""
    shutil.copytree(DATA / "kmeans", tmp_path / "d")
    folder = tmp_path / "d/VG/features"
    with h5py.File(folder / "maskrcnn_boxes36.h5", "w") as f:
        for i in ("1", "2"):
            f[f"{i}/features"] = np.ones((36, 4), np.float32)
            f[f"{i}/boxes"] = np.tile(np.float32([0, 0, 50, 10]), (36, 1))
            f[f"{i}/obj_id"] = np.arange(36) % 3
            f[f"{i}/img_w"], f[f"{i}/img_h"] = 100, 50
    failure = {"id": "x", "path": "/images/<b>x.jpg", "reason": "truncated & more"}
    (folder / "maskrcnn_boxes36.report.json").write_text(json.dumps({"failed": [failure]}))
    (tmp_path / "d/COCO/features/maskrcnn_test_grid8.h5.work").mkdir()
    (tmp_path / "d/COCO/features/maskrcnn_test_boxes36.h5").write_bytes(b"\x89HDF cut")
    stats = {
        "training": {"n_centroids": 8, "faiss": "1.15.1", "source": {"path": "/d/f.h5"}},
        "rows": 448,
        "rows_used": 448,
        "iterations": [
            {"objective": 9.0, "imbalance": 1.5, "empty_split": 2},
            {"objective": 7.0, "imbalance": 1.2, "empty_split": 1},
        ],
    }
    name = "maskrcnn_mscoco_train_centroids8_iter20_d64_grid8.npy.stats.json"
    (tmp_path / "d/cluster_centroids" / name).write_text(json.dumps(stats))
    return tmp_path / "d"


def test_states_of_the_sixteen_files(datasets: Path) -> None:
    entries = {e.name: e for e in report.file_entries(datasets)}
    assert len(entries) == 16
    assert entries["COCO/features/maskrcnn_train_grid8.h5"].state == "whole"
    assert entries["COCO/features/maskrcnn_train_grid8.h5"].images == 7
    assert entries["COCO/features/maskrcnn_test_grid8.h5"].state == "unfinished"
    assert entries["COCO/features/maskrcnn_test_boxes36.h5"].state == "unfinished"
    assert "not a whole HDF5 file" in entries["COCO/features/maskrcnn_test_boxes36.h5"].why
    assert entries["GQA/features/maskrcnn_grid8.h5"].state == "missing"
    assert entries["VG/features/maskrcnn_boxes36.h5"].failures[0]["id"] == "x"
    assert "100.0% of all feature values" in entries["VG/features/maskrcnn_boxes36.h5"].summary


def test_vocabularies_count_words(datasets: Path) -> None:
    (found,) = report.vocabularies(datasets)
    assert "8 words from 448 of 448 rows" in found["summary"]
    assert "imbalance 1.20, 3 empty clusters split" in found["summary"]
    targets = {t["name"]: t for t in found["targets"]}
    assert set(targets) == {"mscoco_train", "mscoco_valid", "vg"}
    golden = "maskrcnn_mscoco_train_vg_cluster_index_centroids8_iter20_d64_grid8.npy"
    index = np.load(datasets / "cluster_centroids" / golden)
    assert targets["vg"]["rows"] == 64
    assert targets["vg"]["used"] == len(np.unique(index))


def test_the_page_is_one_file_and_escapes_names(datasets: Path, tmp_path: Path) -> None:
    output = tmp_path / "out/report.html"
    report.write(datasets, output)
    page = output.read_text()
    assert "/images/&lt;b&gt;x.jpg" in page
    assert "<b>x.jpg" not in page
    assert "truncated &amp; more" in page
    assert set(re.findall(r'(?:src|href)="([^":]{0,4}:)', page)) == {"data:"}
    assert page.count("<img") >= 9


def test_a_wrong_folder_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["report.py", "--datasets", str(tmp_path / "none")])
    assert report.main() == 1
    assert "is not a folder" in capsys.readouterr().err
