"""An export in the making: its folder, its lock, and the list of what is on the disk.

Beside OUT lies ``OUT.work/`` until OUT is whole:

    settings.json     what is being made, of which file; a run that would make something else is refused
    progress.jsonl    a line for each batch on the disk: images done; name, size and CRC-32 of each piece; tallies
    data              what becomes OUT: a file or a folder

A line is appended after what it lists was synced: what is torn or missing at its end is written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from ..errors import StoreError
from ..names import json_printable
from ..storage import files, guard
from ..storage.bounded import read_json
from ..storage.half import BeyondFloat16
from ..storage.store import work_dir
from .form import Piece

OURS: Final = frozenset(("data", "progress.jsonl", "record.json"))
"""What lies in a work folder beside the settings."""


class Ledger:
    """What of one export is on the disk."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.images = 0
        self.pieces: list[Piece] = []
        self.tallies: dict[str, Any] = {}
        self._path = folder / "progress.jsonl"
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._load()

    def _load(self) -> None:
        """Take in the whole lines, cut off what a kill left behind them."""
        length = 0
        with self._path.open("rb") as file:
            for line in file:
                try:
                    said = json.loads(line)
                    pieces = [(str(name), int(size), int(crc)) for name, size, crc in said["pieces"]]
                    images, tallies = int(said["images"]), dict(said["tallies"])
                except (ValueError, KeyError, TypeError):
                    break
                if not line.endswith(b"\n"):
                    break
                self.images, self.tallies = images, tallies
                self.pieces += pieces
                length += len(line)
        os.ftruncate(self._fd, length)

    def append(self, images: int, pieces: list[Piece], tallies: Mapping[str, Any]) -> None:
        """Write down that these further ``pieces``, of all images up to number ``images``, are on the disk."""
        line = json.dumps({"images": images, "pieces": pieces, "tallies": tallies})
        files.write_fully(self._fd, line.encode() + b"\n")
        os.fsync(self._fd)
        self.images = images
        self.pieces += pieces

    def forget(self) -> None:
        """Let the next run write everything again."""
        os.ftruncate(self._fd, 0)
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def open_ledger(output: Path, settings: Mapping[str, Any]) -> Iterator[Ledger]:
    """The ledger of one export, held by this process alone; gone on with where an earlier run was stopped. Where the
    block ends with an error and nothing of worth is on the disk, nothing stays there.

    Raises StoreError where that run made something else, StoreBusy where it still runs."""
    folder = work_dir(output)
    folder.mkdir(parents=True, exist_ok=True)
    with files.exclusive(folder / "lock", busy=f"another run is writing {output}: wait for it, or stop it"):
        path = folder / "settings.json"
        try:
            begun = read_json(path)
        except FileNotFoundError:
            begun = None
            _clear(folder)
            files.atomic_write(path, _text(settings))
        except ValueError as error:
            raise StoreError(f"{path} is damaged ({error}): delete {folder} to start anew") from error
        if begun is not None:
            refuse_other(begun, settings, f"{folder} was begun", f"or delete {folder} to start anew")
        ledger = Ledger(folder)
        try:
            yield ledger
        except BaseException as error:
            if not ledger.images or isinstance(error, BeyondFloat16):  # nothing that the cure could go on with
                remove_work(output)
            raise
        finally:
            ledger.close()


def _clear(folder: Path) -> None:
    """Remove what was left by a run that was killed while it removed its work, settings first perhaps. Raises
    StoreError where the folder is of something else: an extraction's has the same name."""
    left = [path for path in folder.iterdir() if path.name != "lock"]
    for path in left:
        if path.name not in OURS and not path.name.startswith((".settings", ".record")):
            raise StoreError(f"{folder} holds {guard.shown(path.name)}, which is of no export: give another output")
    for path in left:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def refuse_other(found: Any, now: Mapping[str, Any], what: str, way_out: str) -> None:
    """Raise StoreError naming the first setting that differs."""
    found = found if isinstance(found, dict) else {}
    for name, value in json.loads(_text(now)).items():
        if found.get(name) != value:
            raise StoreError(f"{what} with {name} {found.get(name)!r}, now {value!r}: use the same, {way_out}")


def record_path(output: Path) -> Path:
    """What OUT was made of and how, beside it: readers of a folder would take a file in it for features."""
    return output.with_name(output.name + ".export.json")


def read_record(output: Path) -> dict[str, Any]:
    """What stands beside OUT; empty where nothing of ours does."""
    try:
        found = read_json(record_path(output))
        sound = isinstance(found["images"], int) and isinstance(found["bytes"], int)
        return dict(found) if sound and all(isinstance(note, str) for note in found["notes"]) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def publish(ledger: Ledger, output: Path, record: Mapping[str, Any]) -> None:
    """Let what is whole take its name, its record first, and remove the work folder. The lock is held."""
    written = ledger.data.with_name("record.json")
    files.atomic_write(written, _text(record))
    written.replace(record_path(output))
    ledger.data.rename(output)
    files.sync_folder(output.parent)
    remove_work(output)


def remove_work(output: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(work_dir(output))


def _text(value: Mapping[str, Any]) -> str:
    return json_printable(json.dumps(dict(value), indent=1, ensure_ascii=False)) + "\n"
