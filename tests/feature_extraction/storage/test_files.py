"""One policy each: written whole or not at all, locked, with room, on the disk."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from feature_extraction.errors import DownloadError, StoreBusy, StoreError
from feature_extraction.storage import files
from feature_extraction.storage.journal_writer import JournalWriter


def test_a_file_that_cannot_be_finished_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.atomic_write(path, "before")

    def interrupted() -> None:
        with files.atomic_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert path.read_text() == "before"


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 255)
    files.atomic_write(path, b"whole")
    assert path.read_bytes() == b"whole"


def test_all_is_written_however_little_the_system_takes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    with (tmp_path / "f").open("wb") as file:
        files.write_fully(file.fileno(), b"0123456789")
    assert (tmp_path / "f").read_bytes() == b"0123456789"


@pytest.mark.parametrize(("number", "told"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_as_durable_as_it_gets_a_failing_disk_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if told:
        with pytest.raises(OSError, match=os.strerror(number)):
            files.sync_folder(tmp_path)
    else:
        files.sync_folder(tmp_path)


def removed_before_it_is_locked(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Its last owner takes ``path`` away between its being opened and locked, once."""
    real, removed = files.try_lock, []

    def late(*arguments: Any, **more: Any) -> bool:
        if not removed:
            path.unlink()
            removed.append(path)
        return real(*arguments, **more)

    monkeypatch.setattr(files, "try_lock", late)


def test_the_lock_of_a_file_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    removed_before_it_is_locked(monkeypatch, path)
    with files.exclusive(path) as held:
        assert files.same_file(held, path)


def test_nor_is_that_of_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part-00000-of-00001.log"
    removed_before_it_is_locked(monkeypatch, path)
    writer = JournalWriter(tmp_path, 0, 1)
    assert files.is_locked(path)
    writer.close()
    assert not files.is_locked(path)


def test_who_holds_a_lock_is_told_in_the_words_of_the_caller(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with files.exclusive(path):
        assert files.is_locked(path)
        with pytest.raises(StoreBusy, match="another process holds it"), files.exclusive(path):
            pass
        with pytest.raises(DownloadError, match="at it"), files.exclusive(path, busy="at it", error=DownloadError):
            pass
    with files.exclusive(path):
        pass
    assert not files.is_locked(tmp_path / "none")


def test_room_for_every_byte_and_no_more_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    files.check_room(tmp_path, 1000, "all of it")
    with pytest.raises(StoreError, match="not enough space"):
        files.check_room(tmp_path, 1001, "all of it")
