"""The logs and the assembled file: torn ends at every byte, other recipes, other runs, full disks."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.storage import journal as parts
from feature_extraction.storage import store
from feature_extraction.storage.journal import PartWriter, scan
from feature_extraction.storage.output import Store
from feature_extraction.storage.store import open_features

IDENTITY = {"kind": "grid", "checkpoint_sha256": "abc", "precision": "float32", "batch_size": 1, "class_probs": False}


def features(seed: int) -> dict[str, np.ndarray]:
    return {"features": np.random.default_rng(seed).random((2, 2, 3), dtype=np.float32), "img_w": np.array(seed)}


def make(output: Path, ids: list[str], index: int = 0, count: int = 1, identity: dict | None = None, failed=()):
    made = Store(output, identity or IDENTITY, {"note": "x"}, index, count)
    try:
        share = [i for n, i in enumerate(ids) if n % count == index and i not in failed]
        for i in share:
            if i not in made.done:
                made.part.add(i, features(int(i)))
        return made.finish(ids, [{"id": i, "path": f"/{i}.jpg", "reason": "broken"} for i in failed])
    finally:
        made.close()


def check(output: Path, ids: list[str]) -> None:
    with open_features(output) as file:
        assert store.image_ids(file) == sorted(ids, key=str.encode)
        assert list(file) == store.image_ids(file)  # HDF5's own order
        for i in ids:
            np.testing.assert_array_equal(file[i]["features"][()], features(int(i))["features"])
            assert file[i]["img_w"][()] == int(i)


def test_published_readers_read_the_file(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    make(output, ["10", "9"])
    with h5py.File(output) as f:  # the way X-LXMERT's loaders do
        into = np.zeros((2, 2, 3), dtype=np.float32)
        f["10/features"].read_direct(into)
        np.testing.assert_array_equal(into, features(10)["features"])
        assert f["9/img_w"][()] == 9
    assert not store.work_dir(output).exists()


def test_provenance_is_in_the_file(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", ["1", "2"], failed=("2",))
    with open_features(tmp_path / "f.h5") as file:
        found = store.provenance(file)
    assert found == {**IDENTITY, "note": "x", "schema_version": 1, "images": 1, "failed": 1}
    report = json.loads((tmp_path / "f.report.json").read_text())
    assert report["failed"] == [{"id": "2", "path": "/2.jpg", "reason": "broken"}]


def test_a_log_cut_at_any_byte_loses_at_most_its_last_record(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, 0, 1)
    ends = [0]
    for i in range(3):
        writer.add(str(i), features(i))
        writer.sync()
        ends.append(os.path.getsize(writer.path))
    writer.close()
    whole = writer.path.read_bytes()
    for length in range(len(whole) + 1):
        writer.path.write_bytes(whole[:length])
        sound = sum(end <= length for end in ends) - 1
        assert [r.id for r in scan(writer.path)] == [str(i) for i in range(sound)]
        if length % 7 == 0:
            again = PartWriter(tmp_path, 0, 1)
            assert os.path.getsize(again.path) == ends[sound]
            again.add("9", features(9))
            again.close()
            assert [r.id for r in scan(writer.path)] == [str(i) for i in range(sound)] + ["9"]
            np.testing.assert_array_equal(list(scan(writer.path))[-1].read()["features"], features(9)["features"])


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, where: int, change: int) -> None:
    folder = tmp_path_factory.mktemp("flip")
    writer = PartWriter(folder, 0, 1)
    for i in range(3):
        writer.add(str(i), features(i))
    writer.close()
    damaged = bytearray(writer.path.read_bytes())
    damaged[where % len(damaged)] ^= change
    writer.path.write_bytes(damaged)
    sound = 0
    for record in scan(writer.path):
        try:
            arrays = record.read()
        except (StoreError, ValueError, KeyError):
            continue
        np.testing.assert_array_equal(arrays["features"], features(int(record.id))["features"])
        sound += 1
    assert sound < 3
    # after a power loss the end of a log may hold anything: a new writer goes on from what is sound
    again = PartWriter(folder, 0, 1)
    again.add("7", features(7))
    again.close()
    assert list(scan(writer.path))[-1].id == "7"


def test_resuming_takes_over_what_any_split_of_the_work_had_done(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    ids = [str(i) for i in range(10)]
    assert make(output, ids, 0, 3) is None
    assert make(output, ids, 1, 3) is None
    resumed = Store(output, IDENTITY, {})
    assert resumed.done == {i for n, i in enumerate(ids) if n % 3 != 2}
    for i in set(ids) - resumed.done:
        resumed.part.add(i, features(int(i)))
    assert resumed.finish(ids, []).images == 10
    resumed.close()
    check(output, ids)


def test_the_last_of_several_processes_assembles(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    ids = [str(i) for i in range(7)]
    assert make(output, ids, 1, 2) is None
    assert not output.exists()
    assert make(output, ids, 0, 2).images == 7
    check(output, ids)


def test_failures_of_all_processes_are_in_the_report(tmp_path: Path) -> None:
    ids = ["1", "2", "3", "4"]
    make(tmp_path / "f.h5", ids, 0, 2, failed=("3",))
    outcome = make(tmp_path / "f.h5", ids, 1, 2, failed=("4",))
    assert outcome.images == 2
    assert [f["id"] for f in outcome.failed] == ["3", "4"]


def test_processes_that_saw_other_folders_do_not_make_one_file(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", ["1", "2"], 0, 2)
    with pytest.raises(StoreError, match="folder changed"):
        make(tmp_path / "f.h5", ["1", "2", "3"], 1, 2)


def test_a_finished_file_is_extended_by_new_images_and_keeps_the_old(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    assert make(output, ["1", "2", "3"], failed=("2",)).images == 2
    before = output.read_bytes()
    assert make(output, ["1", "2", "3"], failed=("2",)).images == 2
    assert output.read_bytes() == before  # nothing new: untouched
    assert make(output, ["1", "2", "3", "4"]).images == 4
    check(output, ["1", "2", "3", "4"])
    assert json.loads((tmp_path / "f.report.json").read_text())["failed"] == []


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("key", ["kind", "checkpoint_sha256", "precision", "batch_size", "class_probs"])
def test_resuming_with_another_recipe_is_refused(tmp_path: Path, finished: bool, key: str) -> None:
    output = tmp_path / "f.h5"
    make(output, ["1", "2"], count=1 if finished else 2)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match=key):
        Store(output, {**IDENTITY, key: "other"}, {})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    with h5py.File(output, "w") as f:
        f["1/features"] = np.zeros(3)
    with pytest.raises(StoreError, match="not made by this program"):
        Store(output, IDENTITY, {})
    output.write_bytes(b"\x89HDF\r\n\x1a\n cut off")
    with pytest.raises(StoreError, match="not a whole HDF5 file"):
        open_features(output)


def test_reading_what_is_not_there_says_why(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        open_features(tmp_path / "f.h5")
    make(tmp_path / "f.h5", ["1", "2"], 0, 2)
    with pytest.raises(StoreError, match="unfinished"):
        open_features(tmp_path / "f.h5")
    with h5py.File(tmp_path / "g.h5", "w") as f:
        f.attrs["schema_version"] = 99
    with pytest.raises(StoreError, match="99"):
        open_features(tmp_path / "g.h5")


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    first = Store(tmp_path / "f.h5", IDENTITY, {})
    for count in (1, 2):  # the same split of the work, and another
        with pytest.raises(StoreBusy, match="another run"):
            Store(tmp_path / "f.h5", IDENTITY, {}, count - 1, count)
    first.close()
    Store(tmp_path / "f.h5", IDENTITY, {}).close()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(parts.fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match="this file system has no locks"):
        Store(tmp_path / "f.h5", IDENTITY, {})


def test_space_is_checked_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Store(tmp_path / "f.h5", IDENTITY, {})
    made.check_space(10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 15_000})())
    with pytest.raises(StoreError, match="not enough space"):
        made.check_space(10, 1000)  # ten in parts, ten in the file
    made.done.update(str(i) for i in range(8))
    made.check_space(10, 1000)
    made.close()


@pytest.mark.parametrize("leave", ["manifest and parts", "parts only", "assembled aside"])
def test_killed_between_renaming_and_cleaning_up(tmp_path: Path, leave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "f.h5"
    ids = ["1", "2", "3"]
    monkeypatch.setattr(Store, "_clean_up", lambda self: None)
    make(output, ids)
    monkeypatch.undo()
    folder = store.work_dir(output)
    if leave == "parts only":
        (folder / "manifest.json").unlink()
    if leave == "assembled aside":
        output.unlink()
        (folder / "assembled.h5").write_bytes(b"half a file")
    assert make(output, ids).images == 3
    check(output, ids)
    assert not folder.exists()


def test_assembly_refuses_a_record_that_changed_on_the_disk(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    make(output, ["1", "2"], 0, 2)
    part = store.work_dir(output) / parts.part_name(0, 2)
    data = bytearray(part.read_bytes())
    (record, _) = list(scan(part))
    data[record.offset + 3] ^= 1
    part.write_bytes(data)
    with pytest.raises(StoreError, match="checksum"):
        make(output, ["1", "2"], 1, 2)
    assert not output.exists()
