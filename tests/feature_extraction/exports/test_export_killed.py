"""Killed, out of room, damaged, asked to stop: OUT is whole or not there, and the same command goes on."""

from __future__ import annotations

import base64
import json
import os
import resource
from itertools import count
from pathlib import Path

import pytest
from helpers.exporting import (
    COCO,
    MADE,
    Never,
    box_arrays,
    coco_file,
    config,
    contents,
    export,
    killed_at,
    stored,
    write_file,
)

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.exports import ledger, lmdb_place
from feature_extraction.exports import run as engine
from feature_extraction.exports.spec import FORMATS
from feature_extraction.storage import files, store

FORMS = list(FORMATS)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five images, written in batches of one: every image is a batch of its own."""
    monkeypatch.setattr(engine, "BATCH", 1)
    return coco_file(tmp_path / "coco.h5")


@pytest.mark.parametrize("form", FORMS)
def test_killed_at_any_instant_it_goes_on(form: str, source: Path, tmp_path: Path) -> None:
    """Killed before, or in the middle of, every fourth call that changes the disk; killed once more; then let run."""
    several = {"per_file": 2} if FORMATS[form].several else {}
    expected = contents(export(source, form, tmp_path / "whole", **several))
    for instant in count(0, 4):
        folder = tmp_path / str(instant)
        folder.mkdir()
        chosen = config(source, form, folder / "out", **several)
        died = killed_at(instant, lambda chosen=chosen: engine.export(chosen, Never()))
        killed_at(instant * 7 % 13, lambda chosen=chosen: engine.export(chosen, Never()))
        if os.path.lexists(chosen.output):
            assert contents(chosen.output) == expected
        engine.export(chosen, Never())
        assert contents(chosen.output) == expected
        assert {path.name for path in folder.iterdir()} == {chosen.output.name, f"{chosen.output.name}.export.json"}
        assert json.loads(ledger.record_path(chosen.output).read_text())["images"] == len(COCO)
        if not died:
            break
    assert instant > 20


def test_a_record_that_says_nothing_is_not_ours(source: Path, tmp_path: Path) -> None:
    for text in ("{}", "[1]", "{", '{"images": "x", "bytes": 1, "notes": []}'):
        (tmp_path / "out").mkdir(exist_ok=True)
        ledger.record_path(tmp_path / "out").write_text(text)
        with pytest.raises(StoreError, match="was not made by this program"):
            export(source, "npz", tmp_path / "out")


@pytest.mark.parametrize("form", FORMS)
def test_a_write_that_fails_costs_nothing(form: str, source: Path, tmp_path: Path) -> None:
    """The kernel refuses to let a file grow beyond so many bytes, as on a full disk: LMDB's and HDF5's writes too."""
    expected = contents(export(source, form, tmp_path / "whole"))
    chosen = config(source, form, tmp_path / "out")
    largest = max(len(data) for data in expected.values())
    limit = 8192 if form in ("vilbert-lmdb", "mmf-lmdb") else largest // 2
    pid = os.fork()
    if not pid:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            engine.export(chosen, Never())
        except (OSError, StoreError):
            code = 7
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert not chosen.output.exists()
    engine.export(chosen, Never())
    assert contents(chosen.output) == expected


def test_asked_to_stop_it_stops_behind_a_batch(source: Path, tmp_path: Path) -> None:
    class Now(Never):
        def is_set(self) -> bool:
            return True

    chosen = config(source, "lxmert-tsv", tmp_path / "out.tsv")
    with pytest.raises(engine.Stopped, match="1 of 5 images are written"):
        engine.export(chosen, Now())
    told: list[int] = []
    engine.export(chosen, Never(), lambda done, _: told.append(done))
    assert told == [2, 3, 4, 5]  # the first was not written again


def test_of_small_images_a_kill_costs_no_more_than_some(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BATCH", 1 << 30)
    monkeypatch.setattr(engine, "MOST_PIECES", 2)
    told: list[int] = []
    engine.export(config(source, "npz", tmp_path / "out"), Never(), lambda done, total: told.append(done))
    assert told == [2, 4, 5]


def test_tallies_survive_a_kill(source: Path, tmp_path: Path) -> None:
    """How many boxes were cut off, and what float16 lost, are of all images, those before the kill too."""
    chosen = config(source, "lxmert-tsv", tmp_path / "out.tsv")
    killed_at(25, lambda: engine.export(chosen, Never()))
    (line, *_) = (store.work_dir(chosen.output) / "progress.jsonl").read_text().splitlines()
    assert json.loads(line)["tallies"]["form"]["boxes_cut"] == 1
    assert any("5 boxes of 5 images" in note for note in engine.export(chosen, Never()).notes)


@pytest.mark.parametrize("form", FORMS)
def test_what_the_disk_lost_is_noticed_before_the_name_appears(
    form: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of one image's features flips between writing and reading back."""
    chosen = config(source, form, tmp_path / "out")
    features = stored(source)[COCO[2]]["features"].tobytes()
    needle = base64.b64encode(features)[:24] if form == "lxmert-tsv" else features[:24]
    verify = engine.Job.verify

    def lose(job: engine.Job) -> None:
        data = job.ledger.data
        (path,) = [p for p in [data, *data.rglob("*")] if p.is_file() and needle in p.read_bytes()]
        # LMDB's file may hold older copies of a page, too
        path.write_bytes(path.read_bytes().replace(needle, bytes([needle[0] ^ 1]) + needle[1:]))
        verify(job)

    with monkeypatch.context() as patched:
        patched.setattr(engine.Job, "verify", lose)
        with pytest.raises(StoreError, match="is not what was written, the disk lost it"):
            engine.export(chosen, Never())
    assert not chosen.output.exists()
    engine.export(chosen, Never())
    assert contents(chosen.output) == contents(export(source, form, tmp_path / "other"))


def test_an_lmdb_takes_more_room_as_it_grows(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = contents(export(source, "mmf-lmdb", tmp_path / "whole"))
    monkeypatch.setattr(lmdb_place, "FIRST_SIZE", 1 << 14)
    assert contents(export(source, "mmf-lmdb", tmp_path / "grown")) == expected


def test_a_second_run_says_so(source: Path, tmp_path: Path) -> None:
    chosen = config(source, "npz", tmp_path / "out")
    store.work_dir(chosen.output).mkdir()
    with (
        files.exclusive(store.work_dir(chosen.output) / "lock"),
        pytest.raises(StoreBusy, match="another run is writing"),
    ):
        engine.export(chosen, Never())


def test_another_export_under_the_same_name_is_refused_by_the_first_difference(source: Path, tmp_path: Path) -> None:
    chosen = config(source, "npz", tmp_path / "out")
    killed_at(20, lambda: engine.export(chosen, Never()))
    with pytest.raises(StoreError, match="was begun with dtype 'float32', now 'float16'"):
        export(source, "npz", tmp_path / "out", dtype="float16")
    engine.export(chosen, Never())
    with pytest.raises(StoreError, match="was made with dtype 'float32', now 'float16'"):
        export(source, "npz", tmp_path / "out", dtype="float16")
    assert engine.export(chosen, Never()).already


def test_what_somebody_else_put_there_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(StoreError, match="was not made by this program"):
        export(source, "npz", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_the_journals_of_an_extraction_are_not_taken_for_an_exports_work(source: Path, tmp_path: Path) -> None:
    journal = store.work_dir(tmp_path / "out") / "part-0.log"
    journal.parent.mkdir()
    journal.write_text("two days of work")
    with pytest.raises(StoreError, match=r"out.work holds 'part-0.log', which is of no export"):
        export(source, "npz", tmp_path / "out")
    assert journal.read_text() == "two days of work"
    journal.unlink()
    (journal.parent / "data").mkdir()  # of an export whose work was half removed
    (journal.parent / "data" / "other.npy").touch()
    export(source, "npz", tmp_path / "out")
    assert not journal.parent.exists()


def test_a_damaged_image_ends_the_export(source: Path, tmp_path: Path) -> None:
    data = bytearray(source.read_bytes())
    at = data.index((640).to_bytes(8, "little"))
    data[at] ^= 1
    source.write_bytes(data)
    with pytest.raises(StoreError, match="do not have the checksums"):
        export(source, "npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_can_never_be_written_so_does_not_keep_another_way_from_it(source: Path, tmp_path: Path) -> None:
    large = box_arrays(9)
    large["features"][1, 2] = 70000
    both = write_file(tmp_path / "large.h5", {**{i: box_arrays(n) for n, i in enumerate(COCO)}, "x": large})
    with pytest.raises(StoreError, match="keep float32"):  # behind five images that are on the disk
        export(both, "npz", tmp_path / "out", dtype="float16")
    export(both, "npz", tmp_path / "out")
    front = write_file(tmp_path / "front.h5", {"1": box_arrays(1)}, {**MADE, "class_probs": "foreground"})
    with pytest.raises(StoreError, match="without the background"):
        export(front, "vilbert-npy", tmp_path / "front")
    export(front, "mmf-npy", tmp_path / "front")
    assert not list(tmp_path.glob("*.work"))


def test_no_room_is_said_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        files.shutil, "disk_usage", lambda folder: os.terminal_size((0, 0)) and type("U", (), {"free": 9})
    )
    with pytest.raises(StoreError, match="not enough space"):
        export(source, "npz", tmp_path / "out")
    assert not (store.work_dir(tmp_path / "out") / "data" / f"{COCO[0]}.npz").exists()
