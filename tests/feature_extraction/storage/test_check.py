"""Whether a feature file still holds what was written: every bit of every array, every image, every set."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers.common import DATA
from helpers.storing import flip, source

from feature_extraction.storage import check, store
from feature_extraction.storage.check import check_file
from feature_extraction.storage.output import Output
from feature_extraction.storage.reader import ArrayReader

GRID = {"kind": "grid", "dataset": "coco", "split": "valid", "grid_size": 2, "precision": "float32"}
BOXES = {"kind": "boxes", "dataset": "images", "split": "", "num_boxes": 3, "precision": "float32"}


def arrays(kind: str, seed: int) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    if kind == "grid":
        return {"features": chance.random((2, 2, 5), dtype=np.float32)}
    return {
        "features": chance.random((3, 5), dtype=np.float32),
        "obj_id": chance.integers(0, 1600, 3),
        "boxes": chance.random((3, 4), dtype=np.float32),
        "img_w": np.array(640),
        "img_h": np.array(480),
    }


def written(path: Path, kind: str, count: int, **also: Any) -> Path:
    output = Output(path, {**(GRID if kind == "grid" else BOXES), **also}, {})
    ids = [str(i) for i in range(count)]
    for i in ids:
        output.add(i, arrays(kind, int(i)), source(i))
    output.finish({i: source(i).stamp for i in ids}, [])
    output.close()
    return path


def texts(path: Path, **options: Any) -> list[str]:
    return [f"{f.level}: {f.text}" for f in check_file(path, **options)]


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_nothing_is_said_of_a_sound_and_whole_file(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "f.h5", kind, 7, dataset="images", split="")
    seen: list[tuple[int, int]] = []
    assert check_file(path, expected_ids=[str(i) for i in range(7)], progress=lambda *n: seen.append(n)) == []
    assert seen[-1] == (7, 7)


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_any_flipped_bit_of_any_array_is_found(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path / "f.h5", kind, 4, dataset="images", split="")
    whole = path.read_bytes()
    with h5py.File(path) as file:
        places = [
            (i, name, file[i][name].id.get_offset(), file[i][name].nbytes) for i in file for name in file[i]
        ]  # fmt: skip
    chance = random.Random(0)
    for image_id, name, offset, size in places:
        data = bytearray(whole)
        data[offset + chance.randrange(size)] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        (finding,) = check_file(path)
        assert (finding.level, finding.image) == ("error", image_id)
        assert f"'{name}' is damaged" in finding.text


def test_no_flipped_bit_of_the_file_changes_what_is_read_without_a_finding(tmp_path: Path) -> None:
    """Whatever bit of the whole file is flipped, of HDF5's own bookkeeping too: either it is found, or what readers get
    is what was written."""
    path = written(tmp_path / "f.h5", "boxes", 3)
    whole = path.read_bytes()
    chance = random.Random(1)
    found = 0
    for _ in range(200):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        if check_file(path):
            found += 1
            continue
        with store.open_features(path) as file:
            assert store.image_ids(file) == ["0", "1", "2"]
            for i in "012":
                for name, array in store.read_image(file, i).items():
                    np.testing.assert_array_equal(array, arrays("boxes", int(i))[name])
    assert found > 25


def test_missing_and_unexpected_images_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5", "boxes", 3)
    assert texts(path, expected_ids=["0", "1", "7"]) == [
        "error: '7' is missing",
        "error: '2' is not expected in this file",
    ]
    with h5py.File(path, "r+") as file:
        del file["1"]
    assert texts(path) == ["error: holds 2 images, 3 were written"]


def test_an_unfinished_set_is_named_from_the_catalogue(tmp_path: Path) -> None:
    assert texts(written(tmp_path / "f.h5", "grid", 3)) == [
        "warning: 3 of the 40,504 images of the published split (COCO valid)"
    ]
    assert texts(tmp_path / "f.h5", published_count=3) == []
    assert texts(tmp_path / "f.h5", published_count=2) == ["warning: 3 images, the published split (COCO valid) has 2"]


def test_synthetic_weights_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "f.h5", "boxes", 1, synthetic_weights=True)
    assert texts(path) == ["warning: was made with SYNTHETIC weights: its values mean nothing"]


def remove(file: h5py.File) -> None:
    del file["1/obj_id"]


def add(file: h5py.File) -> None:
    file["1/more"] = np.zeros(3)


def reshape(file: h5py.File) -> None:
    del file["1/boxes"]
    file["1/boxes"] = np.zeros((2, 4), np.float32)


def retype(file: h5py.File) -> None:
    del file["1/features"]
    file["1/features"] = np.zeros((3, 5), np.float64)


def link(file: h5py.File) -> None:
    del file["1/boxes"]
    file["1/boxes"] = h5py.SoftLink("/0/boxes")


@pytest.mark.parametrize("sums", [True, False])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove, "obj_id"),
        (add, "'more'"),
        (reshape, "boxes"),
        (retype, "features"),
        (link, "soft link"),
    ],
)
def test_arrays_that_are_not_those_of_an_image_are_named(tmp_path: Path, change: Any, said: str, sums: bool) -> None:
    path = written(tmp_path / "f.h5", "boxes", 4)
    with h5py.File(path, "r+") as file:
        change(file)
        if not sums:
            for image_id in file:
                del file[image_id].attrs["crc32"]
    errors = [f for f in check_file(path) if f.level == "error"]
    assert {f.image for f in errors} == {"1"}
    assert any(said in f.text for f in errors)


def boxes_of(rows: int) -> dict[str, Any]:
    return {
        "features": np.ones((rows, 5), np.float32),
        "obj_id": np.arange(rows),
        "boxes": np.ones((rows, 4), np.float32),
        "img_w": np.array(640),
        "img_h": np.array(480),
        "obj_conf": np.ones(rows, np.float32),
        "features_fc7": np.ones((rows, 5), np.float32),
    }


def of_varying_rows(path: Path, rows: dict[str, dict[str, Any]], **also: Any) -> Path:
    output = Output(path, {**BOXES, "num_boxes": 6, "option_min_boxes": 2, **also}, {})
    for image_id, found in rows.items():
        output.add(image_id, found, source(image_id))
    output.finish({i: source(i).stamp for i in rows}, [])
    output.close()
    return path


def test_the_number_of_boxes_may_vary_within_what_the_file_says(tmp_path: Path) -> None:
    rows = {str(i): boxes_of(2 + i % 5) for i in range(12)}
    assert check_file(of_varying_rows(tmp_path / "f.h5", rows)) == []
    errors = texts(of_varying_rows(tmp_path / "g.h5", {**rows, "3": boxes_of(1), "4": boxes_of(7)}))
    assert errors == ["error: '3': 1 boxes, expected 2 to 6", "error: '4': 7 boxes, expected 2 to 6"]
    uneven = {**boxes_of(3), "obj_conf": np.ones(2, np.float32)}
    assert texts(of_varying_rows(tmp_path / "h.h5", {**rows, "5": uneven})) == [
        "error: '5': obj_conf have the shape (2,), expected (3,)"
    ]
    wide = {**boxes_of(3), "features": np.ones((3, 6), np.float32)}
    assert texts(of_varying_rows(tmp_path / "i.h5", {**rows, "5": wide})) == [
        "error: '5': features have the shape (3, 6), expected (3, 5)"
    ]


def test_given_boxes_may_be_any_number(tmp_path: Path) -> None:
    identity = {"kind": "boxes", "option_boxes_sha256": "ab"}
    output = Output(tmp_path / "f.h5", identity, {})
    for i in range(1, 9):
        output.add(str(i), boxes_of(i * i), source(str(i)))
    output.finish({str(i): source(str(i)).stamp for i in range(1, 9)}, [])
    output.close()
    assert check_file(tmp_path / "f.h5") == []


def test_arrays_of_many_shapes_are_read_past_hdf5_and_every_bit_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {str(i): boxes_of(2 + i % 5) for i in range(50)}
    path = of_varying_rows(tmp_path / "f.h5", rows)
    asked: list[str] = []
    ask = ArrayReader._ask
    monkeypatch.setattr(ArrayReader, "_ask", lambda self, group, name: asked.append(name) or ask(self, group, name))
    assert check_file(path) == []
    assert len(asked) < 50, "of 350 arrays each shape is asked for once"
    with h5py.File(path) as file:
        at = file["37/boxes"].id.get_offset()
    flip(path, at)
    assert [f.image for f in check_file(path)] == ["37"]


def test_files_without_checksums_get_the_check_of_their_structure_and_it_is_said(tmp_path: Path) -> None:
    shutil.copy(DATA / "earlier" / "finished.h5", tmp_path / "f.h5")
    found = check_file(tmp_path / "f.h5")
    assert found[-1].level == "note"
    assert "the structure was checked, the values not" in found[-1].text
    with h5py.File(tmp_path / "p.h5", "w") as file:
        for i in range(3):
            file[f"{i}/features"] = np.zeros((8, 8, 4), np.float32)
    assert [f.level for f in check_file(tmp_path / "p.h5")] == ["note", "note"]
    with h5py.File(tmp_path / "p.h5", "a") as file:
        file["3/features"] = np.zeros((7, 8, 4), np.float32)
    (error,) = [f for f in check_file(tmp_path / "p.h5") if f.level == "error"]
    assert error.image == "3"


def test_what_is_no_feature_file_is_one_finding(tmp_path: Path) -> None:
    (tmp_path / "f.h5").write_bytes(b"<html>")
    (found,) = check_file(tmp_path / "f.h5")
    assert found.level == "error"
    assert "is not an HDF5 file" in found.text
    assert [f.level for f in check_file(tmp_path / "none.h5")] == ["error"]


def test_a_large_file_is_checked_by_several_processes_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path / "f.h5", "boxes", 30)
    with h5py.File(path) as file:
        at = file["17/boxes"].id.get_offset()
    flip(path, at)
    alone = check_file(path)
    monkeypatch.setattr(check, "LARGE", 0)
    monkeypatch.setattr(check, "usable_cpus", lambda: 3.5)
    seen: list[int] = []
    assert check_file(path, progress=lambda done, of: seen.append(done)) == alone
    assert len(alone) == 1
    assert seen[-1] == 30
