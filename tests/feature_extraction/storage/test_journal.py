"""The journals: torn ends at every byte, damage anywhere, lost bytes, failing calls, locks."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
from helpers.storing import features, flip, source
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.errors import StoreBusy, StoreError
from feature_extraction.storage import files
from feature_extraction.storage.journal import Damaged, Record, scan
from feature_extraction.storage.journal_writer import JournalWriter


def written(folder: Path, count: int) -> JournalWriter:
    writer = JournalWriter(folder, 0, 1)
    for i in range(count):
        writer.add(str(i), features(i), source(str(i)), "recipe")
    writer.sync()
    writer.close()
    return writer


def sound(journal: Path) -> list[str]:
    """Ids of the records whose arrays are what was written; they must be those of that image."""
    found = []
    for record in scan(journal):
        try:
            arrays = record.read()
        except Damaged:
            continue
        np.testing.assert_array_equal(arrays["features"], features(int(record.id))["features"])
        assert record.source == source(record.id)
        found.append(record.id)
    return found


def test_a_journal_cut_at_any_byte_loses_at_most_its_last_record(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, 0, 1)
    ends = [0]
    for i in range(3):
        writer.add(str(i), features(i), source(str(i)), None)
        writer.sync()
        ends.append(os.path.getsize(writer.path))
    writer.close()
    whole = writer.path.read_bytes()
    for length in range(len(whole) + 1):
        writer.path.write_bytes(whole[:length])
        count = sum(end <= length for end in ends) - 1
        assert sound(writer.path) == [str(i) for i in range(count)]
        if length % 7 == 0:
            again = JournalWriter(tmp_path, 0, 1)
            assert os.path.getsize(again.path) == ends[count]
            again.add("9", features(9), source("9"), None)
            again.close()
            assert sound(writer.path) == [*(str(i) for i in range(count)), "9"]


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_a_changed_byte_costs_the_record_it_is_in(
    tmp_path_factory: pytest.TempPathFactory, where: int, change: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    journal = written(folder, 5).path
    data = bytearray(journal.read_bytes())
    where %= len(data)
    (hit,) = [record.id for record in scan(journal) if record.start <= where < record.stop]
    data[where] ^= change
    journal.write_bytes(data)
    assert sound(journal) == [str(i) for i in range(5) if str(i) != hit]
    # a new writer goes on from what is sound and says what is not
    again = JournalWriter(folder, 0, 1)
    again.add("7", features(7), source("7"), None)
    again.close()
    assert sound_done(journal) == [*(str(i) for i in range(5) if str(i) != hit), "7"]


def sound_done(journal: Path) -> list[str]:
    void = {(r.id, r.more["place"]) for r in scan(journal) if r.status == "void"}
    return [r.id for r in scan(journal) if r.status == "done" and (r.id, r.place) not in void]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_lost_or_zeroed_the_other_records_are_found(tmp_path: Path, seed: int) -> None:
    journal = written(tmp_path, 12).path
    records = list(scan(journal))
    data = journal.read_bytes()
    chance = random.Random(seed)
    low, high = sorted(chance.sample(range(len(data)), 2))
    hit = {r.id for r in records if r.start < high and low < r.stop}
    gap = b"" if seed % 2 else bytes(high - low)
    journal.write_bytes(data[:low] + gap + data[high:])
    found = sound(journal)  # one that was cut may be whole again, where what followed has the same last bytes
    assert [i for i in found if i not in hit] == [r.id for r in records if r.id not in hit]


def test_a_head_with_one_wrong_bit_does_not_cut_off_the_thousands_behind_it(tmp_path: Path) -> None:
    journal = written(tmp_path, 2000).path
    records: list[Record] = list(scan(journal))
    size = journal.stat().st_size
    flip(journal, records[3].start + 9)
    JournalWriter(tmp_path, 0, 1).close()
    assert sound_done(journal) == [str(i) for i in range(2000) if i != 3]
    assert journal.stat().st_size >= size


def test_arrays_that_hold_a_head_of_a_journal_are_arrays(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    inner = np.frombuffer(written(tmp_path / "inner", 2).path.read_bytes(), np.uint8)
    writer = JournalWriter(tmp_path, 0, 1)
    writer.add("8", {"features": inner}, source("8"), None)
    writer.add("9", {"features": inner}, source("9"), None)
    writer.close()
    assert [r.id for r in scan(writer.path)] == ["8", "9"]


def test_records_that_a_power_loss_zeroed_before_a_sound_one_are_computed_again(tmp_path: Path) -> None:
    journal = written(tmp_path, 4).path
    records = list(scan(journal))
    data = bytearray(journal.read_bytes())
    data[records[1].offset : records[1].stop] = bytes(records[1].size)
    journal.write_bytes(data)
    JournalWriter(tmp_path, 0, 1).close()
    assert sound_done(journal) == ["0", "2", "3"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_after_a_failed_write_or_sync_nothing_more_is_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    for name in ("write", "fsync"):
        folder = tmp_path / name
        folder.mkdir()
        writer = JournalWriter(folder, 0, 1)
        writer.add("1", features(1), source("1"), None)
        writer.sync()
        real = getattr(os, name)

        def fails(fd: int, data: bytes = b"", real=real) -> int:
            if len(data) > 100:
                real(fd, data[:50])
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, name, fails)

        def store_one(writer=writer) -> None:
            writer.add("2", features(2), source("2"), None)
            writer.sync()

        with pytest.raises(OSError, match=os.strerror(code)):
            store_one()
        monkeypatch.undo()
        for act in (lambda w=writer: w.add("3", features(3), source("3"), None), writer.sync):
            with pytest.raises(OSError, match="before"):
                act()
        writer.close()
        JournalWriter(folder, 0, 1).close()
        assert sound(writer.path)[:1] == ["1"]
        assert "3" not in sound(writer.path)


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: max(1, len(data) // 2)]))
    journal = written(tmp_path, 3).path
    assert sound(journal) == ["0", "1", "2"]


def test_a_journal_is_held_by_one_process(tmp_path: Path) -> None:
    first = JournalWriter(tmp_path, 0, 1)
    for count in (1, 2):  # the same split of the work, and another
        with pytest.raises(StoreBusy, match="another run"):
            JournalWriter(tmp_path, count - 1, count)
    first.close()
    JournalWriter(tmp_path, 1, 2).close()


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with pytest.raises(StoreError, match="this file system has no locks"):
        JournalWriter(tmp_path, 0, 1)
