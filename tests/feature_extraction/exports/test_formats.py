"""Each format, read back by a reader written here from the published layout (FACTS: from the published programs)."""

from __future__ import annotations

import base64
import csv
import io
import json
import pickle
import pickletools
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np
import pytest
from helpers.exporting import COCO, box_arrays, coco_file, export, grid_arrays, stored, write_file

from feature_extraction.errors import StoreError

Item = dict[str, Any]


def lmdb_items(out: Path) -> tuple[list[bytes], dict[bytes, Item]]:
    """As ViLBERT and MMF open one."""
    with lmdb.open(str(out), readonly=True, lock=False, readahead=False, meminit=False) as env, env.begin() as found:
        keys = pickle.loads(found.get(b"keys"))
        return keys, {key: pickle.loads(found.get(key)) for key in keys}


def npy_dict(path: Path) -> Item:
    return np.load(path, allow_pickle=True).item()


def equal(found: Any, expected: Any) -> bool:
    """The same numbers in the same type."""
    return np.array_equal(found, expected) and np.asarray(found).dtype == np.asarray(expected).dtype


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return coco_file(tmp_path / "coco.h5")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """What the published files hold: neither probabilities nor confidences."""
    return coco_file(tmp_path / "bare.h5", probs=False, conf=False)


def test_vilbert_npy(source: Path, tmp_path: Path) -> None:
    out = export(source, "vilbert-npy", tmp_path / "out")
    images = stored(source)
    assert {path.name for path in out.iterdir()} == {f"{image_id}.npy" for image_id in COCO}
    for image_id, arrays in images.items():
        item = npy_dict(out / f"{image_id}.npy")
        assert list(item) == [
            "bbox", "num_boxes", "objects", "image_width", "image_height", "cls_prob", "image_id", "features",
        ]  # fmt: skip
        assert equal(item["features"], arrays["features"])
        assert equal(item["bbox"], arrays["boxes"])
        assert equal(item["cls_prob"], arrays["cls_prob"])
        assert equal(item["objects"], arrays["cls_prob"][:, 1:].argmax(1))
        assert (item["image_id"], item["image_width"], item["image_height"]) == (image_id, 640, 480)
        assert item["num_boxes"] == 2  # the last of the three rows has no confidence
        assert item["features"].flags.writeable


def test_vilberts_slip_by_name(source: Path, tmp_path: Path) -> None:
    """Of all rows but the first, over all classes, background too."""
    out = export(source, "vilbert-npy", tmp_path / "out", quirks=("objects",))
    item = npy_dict(out / f"{COCO[0]}.npy")
    assert equal(item["objects"], stored(source)[COCO[0]]["cls_prob"][1:].argmax(1))
    assert len(item["objects"]) == 2


def test_vilbert_lmdb_under_bare_numbers(bare: Path, tmp_path: Path) -> None:
    out = export(bare, "vilbert-lmdb", tmp_path / "out", keys="number")
    keys, items = lmdb_items(out)
    assert keys == [b"9", b"42", b"133", b"285", b"1000"]
    for image_id, arrays in stored(bare).items():
        item = items[str(int(image_id[-12:])).encode()]
        assert set(item) == {"image_id", "image_h", "image_w", "num_boxes", "boxes", "features"}
        assert (item["image_id"], item["image_h"], item["image_w"]) == (str(int(image_id[-12:])), 480, 640)
        assert equal(item["features"].reshape(-1, 8), arrays["features"])
        assert equal(item["boxes"].reshape(-1, 4), arrays["boxes"])
        assert item["num_boxes"] == 3  # all rows: how many have a confidence is not known


def test_the_older_lmdb_in_base64(source: Path, tmp_path: Path) -> None:
    _, items = lmdb_items(export(source, "vilbert-lmdb", tmp_path / "out", quirks=("base64",)))
    arrays = stored(source)[COCO[1]]
    item = items[COCO[1].encode()]
    rows = item["num_boxes"]
    for name, columns in (("features", 8), ("boxes", 4), ("cls_prob", 5)):
        found = np.frombuffer(base64.b64decode(item[name]), np.float32).reshape(rows, columns)
        assert equal(found, arrays[name])


def test_mmf_npy(source: Path, tmp_path: Path) -> None:
    out = export(source, "mmf-npy", tmp_path / "out")
    for image_id, arrays in stored(source).items():
        info = npy_dict(out / f"{image_id}_info.npy")
        assert equal(np.load(out / f"{image_id}.npy"), arrays["features"])
        assert set(info) == {"bbox", "num_boxes", "objects", "cls_prob", "image_width", "image_height"}
        assert equal(info["cls_prob"], arrays["cls_prob"][:, 1:])
        assert equal(info["objects"], arrays["obj_id"])
        assert info["num_boxes"] == 2
        assert equal(info["bbox"], arrays["boxes"])


def test_mmf_npy_of_a_grid_is_features_alone(tmp_path: Path) -> None:
    source = write_file(tmp_path / "grid.h5", {"7": grid_arrays(7)}, {"schema_version": 1, "kind": "grid"})
    out = export(source, "mmf-npy", tmp_path / "out")
    assert [path.name for path in out.iterdir()] == ["7.npy"]
    assert equal(np.load(out / "7.npy"), grid_arrays(7)["features"])


def test_mmf_lmdb_without_probabilities(bare: Path, tmp_path: Path) -> None:
    keys, items = lmdb_items(export(bare, "mmf-lmdb", tmp_path / "out"))
    assert keys == [image_id.encode() for image_id in COCO]
    item = items[COCO[2].encode()]
    assert (item["feature_path"], item["cls_prob"]) == (COCO[2], None)
    assert equal(item["features"], stored(bare)[COCO[2]]["features"])


def tsv(out: Path) -> list[Item]:
    names = (
        "img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf", "num_boxes", "boxes",
        "features",
    )  # fmt: skip
    types = {"objects_id": "<i8", "objects_conf": "<f4", "attrs_id": "<i8", "attrs_conf": "<f4"}
    csv.field_size_limit(1 << 30)
    with out.open(newline="") as file:
        items = list(csv.DictReader(file, names, delimiter="\t"))
    for item in items:
        rows = int(item["num_boxes"])
        for name, dtype in types.items():
            item[name] = np.frombuffer(base64.b64decode(item[name]), dtype)
            assert item[name].shape == (rows,)
        for name in ("boxes", "features"):
            item[name] = np.frombuffer(base64.b64decode(item[name]), "<f4").reshape(rows, -1)
    return items


def test_lxmert_tsv(source: Path, tmp_path: Path) -> None:
    items = tsv(export(source, "lxmert-tsv", tmp_path / "out.tsv"))
    assert [item["img_id"] for item in items] == list(COCO)
    for item in items:
        arrays = stored(source)[item["img_id"]]
        assert (item["img_h"], item["img_w"], item["num_boxes"]) == ("480", "640", "3")
        assert equal(item["features"], arrays["features"])
        assert equal(item["objects_id"], arrays["obj_id"])
        assert equal(item["objects_conf"], arrays["cls_prob"][:, 1:].max(1))
        assert not item["attrs_id"].any()
        assert not item["attrs_conf"].any()
        assert item["boxes"][0].tolist() == [0, 5, 640, 480]  # -3, 5, 650, 485 in the file
        assert equal(item["boxes"][1:], arrays["boxes"][1:])


def test_lxmert_tsv_without_confidences_says_so(bare: Path, tmp_path: Path) -> None:
    assert not tsv(export(bare, "lxmert-tsv", tmp_path / "out.tsv"))[0]["objects_conf"].any()
    notes = json.loads((tmp_path / "out.tsv.export.json").read_text())["notes"]
    assert any("objects_conf is zeros" in note and "--class_probs" in note for note in notes)
    assert any("5 boxes of 5 images" in note for note in notes)


@pytest.mark.parametrize("rows", [0, 2, 36, 40])
def test_fga_h5_holds_the_mean_and_36_rows(rows: int, tmp_path: Path) -> None:
    arrays = {name: array[:rows] if array.ndim else array for name, array in box_arrays(0, rows=40).items()}
    source = write_file(tmp_path / "a.h5", {"1": arrays})
    with h5py.File(export(source, "fga-h5", tmp_path / "out.h5", split="train")) as file:
        (found,) = file["train_features"][()]
        assert file["train_image_ids"][()].tolist() == [b"1"]
    assert (found.shape, found.dtype) == ((37, 8), np.float32)
    assert np.allclose(found[0], arrays["features"].mean(0) if rows else 0)
    kept = min(rows, 36)
    assert equal(found[1 : kept + 1], arrays["features"][:kept])
    assert not found[kept + 1 :].any()


def test_the_list_decides_the_order(source: Path, tmp_path: Path) -> None:
    """fga finds an image by its place, LXMERT takes the first so many lines."""
    wanted = [COCO[3], COCO[0]]
    ids = tmp_path / "ids.txt"
    ids.write_text("\n".join(wanted) + "\n")
    with h5py.File(export(source, "fga-h5", tmp_path / "out.h5", ids=ids)) as file:
        assert [name.decode() for name in file["val_image_ids"][()]] == wanted
        assert equal(file["val_features"][1, 1:4], stored(source)[COCO[0]]["features"])
    assert [item["img_id"] for item in tsv(export(source, "lxmert-tsv", tmp_path / "out.tsv", ids=ids))] == wanted


def test_npz(source: Path, tmp_path: Path) -> None:
    out = export(source, "npz", tmp_path / "out")
    for image_id, arrays in stored(source).items():
        with np.load(out / f"{image_id}.npz", allow_pickle=False) as found:
            assert set(found) == set(arrays)
            assert all(equal(found[name], array) for name, array in arrays.items())
        assert zipfile.ZipFile(out / f"{image_id}.npz").testzip() is None


def test_safetensors(source: Path, tmp_path: Path) -> None:
    """The format is a length, a JSON head, and the numbers behind it."""
    out = export(source, "safetensors", tmp_path / "out", per_file=2)
    found: dict[str, Any] = {}
    for path in sorted(out.iterdir()):
        data = path.read_bytes()
        size = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + size])
        ids = json.loads(head.pop("__metadata__")["ids"])
        assert {name.partition("/")[0] for name in head} == set(ids)
        for name, said in head.items():
            start, stop = said["data_offsets"]
            dtype = {"F32": "<f4", "I64": "<i8"}[said["dtype"]]
            found[name] = np.frombuffer(data[8 + size :][start:stop], dtype).reshape(said["shape"])
    assert [path.name for path in sorted(out.iterdir())] == [f"{n:05d}.safetensors" for n in range(3)]
    expected = {f"{i}/{name}": array for i, arrays in stored(source).items() for name, array in arrays.items()}
    assert found.keys() == expected.keys()
    assert all(equal(found[name], array) for name, array in expected.items())


def test_webdataset(source: Path, tmp_path: Path) -> None:
    out = export(source, "webdataset", tmp_path / "out", per_file=2)
    samples: dict[str, Item] = {}
    for path in sorted(out.iterdir()):
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, name = member.name.partition(".")
                data = archive.extractfile(member)
                assert data is not None
                samples.setdefault(key, {})[name] = data.read()
    assert [path.name for path in sorted(out.iterdir())] == ["00000.tar", "00001.tar", "00002.tar"]
    for image_id, arrays in stored(source).items():
        sample = samples.pop(image_id)
        assert json.loads(sample.pop("json")) == {"id": image_id, "img_w": 640, "img_h": 480}
        found = {name.removesuffix(".npy"): np.load(io.BytesIO(data)) for name, data in sample.items()}
        assert found.keys() == arrays.keys() - {"img_w", "img_h"}
        assert all(equal(array, arrays[name]) for name, array in found.items())
    assert not samples


def test_a_variable_number_of_rows(tmp_path: Path) -> None:
    images = {str(rows): box_arrays(rows, rows=rows) for rows in (10, 37, 100)}
    source = write_file(tmp_path / "a.h5", images)
    items = tsv(export(source, "lxmert-tsv", tmp_path / "out.tsv"))
    assert {item["img_id"]: len(item["features"]) for item in items} == {"10": 10, "37": 37, "100": 100}
    _, packed = lmdb_items(export(source, "mmf-lmdb", tmp_path / "mmf"))
    assert all(equal(packed[i.encode()]["features"], arrays["features"]) for i, arrays in images.items())


@pytest.mark.parametrize("form", ["vilbert-npy", "vilbert-lmdb", "lxmert-tsv"])
def test_an_image_without_boxes_is_refused_where_readers_stop_or_divide_by_their_number(
    form: str, tmp_path: Path
) -> None:
    none = {name: array[:0] if array.ndim else array for name, array in box_arrays(1).items()}
    source = write_file(tmp_path / "a.h5", {"1": none, "2": box_arrays(2)})
    with pytest.raises(StoreError, match=r"image '1' has no boxes, .* readers of .* leave it out \(--ids\)"):
        export(source, form, tmp_path / "out")
    export(source, "mmf-npy", tmp_path / "mmf")


def test_another_array_as_the_features(tmp_path: Path) -> None:
    arrays = {**box_arrays(0), "features_fc7": np.full((3, 8), 7, np.float32)}
    source = write_file(tmp_path / "a.h5", {"1": arrays})
    out = export(source, "mmf-npy", tmp_path / "out", features="features_fc7")
    assert equal(np.load(out / "1.npy"), arrays["features_fc7"])


def test_probabilities_without_background(tmp_path: Path) -> None:
    """The file says that the background's column is not stored: none is taken off, and ViLBERT is refused."""
    made = {"schema_version": 1, "kind": "boxes", "class_probs": "foreground"}
    arrays = box_arrays(0)
    source = write_file(tmp_path / "a.h5", {"1": arrays}, made)
    _, items = lmdb_items(export(source, "mmf-lmdb", tmp_path / "mmf"))
    assert equal(items[b"1"]["cls_prob"], arrays["cls_prob"])
    (item,) = tsv(export(source, "lxmert-tsv", tmp_path / "out.tsv"))
    assert equal(item["objects_conf"], arrays["cls_prob"].max(1))
    with pytest.raises(StoreError, match="without the background"):
        export(source, "vilbert-npy", tmp_path / "npy")


def test_the_background_as_one_of_the_classes(tmp_path: Path) -> None:
    """MMF and ViLBERT count classes from the background then, and MMF keeps its column."""
    arrays = {**box_arrays(0), "obj_id": np.array([-1, 0, 3])}
    source = write_file(tmp_path / "a.h5", {"1": arrays}, {"kind": "boxes", "option_background": True})
    _, items = lmdb_items(export(source, "mmf-lmdb", tmp_path / "mmf"))
    assert items[b"1"]["objects"].tolist() == [0, 1, 4]
    assert equal(items[b"1"]["cls_prob"], arrays["cls_prob"])
    item = npy_dict(export(source, "vilbert-npy", tmp_path / "npy") / "1.npy")
    assert item["objects"].tolist() == [0, 1, 4]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("boxes", (3, 3)),
        ("obj_id", (2,)),
        ("cls_prob", (3,)),
        ("img_w", (1,)),
        ("features", (3,)),
        ("features", (3, 9)),
    ],
)
def test_another_layout_is_told_in_one_line(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays = {**box_arrays(0), name: np.zeros(shape, box_arrays(0)[name].dtype)}
    source = write_file(tmp_path / "a.h5", {"1": box_arrays(1), "2": arrays})
    for form in ("lxmert-tsv", "fga-h5", "vilbert-npy", "npz"):
        with pytest.raises(StoreError, match=f"image '2' has .*{name} of shape .*: this is another layout"):
            export(source, form, tmp_path / form)


def test_features_of_eight_bytes_are_written_in_four(tmp_path: Path) -> None:
    arrays = {**box_arrays(0), "features": np.arange(24, dtype=np.float64).reshape(3, 8)}
    source = write_file(tmp_path / "a.h5", {"1": arrays})
    with h5py.File(export(source, "fga-h5", tmp_path / "out.h5")) as file:
        assert equal(file["val_features"][0, 1:4], arrays["features"].astype(np.float32))


def test_pickles_name_nothing_that_old_numpy_lacks(source: Path, tmp_path: Path) -> None:
    """numpy.ndarray and numpy.dtype alone, no function of NumPy 2."""
    out = export(source, "vilbert-npy", tmp_path / "out")
    with (out / f"{COCO[0]}.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        names = {arg for code, arg, _ in pickletools.genops(file.read()) if code.name == "GLOBAL"}
    assert names == {"numpy ndarray", "numpy dtype"}


@pytest.mark.parametrize("form", ["vilbert-npy", "vilbert-lmdb", "mmf-lmdb", "lxmert-tsv", "fga-h5"])
def test_a_grid_has_no_boxes(form: str, tmp_path: Path) -> None:
    source = write_file(tmp_path / "grid.h5", {"7": grid_arrays(7)}, {"schema_version": 1, "kind": "grid"})
    with pytest.raises(StoreError, match=r"holds no \w+, which .* needs: extract with --kind boxes"):
        export(source, form, tmp_path / "out")


def test_vilbert_npy_without_probabilities_names_the_flag(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="extract with --class_probs"):
        export(bare, "vilbert-npy", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bare.h5"]


def test_float16_takes_half_and_says_what_it_lost(source: Path, tmp_path: Path) -> None:
    out = export(source, "mmf-npy", tmp_path / "out", dtype="float16")
    record = json.loads((tmp_path / "out.export.json").read_text())
    error, largest = 0.0, 0.0
    for image_id, arrays in stored(source).items():
        found = np.load(out / f"{image_id}.npy")
        assert found.dtype == np.float16
        error = max(error, float(np.abs(arrays["features"].astype(np.float64) - found).max()))
        largest = max(largest, float(arrays["features"].max()))
        assert equal(npy_dict(out / f"{image_id}_info.npy")["bbox"], arrays["boxes"])
    assert record["loss"]["largest_error"] == error > 0
    assert record["loss"]["largest_value"] == largest
    assert any(note.startswith("float16 moved features by at most") for note in record["notes"])


def test_float16_overflow_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    arrays = box_arrays(0)
    arrays["features"][1, 2] = 70000
    source = write_file(tmp_path / "a.h5", {"1": box_arrays(1), "2": arrays})
    with pytest.raises(StoreError, match=r"image '2' reach 70,000, float16 ends at 65,504"):
        export(source, "npz", tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
