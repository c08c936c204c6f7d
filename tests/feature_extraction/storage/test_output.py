"""A file in the making: resumed, extended, split among processes, of one recipe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.storing import IDENTITY, broken, check, extract, features, make, source, stamps

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.storage import journal, store
from feature_extraction.storage.output import Incomplete, Output
from feature_extraction.storage.store import open_features, work_dir

pytestmark = pytest.mark.usefixtures("quick")


def test_published_readers_read_the_file(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    make(output, ["10", "9"])
    with h5py.File(output) as f:  # the way X-LXMERT's loaders do
        into = np.zeros((2, 2, 3), dtype=np.float32)
        f["10/features"].read_direct(into)
        np.testing.assert_array_equal(into, features(10)["features"])
        assert f["9/img_w"][()] == 9
        assert list(f["9"]) == ["features", "img_w"]  # what the kit notes about an image is no data set
    assert not store.work_dir(output).exists()


def test_provenance_is_in_the_file(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", ["1", "2"], failed=("2",))
    with open_features(tmp_path / "f.h5") as file:
        assert store.provenance(file) == {**IDENTITY, "note": "x", "schema_version": 1, "images": 1, "failed": 1}
        assert store.source_of(file, "1") == source("1")
        assert store.checksums_of(file, "1") == {n: journal.checksum(a) for n, a in features(1).items()}
    report = json.loads((tmp_path / "f.report.json").read_text())
    assert report["failed"] == broken("2")


def test_the_rate_is_in_the_report_and_changes_no_bit_of_the_file(tmp_path: Path) -> None:
    def finished(name: str, ids: list[str], *rates: float | None) -> tuple[bytes, float | None]:
        path = tmp_path / name / "f.h5"
        path.parent.mkdir(exist_ok=True)
        for index, rate in enumerate(rates):
            output = Output(path, IDENTITY, {}, index, len(rates))
            extract(output, ids)
            output.finish(stamps(ids), [], images_per_second=rate)
            output.close()
        report = json.loads((path.parent / "f.report.json").read_text())
        return path.read_bytes(), report.get("images_per_second")

    file, rate = finished("one", ["1", "2"], 2.5)
    assert rate == 2.5
    assert finished("unknown", ["1", "2"], None) == (file, None)
    assert finished("two", ["1", "2"], 2.5, 1.25) == (file, 3.75)
    assert finished("two", ["1", "2"], None) == (file, 3.75)  # nothing was left to do: of the run that made it


def test_resuming_takes_over_what_any_split_of_the_work_had_done(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    ids = [str(i) for i in range(10)]
    assert make(output, ids, 0, 3) is None
    assert make(output, ids, 1, 3) is None
    resumed = Output(output, IDENTITY, {})
    assert {i for i in ids if resumed.known(i)} == {i for n, i in enumerate(ids) if n % 3 != 2}
    extract(resumed, ids)
    outcome = resumed.finish(stamps(ids), [])
    assert outcome is not None
    assert outcome.images == 10
    resumed.close()
    check(output, ids)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "f.report.json"]


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
    assert make(tmp_path / "f.h5", ["1", "2", "3"], 0, 2).images == 3  # as the message says


def test_a_finished_file_is_extended_by_new_images_and_keeps_the_old(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    assert make(output, ["1", "2", "3"], failed=("2",)).images == 2
    before = output.read_bytes()
    assert make(output, ["1", "2", "3"], failed=("2",)).images == 2
    assert output.read_bytes() == before  # nothing new: untouched
    assert make(output, ["1", "2", "3", "4"]).images == 4
    check(output, ["1", "2", "3", "4"])
    assert json.loads((tmp_path / "f.report.json").read_text())["failed"] == []
    with open_features(output) as file:
        assert [store.source_of(file, i) for i in "1234"] == [source(i) for i in "1234"]


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("key", ["kind", "checkpoint_sha256", "precision", "batch_size", "class_probs"])
def test_resuming_with_another_recipe_is_refused(tmp_path: Path, finished: bool, key: str) -> None:
    output = tmp_path / "f.h5"
    make(output, ["1", "2"], count=1 if finished else 2)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file() and "event" not in p.name}
    with pytest.raises(StoreError, match=key):
        Output(output, {**IDENTITY, key: "other"}, {})
    after = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file() and "event" not in p.name}
    assert {p: b for p, b in after.items() if b} == before


@pytest.mark.parametrize("finished", [False, True])
def test_an_option_that_is_not_there_has_the_published_value_and_is_compared(tmp_path: Path, finished: bool) -> None:
    path, ids = tmp_path / "f.h5", ["1", "2"]
    with_option = {**IDENTITY, "option_threshold": 0.2}
    for made, other, said in (
        (with_option, IDENTITY, r"option_threshold 0\.2, now None"),
        (IDENTITY, with_option, r"option_threshold None, now 0\.2"),
        (with_option, {**IDENTITY, "option_layer": "fc7"}, "option_layer None, now 'fc7'; option_threshold 0.2, now"),
    ):
        if finished:
            make(path, ids, identity=made)
        else:
            output = Output(path, made, {})
            extract(output, ids)
            output.close()
        with pytest.raises(StoreError, match=said):
            make(path, ids, identity=other)
        make(path, ids, identity=made)
        path.unlink()


def test_a_run_that_stored_nothing_pins_no_recipe(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    first = Output(path, IDENTITY, {})
    first.close()
    assert not (work_dir(path) / "manifest.json").exists()
    (work_dir(path) / "manifest.json").write_text(json.dumps({**IDENTITY, "kind": "boxes"}))  # killed before its record
    assert make(path, ["1"], identity={**IDENTITY, "precision": "tf32"}).images == 1


def test_two_recipes_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    first = Output(path, IDENTITY, {}, 0, 2)
    second = Output(path, {**IDENTITY, "precision": "tf32"}, {}, 1, 2)
    first.add("1", features(1), source("1"))
    with pytest.raises(StoreError, match="another recipe: precision"):
        second.add("2", features(2), source("2"))
    first.close()
    second.close()


def test_features_of_another_recipe_are_never_assembled(tmp_path: Path) -> None:
    """Two machines that each saw no manifest yet: what the other stored is not taken for one's own."""
    path = tmp_path / "f.h5"
    first = Output(path, IDENTITY, {}, 0, 2)
    second = Output(path, {**IDENTITY, "precision": "tf32"}, {}, 1, 2)
    first._pinned = second._pinned = True
    for output in (first, second):
        extract(output, ["1", "2"])
    assert first.finish(stamps(["1", "2"]), []) is None
    with pytest.raises(Incomplete) as caught:
        second.finish(stamps(["1", "2"]), [])
    assert caught.value.missing == ["1"]
    first.close()
    second.close()


def test_files_of_others_are_not_touched(tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    with h5py.File(output, "w") as f:
        f["1/features"] = np.zeros(3)
    with pytest.raises(StoreError, match="not made by this program"):
        Output(output, IDENTITY, {})
    assert not work_dir(output).exists()


def test_two_runs_on_one_output(tmp_path: Path) -> None:
    first = Output(tmp_path / "f.h5", IDENTITY, {})
    for count in (1, 2):  # the same split of the work, and another
        with pytest.raises(StoreBusy, match="another run"):
            Output(tmp_path / "f.h5", IDENTITY, {}, count - 1, count)
    first.close()
    Output(tmp_path / "f.h5", IDENTITY, {}).close()


def test_space_is_checked_before_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 15_000})())
    made = Output(tmp_path / "f.h5", IDENTITY, {})
    made.check_room(7, 1000)
    with pytest.raises(StoreError, match="not enough space"):
        made.check_room(10, 1000)  # ten in journals, ten in the file
    made.close()
    make(tmp_path / "f.h5", [str(i) for i in range(16)], 0, 2)
    made = Output(tmp_path / "f.h5", IDENTITY, {})
    made.check_room(10, 1000)  # eight of them are in a journal
    made.close()
