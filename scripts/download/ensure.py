"""Have one file, or the content of one archive. Standard library only."""

from __future__ import annotations

import os

from feature_extraction.errors import DownloadError
from feature_extraction.names import printable

from .fetch import Download, fetch
from .files import exclusive
from .policy import Run, Stopped
from .record import LockFile
from .unpack import unpack


def ensure(download: Download, lock: LockFile, run: Run, *, keep: bool = False) -> str:
    """Have the file, or the content of the archive, at its place; says what was done. ``keep``: the archive as well.

    One process at a time; another one is told so. Raises DownloadError.
    """
    try:
        with exclusive(download.busy, f"{download.name}: another download of it is running; wait for it"):
            return _ensure(download, lock, run, keep)
    except OSError as error:
        raise DownloadError(
            f"{download.name}: {error.strerror or error} ({printable(error.filename or download.path.parent)}): is the "
            "disk full, the folder writable? What has arrived is kept: the same command continues"
        ) from error


def _ensure(download: Download, lock: LockFile, run: Run, keep: bool) -> str:
    destination = download.destination
    if destination is None:
        return f"{printable(download.path)}: {fetch(download, lock, run)}"
    if download.there():  # another process has just had it
        return f"{printable(destination)}: is there"
    done = fetch(download, lock, run)
    run.say(f"{download.name}: unpacking to {printable(destination)}")
    destination.parent.mkdir(parents=True, exist_ok=True)

    def check() -> None:
        if run.stopping.is_set():
            raise Stopped(f"{download.name}: stopped; the archive is kept, the same command unpacks it")

    files = unpack(download.path, download.top, destination, check=check)
    if not keep:
        os.unlink(download.path)
    return f"{printable(destination)}: {files} files unpacked ({done})"
