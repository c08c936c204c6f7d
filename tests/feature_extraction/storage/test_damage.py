"""What a disk or a kill did to a file in the making is found, computed again, or mended by hand."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
from helpers.storing import IDENTITY, check, extract, features, flip, make, source, stamps

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.storage import assemble, files, shares, store
from feature_extraction.storage.by_hand import assemble_by_hand
from feature_extraction.storage.journal import scan
from feature_extraction.storage.output import Incomplete, Output
from feature_extraction.storage.store import open_features, work_dir

pytestmark = pytest.mark.usefixtures("quick")


def test_a_damaged_record_is_reported_missing_and_computed_again(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    ids = [str(i) for i in range(8)]
    make(path, ids, 0, 2)
    log = work_dir(path) / "part-00000-of-00002.log"
    flip(log, list(scan(log))[1].offset + 3)
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
    flip(log, next(iter(scan(log))).offset + 3)
    with pytest.raises(Incomplete) as caught:
        output.finish(stamps(["1", "2"]), [])
    assert caught.value.missing == ["1"]
    assert not output.known("1")
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
    flip(path, at + 5)
    with pytest.raises(Incomplete) as caught:
        make(path, ["1", "2", "3", "4"])
    assert caught.value.missing == ["2"]
    assert make(path, ["1", "2", "3", "4"]).images == 4
    check(path, ["1", "2", "3", "4"])


def turn_over_a_bit_of_one(path: Path) -> None:
    with h5py.File(path, locking=False) as file:
        at = file["2/features"].id.get_offset()
    flip(path, at + 5)


def lose_one(path: Path) -> None:
    with h5py.File(path, "a", locking=False) as file:
        del file["2"]


@pytest.mark.parametrize(
    ("lose", "said"), [(turn_over_a_bit_of_one, "'2' are not what was written"), (lose_one, "holds 2 images")]
)
def test_what_the_disk_loses_of_a_file_is_seen_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Path], None], said: str
) -> None:
    path, ids = tmp_path / "f.h5", ["1", "2", "3"]
    write = assemble.write_features

    def lossy(path: Path, *arguments: Any) -> Any:
        written = write(path, *arguments)
        lose(path)
        return written

    with monkeypatch.context() as patch:
        patch.setattr(assemble, "write_features", lossy)
        with pytest.raises(StoreError, match=said):
            make(path, ids)
    assert not path.exists()
    assert make(path, ids).images == 3
    check(path, ids)


# --- killed on the way --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave", ["manifest and journals", "journals only", "assembled aside", "closed", "half removed"]
)
def test_killed_between_renaming_and_cleaning_up(tmp_path: Path, leave: str, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "f.h5"
    ids = ["1", "2", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(Output, "_clean_up", lambda self: None)
        make(output, ids)
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


def test_what_killed_runs_left_is_removed_before_the_file_is_written_anew_but_not_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes as much room as the finished file."""
    path = tmp_path / "f.h5"
    output = Output(path, IDENTITY, {})
    extract(output, ["1"])
    left, held = output.folder / "assembled-here-1.h5", output.folder / "assembled-here-2.h5"
    left.touch()
    seen: list[list[Path]] = []

    def full(*_: object) -> None:
        seen.append(sorted(output.folder.glob("assembled*.h5")))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(assemble, "write_features", full)
    with held.open("xb") as other:
        files.try_lock(other, held)
        with pytest.raises(StoreError, match="No space left"):
            output.finish(stamps(["1"]), [])
        (own,) = [found for found in seen[0] if found != held]
        assert own != left
        assert sorted(output.folder.glob("assembled*.h5")) == [held]
    output.close()


# --- by hand --------------------------------------------------------------------------------


@contextlib.contextmanager
def cannot_be_written() -> Iterator[None]:
    """While the block runs, the file cannot be; the block must end by that."""

    def fail(*_: object) -> None:
        raise OSError("x")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "write_features", fail)
        with pytest.raises(StoreError, match="mend the cause"):
            yield


def test_by_hand_after_the_last_share_was_killed_while_assembling(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    ids = ["1", "2", "3"]
    make(path, ids, 0, 2, failed=("1",))
    with cannot_be_written():
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


def test_by_hand_takes_the_newest_of_a_replaced_image(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    output = Output(path, IDENTITY, {})
    extract(output, ["1", "2"])
    time.sleep(0.002)  # times are kept in milliseconds
    output.add("1", features(77), source("1", 7))
    with cannot_be_written():
        output.finish(stamps(["1", "2"], {"1": 7}), [])
    output.close()
    assert assemble_by_hand(path).images == 2
    check(path, ["1", "2"], {"1": 77})


def test_by_hand_the_list_of_images_is_held_to_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with cannot_be_written():
        make(path, ["1", "2", "3"])
    (listed,) = work_dir(path).glob("images-*.json")
    whole = listed.read_text()
    for damaged in ('["1", "2"]', "[", "7"):
        listed.write_text(damaged)
        with pytest.raises(StoreError, match="the list of its images, is missing or damaged"):
            assemble_by_hand(path)
    listed.write_text(whole)
    assert assemble_by_hand(path).images == 3


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
