"""A file in the making: resumed, extended, replaced images, other recipes, other runs, an earlier version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.common import DATA
from helpers.storing import IDENTITY, broken, check, extract, features, make, source, stamps

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.storage import files, journal, shares, store
from feature_extraction.storage.journal import scan
from feature_extraction.storage.output import Incomplete, Output, assemble_by_hand
from feature_extraction.storage.source import FileStamp, Source
from feature_extraction.storage.store import open_features, work_dir


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE_HERE", 0.2)


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


# --- what an image was ----------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_a_replaced_image_is_computed_again(tmp_path: Path, finished: bool) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"], count=1 if finished else 3)
    if not finished:
        make(path, ["1", "2"], 1, 3)
    again = Output(path, IDENTITY, {})
    other = source("2", version=7)
    assert again.is_current("1", *source("1").stamp, lambda: pytest.fail("the stamp is enough"))
    assert not again.is_current("2", *other.stamp, lambda: other.sha256)
    assert again.known("2")
    again.add("2", features(77), other)
    outcome = again.finish({**stamps("1"), "2": other.stamp}, [])
    again.close()
    assert (outcome.images, outcome.dropped) == (2, [])
    check(path, ["1", "2"], {"2": 77})
    with open_features(path) as file:
        assert store.source_of(file, "2") == other


def test_a_touched_or_moved_image_is_asked_for_its_digest_once(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"], 0, 2)
    asked = []

    def digest() -> str:
        asked.append(1)
        return source("1").sha256

    for _ in range(2):
        output = Output(path, IDENTITY, {})
        for _ in range(2):
            assert output.is_current("1", "/elsewhere/1.jpg", 1000, 5, digest)
        output.close()
    assert len(asked) == 1
    output = Output(path, IDENTITY, {})
    extract(output, ["1", "2"])
    assert output.finish({"1": FileStamp("/elsewhere/1.jpg", 1000, 5), **stamps("2")}, []).images == 2
    output.close()
    check(path, ["1", "2"])


def test_a_file_that_cannot_be_asked_for_its_digest_is_to_be_read_again(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", ["1", "2"], 0, 2)
    output = Output(tmp_path / "f.h5", IDENTITY, {})

    def unreadable() -> str:
        raise PermissionError(13, "no")

    assert not output.is_current("1", "/elsewhere/1.jpg", 1000, 5, unreadable)
    output.close()


def test_an_image_replaced_after_its_share_ended_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    photograph = tmp_path / "1.jpg"
    photograph.write_bytes(b"new contents")
    make(path, ["1", "2"], 0, 2)
    last = Output(path, IDENTITY, {}, 1, 2)
    extract(last, ["1", "2"])
    with pytest.raises(Incomplete, match="replaced") as caught:
        last.finish({"1": FileStamp(str(photograph), 12, 3), **stamps("2")}, [])
    last.close()
    assert caught.value.missing == ["1"]
    assert not path.exists()


def test_shares_on_machines_that_name_the_images_differently_make_one_file(tmp_path: Path) -> None:
    """By another mount point, or as copies with other times."""
    path = tmp_path / "f.h5"
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(b"the bytes of 1")
    first = Output(path, IDENTITY, {}, 0, 2)
    first.add("1", features(1), source("1").__class__("/a/1.jpg", 14, 5, files.sha256_of(copy)))
    assert first.finish({"1": FileStamp("/a/1.jpg", 14, 5), **stamps("2")}, []) is None
    first.close()
    last = Output(path, IDENTITY, {}, 1, 2)
    extract(last, ["1", "2"])
    assert last.finish({"1": FileStamp(str(copy), 14, 6), **stamps("2")}, []).images == 2
    last.close()
    check(path, ["1", "2"])


@pytest.mark.parametrize(
    ("now", "size", "missing"),
    [("a" * 64, 14, []), ("b" * 64, 14, ["1"]), ("", 14, ["1"]), ("", -1, [])],
    ids=["the same bytes", "others", "none to use", "cannot be asked"],
)
def test_what_lies_in_no_file_is_asked_for_its_digest(tmp_path: Path, now: str, size: int, missing: list[str]) -> None:
    """Of members of archives and of addresses nothing lies at the path of their stamps."""
    first = Output(tmp_path / "f.h5", IDENTITY, {}, 0, 2)
    first.add("1", features(1), Source("s3://a/0.tar!/1.jpg", 14, 5, "a" * 64))
    assert first.finish({"1": FileStamp("s3://a/0.tar!/1.jpg", 14, 5)}, []) is None
    first.close()
    last = Output(tmp_path / "f.h5", IDENTITY, {}, 1, 2)
    current = {"1": FileStamp("s3://b/0.tar!/1.jpg", size, 6)}
    try:
        if missing:
            with pytest.raises(Incomplete, match="replaced") as caught:
                last.finish(current, [], lambda _: now)
            assert caught.value.missing == missing
        else:
            assert last.finish(current, [], lambda _: now).images == 1
    finally:
        last.close()


def test_images_no_longer_listed_are_dropped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2", "3"])
    outcome = make(path, ["1", "3", "4"])
    assert (outcome.images, outcome.dropped) == (3, ["2"])
    check(path, ["1", "3", "4"])


def test_an_image_that_became_unreadable_is_dropped_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"])
    output = Output(path, IDENTITY, {})
    ruined = FileStamp(str(tmp_path / "2.jpg"), 3, 3)
    (tmp_path / "2.jpg").write_bytes(b"bad")
    assert not output.is_current("2", *ruined, lambda: files.sha256_of(ruined.path))
    outcome = output.finish({**stamps("1"), "2": ruined}, broken("2"))
    output.close()
    assert (outcome.images, outcome.dropped, [f["id"] for f in outcome.failed]) == (1, ["2"], ["2"])
    check(path, ["1"])


def test_where_nothing_listed_gives_features_the_earlier_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"])
    before = path.read_bytes()
    outcome = make(path, ["3"], failed=("3",))
    assert (outcome.images, outcome.dropped) == (0, [])
    assert path.read_bytes() == before


# --- recipes ------------------------------------------------------------------------------------------------


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
    made = Output(tmp_path / "f.h5", IDENTITY, {})
    made.check_room(10, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 15_000})())
    with pytest.raises(StoreError, match="not enough space"):
        made.check_room(10, 1000)  # ten in journals, ten in the file
    monkeypatch.undo()
    made.close()
    make(tmp_path / "f.h5", [str(i) for i in range(16)], 0, 2)
    made = Output(tmp_path / "f.h5", IDENTITY, {})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 15_000})())
    made.check_room(10, 1000)
    made.close()


# --- damage ---------------------------------------------------------------------------------------------------


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_record_is_reported_missing_and_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    ids = [str(i) for i in range(8)]
    make(path, ids, 0, 2)
    log = work_dir(path) / "part-00000-of-00002.log"
    damage(log, list(scan(log))[1].offset + 3)
    with pytest.raises(Incomplete, match="1 of 8 images are missing: '2'") as caught:
        make(path, ids, 1, 2)
    assert caught.value.missing == ["2"]
    assert not path.exists()
    assert make(path, ids, 0, 2).images == 8  # only its owner computes it, and is the last to end
    check(path, ids)


def test_a_journal_deleted_between_its_end_and_the_assembly_is_missed(tmp_path: Path) -> None:
    """Counts could agree where sets do not: as many failures as missing images."""
    path = tmp_path / "f.h5"
    ids = [str(i) for i in range(12)]
    first = Output(path, IDENTITY, {})
    for i in ids[:6]:
        first.add(i, features(int(i)), source(i))
    first.sync()
    first.close()
    others = [{"id": f"d{i}", "path": f"/d{i}", "reason": "duplicate"} for i in range(6)]
    for index in range(2):
        share = Output(path, IDENTITY, {}, index, 3)
        extract(share, ids)
        assert share.finish(stamps(ids), others if index == 0 else []) is None
        share.close()
    (work_dir(path) / "part-00000-of-00001.log").unlink()
    with pytest.raises(Incomplete) as caught:
        make(path, ids, 2, 3)
    assert set(caught.value.missing) == {i for n, i in enumerate(ids) if n < 6 and n % 3 != 2}
    with pytest.raises(Incomplete) as caught:
        make(path, ids, 1, 3)
    assert set(caught.value.missing) == {"0", "3"}
    assert make(path, ids, 0, 3).images == 12
    check(path, ids)


def test_a_run_that_still_has_its_detector_computes_what_was_missing_and_ends_again(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    output = Output(path, IDENTITY, {})
    extract(output, ["1", "2"])
    log = work_dir(path) / "part-00000-of-00001.log"
    damage(log, next(iter(scan(log))).offset + 3)
    with pytest.raises(Incomplete) as caught:
        output.finish(stamps(["1", "2"]), [])
    assert caught.value.missing == ["1"]
    assert not output.is_current("1", *source("1").stamp, lambda: source("1").sha256)
    assert output.is_current("2", *source("2").stamp, lambda: source("2").sha256)
    extract(output, ["1", "2"])
    assert output.finish(stamps(["1", "2"]), []).images == 2
    output.close()
    check(path, ["1", "2"])


def test_all_shares_again_after_a_loss_make_the_file(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    ids = [str(i) for i in range(9)]
    for index in range(2):
        make(path, ids, index, 3)
    (work_dir(path) / "part-00001-of-00003.log").unlink()
    with pytest.raises(Incomplete):
        make(path, ids, 2, 3)
    running = [Output(path, IDENTITY, {}, index, 3) for index in range(3)]  # an array started anew
    results = []
    for output in running:
        extract(output, ids)
        results.append(output.finish(stamps(ids), []))
        output.close()
    assert [r is None for r in results] == [True, True, False]
    check(path, ids)


def test_a_flipped_bit_in_the_finished_file_is_found_when_it_is_extended(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2", "3"])
    with h5py.File(path) as file:
        at = file["2/features"].id.get_offset()
    damage(path, at + 5)
    with pytest.raises(Incomplete) as caught:
        make(path, ["1", "2", "3", "4"])
    assert caught.value.missing == ["2"]
    assert make(path, ["1", "2", "3", "4"]).images == 4
    check(path, ["1", "2", "3", "4"])


# --- killed on the way ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave", ["manifest and journals", "journals only", "assembled aside", "closed", "half removed"]
)
def test_killed_between_renaming_and_cleaning_up(tmp_path: Path, leave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "f.h5"
    ids = ["1", "2", "3"]
    monkeypatch.setattr(Output, "_clean_up", lambda self: None)
    make(output, ids)
    monkeypatch.undo()
    monkeypatch.setattr(files, "PATIENCE_HERE", 0.2)
    folder = store.work_dir(output)
    if leave == "journals only":
        (folder / "manifest.json").unlink()
    if leave == "assembled aside":
        output.unlink()
        (folder / "assembled.h5").write_bytes(b"half a file")
    if leave == "closed":
        register = shares.Register(folder)
        register.catch_up()
        assert register.close()
    if leave == "half removed":
        folder.rename(folder.with_name(folder.name + ".done-elsewhere-1"))
    assert make(output, ids).images == 3
    check(output, ids)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "f.report.json"]


# --- by hand ------------------------------------------------------------------------------------------------------


def test_by_hand_after_the_last_share_was_killed_while_assembling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.h5"
    ids = ["1", "2", "3"]
    make(path, ids, 0, 2, failed=("1",))
    with monkeypatch.context() as patch:
        patch.setattr(
            "feature_extraction.storage.assemble.write_features", lambda *a: (_ for _ in ()).throw(OSError("x"))
        )
        with pytest.raises(StoreError, match="mend the cause"):
            make(path, ids, 1, 2, failed=("1",))
    outcome = assemble_by_hand(path)
    assert outcome.images == 2
    assert {f["id"] for f in outcome.failed} == {"1"}
    check(path, ["2", "3"])
    with open_features(path) as file:
        assert store.provenance(file)["note"] == "x"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.h5", "f.report.json"]
    with pytest.raises(StoreError, match="is whole"):
        assemble_by_hand(path)


def test_by_hand_says_what_is_missing_and_who_never_ended(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with pytest.raises(StoreError, match="does not exist"):
        assemble_by_hand(path)
    ids = ["1", "2", "3", "4", "5", "6"]
    running = Output(path, IDENTITY, {}, 1, 3)
    with pytest.raises(StoreBusy):
        assemble_by_hand(path)
    running.close()
    with pytest.raises(StoreError, match="no features yet"):
        assemble_by_hand(path)
    running = Output(path, IDENTITY, {}, 1, 3)
    running.add("2", features(2), source("2"))
    running.close()
    with pytest.raises(StoreError, match="none of its shares has ended"):
        assemble_by_hand(path)
    make(path, ids, 0, 3)
    with pytest.raises(Incomplete, match="never ended: share 2, 3 of 3") as caught:
        assemble_by_hand(path)
    assert caught.value.missing == ["3", "5", "6"]
    make(path, ids, 2, 3)
    running = Output(path, IDENTITY, {}, 1, 3)  # killed when all was done
    extract(running, ids)
    running.close()
    assert assemble_by_hand(path).images == 6
    check(path, ids)


# --- an earlier version -------------------------------------------------------------------------------------------

EARLIER = DATA / "earlier"
IDS = ["1", "10", "2", "3", "9"]


def test_a_file_of_an_earlier_version_is_extended(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    shutil.copy(EARLIER / "finished.h5", path)
    output = Output(path, IDENTITY, {})
    assert [output.is_current(i, *source(i).stamp, lambda: "?") for i in IDS] == [True] * 4 + [False]
    output.close()
    assert make(path, [*IDS, "11"]).images == 6
    check(path, [*IDS, "11"])
    with open_features(path) as file:
        assert [store.source_of(file, i) for i in ("1", "9")] == [None, source("9")]
        assert store.checksums_of(file, "1") == {n: journal.checksum(a) for n, a in features(1).items()}


def test_a_killed_run_of_an_earlier_version_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    shutil.copytree(EARLIER / "killed", work_dir(path))
    output = Output(path, IDENTITY, {})
    assert [output.known(i) for i in IDS] == [True] * 3 + [False] * 2
    output.close()
    assert make(path, IDS).images == 5
    check(path, IDS)


def test_a_share_that_an_earlier_version_ended_counts(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    shutil.copytree(EARLIER / "shared", work_dir(path))
    outcome = make(path, IDS, 1, 2)
    assert outcome.images == 4
    assert outcome.failed == broken("9")
    check(path, IDS[:4])


def test_an_earlier_version_s_other_recipe_is_refused_unless_it_stored_nothing(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    other = {**IDENTITY, "precision": "tf32"}
    shutil.copytree(EARLIER / "killed", work_dir(path))
    with pytest.raises(StoreError, match="precision"):
        Output(path, other, {})
    shutil.rmtree(work_dir(path))
    shutil.copytree(EARLIER / "empty", work_dir(path))
    assert make(path, ["1"], identity=other).images == 1
