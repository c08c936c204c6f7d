"""Files, one policy each: written whole or not at all, locked, with room, with a digest, on the disk.

Standard library only. Every class of error that a caller wants raised for its own users can be given as ``error``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ..errors import KitError, StoreBusy, StoreError

BLOCK: Final = 1 << 20
"""Bytes read at once."""
ONE_KERNEL: Final = frozenset(
    (
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "jfs",
        "bcachefs",
        "tmpfs",
        "ramfs",
        "overlay",
        "vfat",
        "exfat",
    )
)
"""File systems that one kernel alone changes: what one process did, every other sees at once."""
PATIENCE: Final = 90.0
"""Seconds after which every client of a shared folder sees what another did there: NFS looks again after 3 to 60
seconds, sshfs after 20."""
PATIENCE_HERE: Final = 2.0
"""The same where one kernel holds the file system: not 0, as mounts can be layered in ways not seen from here."""


# --- written whole or not at all ---------------------------------------------------------------------


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write in, which takes the place of ``path``, synced, when the block ends well.

    With an error, or a kill at any instant, ``path`` is what it was; raises OSError as the system gives it."""
    # part of the name only: a name may be as long as the file system allows
    temporary = path.with_name(f".{path.name[:40]}.{os.getpid()}-{secrets.token_hex(4)}")
    with _taking_the_place(temporary, path), temporary.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def making(path: Path) -> Iterator[Path]:
    """An empty file, ``.NAME.making``, to write in by its name; it takes the place of ``path``, synced, when the block
    ends well. For what takes long: one process at a time makes it, and what a killed one left is begun anew.

    Raises StoreBusy where another process makes it now, OSError as the system gives it."""
    temporary = path.with_name(f".{path.name}.making")
    busy = f"another process is making {path} right now: wait for it"
    with exclusive(temporary, busy=busy) as held, _taking_the_place(temporary, path):
        held.truncate(0)
        yield temporary
        sync_file(temporary)


@contextlib.contextmanager
def _taking_the_place(temporary: Path, path: Path) -> Iterator[None]:
    """``temporary`` becomes ``path`` when the block, which syncs it, ends well; else it goes."""
    try:
        yield
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, data: str | bytes) -> None:
    """Let ``path`` hold ``data`` (text as UTF-8): the old or the new, whole, whatever happens. Raises OSError."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_fully(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, however many calls the system makes of it. Raises OSError."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


# --- on the disk --------------------------------------------------------------------------------------


def sync_file(path: Path) -> None:
    """Return when what was written to ``path`` is on the disk. Raises OSError."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make created, renamed and removed names in ``folder`` durable. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some file systems cannot sync a folder, and say so: there a rename is as durable as it gets
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(handle)


# --- locks ----------------------------------------------------------------------------------------------


def try_lock(file: IO[bytes] | int, name: object, error: type[KitError] = StoreError, *, wait: bool = False) -> bool:
    """Take the exclusive lock of an open file; the kernel releases it when the process ends, however it ends.

    Returns whether it was free; ``wait`` for it instead. Raises ``error`` where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as problem:
        raise error(
            f"{name}: this file system has no locks ({problem}), without which two runs could spoil each other's "
            "work: put the output on another one (Lustre: mount with flock) and copy the finished file"
        ) from problem
    return True


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of ``path`` right now; False where there is no such file."""
    try:
        with path.open("rb") as file:
            return not try_lock(file, path)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def exclusive(
    path: Path, *, busy: str = "", wait: bool = False, error: type[KitError] = StoreError
) -> Iterator[IO[bytes]]:
    """Hold the lock file ``path`` (created where missing, never removed here) while the block runs.

    Where another process holds it: ``wait``, or raise StoreBusy (``error``, where another class is wanted) with the
    text ``busy``. Raises ``error`` where the file system has no locks, OSError where the file cannot be made."""
    while True:
        with path.open("ab") as file:
            if not try_lock(file, path, error, wait=wait):
                raise (StoreBusy if error is StoreError else error)(busy or f"{path}: another process holds it")
            if same_file(file, path):  # its last owner may have removed it while we waited
                yield file
                return


def same_file(file: IO[bytes], path: Path) -> bool:
    """Whether ``path`` is still the name of the open ``file``."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file.fileno())
    return (found.st_dev, found.st_ino) == (opened.st_dev, opened.st_ino)


# --- room, digest, views ----------------------------------------------------------------------------------


def check_room(folder: Path, needed: int, what: str, error: type[KitError] = StoreError) -> None:
    """Raise ``error`` unless ``folder`` has ``needed`` bytes free; ``what`` they are for ends up in the message."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        one, unit = (1e9, "GB") if needed >= 1e9 else (1e6, "MB")
        raise error(
            f"not enough space in {folder}: {needed / one:,.1f} {unit} needed ({what}), {free / one:,.1f} {unit} free; "
            "make space or give another output. Nothing was started"
        )


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def patience(folder: Path) -> float:
    """Seconds within which this process sees what another one, perhaps on another machine, did in ``folder``."""
    return PATIENCE_HERE if _kind_of(folder) in ONE_KERNEL else PATIENCE


def _kind_of(folder: Path) -> str:
    """The file system's kind as the kernel names it ("ext4", "fuse.sshfs"); "" where it cannot be told."""
    place = os.fsencode(os.path.realpath(folder))
    longest, kind = -1, b""
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return ""
    for line in lines:  # "36 35 98:0 / /mnt rw,noatime master:1 - ext4 /dev/sda1 rw"
        before, _, behind = line.partition(b" - ")
        point = before.split()[4].decode("unicode_escape").encode("latin-1")  # blanks are written \\040
        inside = place == point or place.startswith(point.rstrip(b"/") + b"/")
        if inside and len(point) >= longest:
            longest, kind = len(point), behind.split()[0]
    return kind.decode()


class Deadline:
    """So long and no longer: a wait for what another process did to become visible, said once."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = 0.02

    def passed(self) -> bool:
        return time.monotonic() >= self._end

    def wait(self) -> bool:
        """Wait a little, longer each time up to a second. False when the time is up."""
        if self.passed():
            return False
        time.sleep(min(self._pause, max(0.0, self._end - time.monotonic())))
        self._pause = min(1.0, self._pause * 1.5)
        return True


def drop_cached(fd: int) -> None:
    """Let the next read of ``fd`` come from the disk or server instead of this machine's memory, where it can."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
