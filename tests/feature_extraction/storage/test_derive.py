"""Feature files made of feature files: the same arrays, what made them carried over, `check` content."""

from __future__ import annotations

import json
import os
from itertools import count
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.exporting import COCO, MADE, box_arrays, coco_file, grid_arrays, killed_at, stored, write_file
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.storage import derive, files, store
from feature_extraction.storage.check import check_file


def quiet(done: int, total: int) -> None:
    """Nobody is told."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return coco_file(tmp_path / "coco.h5", conf=False)


def same(found: dict[str, dict[str, np.ndarray]], expected: dict[str, dict[str, np.ndarray]]) -> bool:
    return found.keys() == expected.keys() and all(
        found[i].keys() == expected[i].keys()
        and all(np.array_equal(found[i][n], a) and found[i][n].dtype == a.dtype for n, a in expected[i].items())
        for i in expected
    )


def errors(path: Path) -> list[str]:
    return [finding.text for finding in check_file(path) if finding.level == "error"]


def said(path: Path) -> dict[str, object]:
    with store.open_features(path) as file:
        return store.provenance(file)


def test_a_subset_is_the_same_images_and_says_where_they_are_from(source: Path, tmp_path: Path) -> None:
    wanted = [COCO[4], COCO[1]]
    made = derive.subset(source, wanted, tmp_path / "out.h5", quiet)
    assert (made.images, made.already) == (2, False)
    assert same(stored(made.path), {i: a for i, a in stored(source).items() if i in wanted})
    assert errors(made.path) == []
    attributes = said(made.path)
    derived = json.loads(str(attributes.pop("derived")))
    assert attributes == {**MADE, "images": 2, "failed": 0}
    assert (derived["by"], derived["of"][0]["name"]) == ("subset", "coco.h5")
    with store.open_features(made.path) as found, store.open_features(source) as before:
        assert store.source_of(found, COCO[1]) == store.source_of(before, COCO[1]) is not None
        assert store.image_ids(found) == sorted(wanted)


def test_images_that_are_not_there_are_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no features of 1 of the 2 images asked for: 'gone'"):
        derive.subset(source, [COCO[0], "gone"], tmp_path / "out.h5", quiet)
    assert not (tmp_path / "out.h5").exists()


@settings(max_examples=15, deadline=None)
@given(parts=st.integers(1, 5), order=st.permutations(range(5)))
def test_split_and_merged_it_is_the_same_file(
    parts: int, order: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("split")
    source = coco_file(folder / "coco.h5")
    made = derive.split_evenly(source, parts, folder / "parts", quiet)
    sizes = [one.images for one in made]
    assert sum(sizes) == 5
    assert max(sizes) - min(sizes) <= 1
    paths = [made[i].path for i in order if i < parts]
    merged = derive.merge(paths, folder / "merged.h5", quiet)
    assert same(stored(merged.path), stored(source))


def test_split_by_lists(source: Path, tmp_path: Path) -> None:
    first, second = derive.split_by_lists(source, {"a": COCO[:2], "b": COCO[3:]}, tmp_path / "parts", quiet)
    assert [path.name for path in (first.path, second.path)] == ["coco-a.h5", "coco-b.h5"]
    assert list(stored(second.path)) == list(COCO[3:])
    with pytest.raises(StoreError, match="stands in two lists: a and b"):
        derive.split_by_lists(source, {"a": COCO[:2], "b": COCO[1:]}, tmp_path / "other", quiet)
    with pytest.raises(StoreError, match="cannot be parted into 6 files"):
        derive.split_evenly(source, 6, tmp_path / "other", quiet)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"checkpoint_sha256": "other"}, "'checkpoint_sha256' is 'abc' and 'other'"),
        ({"batch_size": 2}, "'batch_size' is not stated and 2"),
        ({"split": "train"}, "'split' is 'valid' and 'train'; if that is meant, --any_split"),
    ],
)
def test_files_of_another_recipe_are_not_merged(
    change: dict[str, object], difference: str, source: Path, tmp_path: Path
) -> None:
    other = write_file(tmp_path / "other.h5", {"7": box_arrays(7, conf=False)}, {**MADE, **change})
    with pytest.raises(StoreError, match=f"are not of one recipe: {difference}"):
        derive.merge([source, other], tmp_path / "out.h5", quiet)


def test_splits_are_merged_by_name_and_what_differs_is_kept(source: Path, tmp_path: Path) -> None:
    made = {**MADE, "split": "train", "device_name": "cpu"}
    other = write_file(tmp_path / "other.h5", {"7": box_arrays(7, conf=False)}, made)
    merged = derive.merge([source, other], tmp_path / "out.h5", quiet, any_split=True)
    assert (said(merged.path)["split"], said(merged.path)["device_name"], merged.images) == ("valid + train", "cpu", 6)
    assert errors(merged.path) == []


def test_the_files_of_a_series_of_tars_are_of_one_recipe(tmp_path: Path) -> None:
    paths = [
        write_file(tmp_path / f"{n}.h5", {f"{n}": box_arrays(n)}, {**MADE, "archive": f"{n}.tar", "archive_version": n})
        for n in range(10)
    ]
    merged = said(derive.merge(paths, tmp_path / "out.h5", quiet).path)
    assert merged["archive"] == " + ".join([f"{n}.tar" for n in range(8)] + ["..."])
    assert "archive_version" not in merged


def test_an_image_twice_counts_once_if_it_is_the_same(source: Path, tmp_path: Path) -> None:
    arrays = stored(source)[COCO[0]]
    other = write_file(tmp_path / "same.h5", {COCO[0]: arrays, "7": box_arrays(7, conf=False)})
    assert derive.merge([source, other], tmp_path / "out.h5", quiet).images == 6
    changed = {**arrays, "boxes": arrays["boxes"] + 1}
    other = write_file(tmp_path / "changed.h5", {COCO[0]: changed})
    with pytest.raises(StoreError, match=rf"image '{COCO[0]}' is in .*coco.h5 and in .*changed.h5, with other 'boxes'"):
        derive.merge([source, other], tmp_path / "no.h5", quiet)
    assert not (tmp_path / "no.h5").exists()


def test_of_many_files_few_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand shards, their images in turns: a process may have a thousand files open."""
    monkeypatch.setattr(derive, "MOST_OPEN", 2)
    images = {f"{n:02d}": box_arrays(n) for n in range(20)}
    shards = {f"{k}.h5": {i: a for n, (i, a) in enumerate(images.items()) if n % 5 == k} for k in range(5)}
    paths = [write_file(tmp_path / name, held) for name, held in shards.items()]
    most = 0

    def look(done: int, total: int) -> None:
        nonlocal most
        most = max(
            most, sum(os.path.realpath(f"/proc/self/fd/{fd}") in map(str, paths) for fd in os.listdir("/proc/self/fd"))
        )

    monkeypatch.setattr(derive, "_counted", lambda found, *rest: (look(0, 0) or image for image in found))
    assert same(stored(derive.merge(paths, tmp_path / "out.h5", quiet).path), images)
    assert most == 2


def test_compressed_it_is_the_same_and_smaller(tmp_path: Path) -> None:
    arrays = {"features": np.repeat(np.arange(64, dtype=np.float32), 64).reshape(2, 32, 64)}
    source = write_file(tmp_path / "a.h5", {"1": arrays, "2": arrays}, {"kind": "grid", "schema_version": 1})
    made, loss = derive.repack(source, tmp_path / "packed.h5", quiet, gzip=4)
    assert loss is None
    assert same(stored(made.path), stored(source))
    assert errors(made.path) == []
    with h5py.File(made.path) as file:
        found = file["1/features"]
        assert (found.compression, found.shuffle, found.chunks) == ("gzip", True, found.shape)
        assert found.id.get_storage_size() < found.nbytes / 4
    plain, _ = derive.repack(made.path, tmp_path / "plain.h5", quiet)
    with h5py.File(plain.path) as file:
        assert file["1/features"].id.get_offset() is not None
    assert json.loads(str(said(plain.path)["derived"]))["before"] == said(made.path)["derived"]


def test_float16_is_written_down_with_its_loss(source: Path, tmp_path: Path) -> None:
    made, loss = derive.repack(source, tmp_path / "half.h5", quiet, half=True)
    before, after = stored(source), stored(made.path)
    error = max(float(np.abs(before[i]["features"] - after[i]["features"].astype(np.float32)).max()) for i in COCO)
    assert loss is not None
    assert loss.largest_error == error == said(made.path)["float16_largest_error"] > 0
    assert said(made.path)["option_features_dtype"] == "float16"
    assert {name: a.dtype for name, a in after[COCO[0]].items()} == {
        **{name: a.dtype for name, a in before[COCO[0]].items()},
        "features": np.dtype(np.float16),
    }
    assert errors(made.path) == []
    with pytest.raises(StoreError, match="in float16 already"):
        derive.repack(made.path, tmp_path / "again.h5", quiet, half=True)
    with pytest.raises(StoreError, match="'option_features_dtype' is not stated and 'float16'"):
        derive.merge([source, made.path], tmp_path / "out.h5", quiet)


@pytest.mark.parametrize("value", [65520.0, float("inf"), float("nan")])
def test_float16_never_becomes_infinite(value: float, tmp_path: Path) -> None:
    arrays = grid_arrays(1)
    arrays["features"][0, 0, 0] = value
    source = write_file(tmp_path / "a.h5", {"1": arrays}, {"kind": "grid", "schema_version": 1})
    with pytest.raises(StoreError, match=r"image '1' reach .*: keep float32"):
        derive.repack(source, tmp_path / "half.h5", quiet, half=True)
    assert not (tmp_path / "half.h5").exists()


def test_killed_at_any_instant_it_begins_anew_and_leaves_nothing(source: Path, tmp_path: Path) -> None:
    expected = (derive.subset(source, COCO[1:3], tmp_path / "whole.h5", quiet)).path.read_bytes()
    for instant in count(0, 2):
        folder = tmp_path / str(instant)
        folder.mkdir()
        output = folder / "out.h5"
        died = killed_at(instant, lambda output=output: derive.subset(source, COCO[1:3], output, quiet))
        if output.exists():
            assert output.read_bytes() == expected
        derive.subset(source, COCO[1:3], output, quiet)
        assert output.read_bytes() == expected
        assert os.listdir(folder) == ["out.h5"]
        if not died:
            break
    assert instant > 10


def test_one_run_makes_a_file_at_a_time(source: Path, tmp_path: Path) -> None:
    with files.exclusive(tmp_path / ".out.h5.making"), pytest.raises(StoreBusy, match=r"is making .*out.h5 right now"):
        derive.subset(source, COCO[:1], tmp_path / "out.h5", quiet)
    derive.subset(source, COCO[:1], tmp_path / "out.h5", quiet)
    assert {path.name for path in tmp_path.iterdir()} == {"coco.h5", "out.h5"}


def test_what_another_program_put_there_is_left_alone(source: Path, tmp_path: Path) -> None:
    for name, put in (("file.h5", Path.touch), ("folder.h5", Path.mkdir), ("link.h5", lambda p: p.symlink_to("gone"))):
        put(tmp_path / name)
        with pytest.raises(StoreError, match="exists and was made of something else"):
            derive.subset(source, COCO[:1], tmp_path / name, quiet)
    with pytest.raises(StoreError, match=r"cannot be written: .* Nothing was changed"):
        derive.split_evenly(source, 2, tmp_path / "file.h5", quiet)
    assert (tmp_path / "file.h5").read_bytes() == b""
    assert (tmp_path / "link.h5").is_symlink()


def test_what_compression_leaves_is_not_foretold(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 9}))
    with pytest.raises(StoreError, match="not enough space"):
        derive.repack(source, tmp_path / "out.h5", quiet)
    derive.repack(source, tmp_path / "out.h5", quiet, gzip=1)


def test_a_killed_split_goes_on_with_the_parts_that_are_missing(source: Path, tmp_path: Path) -> None:
    first = derive.split_evenly(source, 3, tmp_path / "parts", quiet)
    first[1].path.unlink()
    assert [one.already for one in derive.split_evenly(source, 3, tmp_path / "parts", quiet)] == [True, False, True]


def test_another_file_of_that_name_is_left_alone(source: Path, tmp_path: Path) -> None:
    made = derive.subset(source, COCO[:1], tmp_path / "out.h5", quiet)
    before = made.path.read_bytes()
    assert derive.subset(source, COCO[:1], tmp_path / "out.h5", quiet).already
    with pytest.raises(StoreError, match="exists and was made of something else"):
        derive.subset(source, COCO[:2], tmp_path / "out.h5", quiet)
    with pytest.raises(StoreError, match="exists and was made of something else"):
        derive.repack(source, source, quiet)
    assert made.path.read_bytes() == before


def test_a_damaged_image_is_not_copied(source: Path, tmp_path: Path) -> None:
    data = bytearray(source.read_bytes())
    data[data.index((640).to_bytes(8, "little"))] ^= 1
    source.write_bytes(data)
    with pytest.raises(StoreError, match="do not have the checksums"):
        derive.repack(source, tmp_path / "out.h5", quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["coco.h5"]


def test_published_files_say_nothing_and_are_taken_as_they_are(tmp_path: Path) -> None:
    paths = []
    for name in ("a", "b"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            for array, values in box_arrays(0, probs=False, conf=False).items():
                file[f"{name}/{array}"] = values
        paths.append(tmp_path / f"{name}.h5")
    merged = derive.merge(paths, tmp_path / "out.h5", quiet)
    assert list(stored(merged.path)) == ["a", "b"]
    assert errors(merged.path) == []
