"""Download one file whole, or leave nothing at its name. curl does the transfer; this module decides what comes next.

curl, because it is on every machine, is cared for like few programs, and already does what is easily got wrong:
resuming, redirects, proxies, certificates, stalled lines. No HTTP is spoken here. What curl cannot know is decided
here: whether an unfinished part still belongs to the file the server has now, whether to resume or begin again, how
long to wait, and whether what came is what is wanted. Standard library only.

    NAME.part        what has arrived          NAME.part.json   of which version of the file
    NAME             the whole, verified file: appears by renaming, after everything was checked
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

MAGIC: Final = {
    ".h5": (b"\x89HDF\r\n\x1a\n",),
    ".zip": (b"PK\x03\x04",),
    ".pth": (b"PK\x03\x04", b"\x80"),  # PyTorch's zip format, or the pickle of its first years
}
"""How files of a kind begin; a proxy's error page, sent with status 200, does not begin so."""

FINAL_STATUS: Final = (400, 401, 403, 404, 405, 406, 410, 451)
"""HTTP answers that another try will not change."""
FINAL_EXITS: Final = {
    1: "the protocol of the address, or of a redirect, is not allowed",
    3: "the address is malformed",
    23: "writing failed: is the disk full, the folder writable?",
    37: "the local file cannot be read",
    47: "too many redirects",
    60: "the server's certificate is not trusted; a site's own goes into CURL_CA_BUNDLE",
}
"""curl's exit codes that another try will not change."""
CANNOT_RESUME: Final = 33
MOST_RESTARTS: Final = 2


class FetchError(RuntimeError):
    """A download that ended without its file; the message says what to do."""


class Stopped(FetchError):
    """The user asked to stop; what has arrived is kept."""


@dataclass(frozen=True)
class Item:
    """One file to have."""

    key: str
    """Its name in the lock file, and below a mirror's address."""
    url: str
    path: Path
    sha256: str | None = None
    """Demanded by the user; otherwise the lock file's, otherwise recorded."""

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def about_part(self) -> Path:
        return self.path.with_name(self.path.name + ".part.json")

    def arrived(self) -> int:
        """Bytes on the disk."""
        for path in (self.path, self.part):
            if path.is_file():
                return path.stat().st_size
        return 0


@dataclass(frozen=True)
class Patience:
    """How long a download is tried. A try that brings new bytes begins the count anew."""

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    connect: int = 30
    stalled: int = 60
    """Seconds with less than 1 kB/s after which curl gives a connection up."""

    def waits(self) -> Iterator[float]:
        wait = self.first_wait
        for _ in range(self.tries - 1):
            yield wait
            wait = min(2 * wait, self.longest_wait)


@dataclass
class LockFile:
    """SHA-256 and size of every file ever accepted: recorded at first sight, enforced afterwards."""

    path: Path
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.is_file():
            return {}
        try:
            entries: dict[str, dict[str, Any]] = json.loads(self.path.read_text())
            return {key: {"sha256": str(e["sha256"]), "size": int(e["size"])} for key, e in entries.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FetchError(f"{self.path} is not a lock file ({error}): restore it, or delete it") from error

    def entry(self, key: str) -> dict[str, Any] | None:
        return self._read().get(key)

    def record(self, key: str, sha256: str, size: int) -> None:
        with self._guard, self.path.with_name(self.path.name + ".guard").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            entries = {**self._read(), key: {"sha256": sha256, "size": size}}
            new = self.path.with_name(self.path.name + ".new")
            new.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
            os.replace(new, self.path)


def sha256_of(path: Path, stopping: threading.Event) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            if stopping.is_set():
                raise Stopped(f"{path.name}: stopped; what has arrived is kept")
            digest.update(chunk)
    return digest.hexdigest()


def protocols(url: str) -> str:
    """What an address and its redirects may use: never less than what the address itself uses."""
    scheme = url.partition(":")[0].lower()
    return {"https": "=https", "file": "=file"}.get(scheme, "=http,https")


def curl(url: str, patience: Patience, *arguments: str) -> list[str]:
    return [
        "curl", "--disable", "--globoff", "--silent", "--show-error", "--fail", "--location", "--max-redirs", "5",
        "--proto", protocols(url), "--proto-redir", protocols(url),
        "--connect-timeout", str(patience.connect), "--speed-limit", "1024", "--speed-time", str(patience.stalled),
        *arguments, "--", url,
    ]  # fmt: skip


def remote_version(url: str, patience: Patience) -> dict[str, str]:
    """Size and validators of the file the server has now, lower-case header names; {} where it does not say."""
    done = subprocess.run(
        curl(url, patience, "--head", "--max-time", str(patience.connect + patience.stalled)),
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        return {}
    last = done.stdout.replace("\r", "").strip().split("\n\n")[-1]  # redirects come first
    headers = {n.strip().lower(): v.strip() for n, colon, v in (li.partition(":") for li in last.split("\n")) if colon}
    return {n: headers[n] for n in ("content-length", "etag", "last-modified") if headers.get(n)}


def size_in(version: dict[str, str]) -> int | None:
    length = version.get("content-length", "")
    return int(length) if length.isdigit() else None


@contextmanager
def alone(item: Item) -> Iterator[None]:
    """Two processes must not write one part."""
    item.path.parent.mkdir(parents=True, exist_ok=True)
    with item.about_part.open("a") as mine:
        try:
            fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FetchError(f"{item.path.name}: another download of it is running; wait for it") from None
        yield


def keep_or_drop_part(item: Item, version: dict[str, str]) -> None:
    """A part is continued only if it belongs to the version of the file that the server has now."""
    try:
        before = json.loads(item.about_part.read_text())
    except (OSError, ValueError):
        before = None
    size = size_in(version)
    stale = before != {"url": item.url, **version} or len(version) == 0
    if item.part.exists() and (stale or (size is not None and item.part.stat().st_size > size)):
        item.part.unlink()
    item.about_part.write_text(json.dumps({"url": item.url, **version}))


def transfer(item: Item, patience: Patience, stopping: threading.Event) -> tuple[int, int, str]:
    """One run of curl, continuing the part: exit code, HTTP status, what curl said."""
    command = curl(
        item.url, patience, "--continue-at", "-", "--output", str(item.part), "--write-out", "%{http_code}"
    )  # fmt: skip
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while True:
            try:
                out, error = process.communicate(timeout=0.2)
            except subprocess.TimeoutExpired:
                if stopping.is_set():
                    process.terminate()
                continue
            status = int(out) if out.isdigit() else 0
            return process.returncode, status, error.strip().removeprefix("curl: ")


def download_part(item: Item, size: int | None, patience: Patience, stopping: threading.Event) -> None:
    """Make ``item.part`` complete, however often the line breaks. Raises FetchError."""
    waits, restarts = patience.waits(), 0
    wait: float | None
    while size is None or item.arrived() != size:
        before = item.arrived()
        code, status, said = transfer(item, patience, stopping)
        if stopping.is_set():
            raise Stopped(f"{item.path.name}: stopped; what has arrived is kept")
        if code == 0 and (size is None or item.arrived() == size):
            return
        if code in FINAL_EXITS or status in FINAL_STATUS:
            why = FINAL_EXITS.get(code, "try later, or another source: BASE_URL=mirror or folder")
            raise FetchError(f"{item.path.name}: {said or f'HTTP {status}'} ({item.url}): {why}")
        if status == 416 or code == CANNOT_RESUME or (size is not None and item.arrived() > size):
            restarts += 1
            if restarts > MOST_RESTARTS:
                raise FetchError(
                    f"{item.path.name}: the server neither continues nor begins anew ({said or f'HTTP {status}'}): "
                    "try later, or another source: BASE_URL=mirror or folder"
                )
            item.part.unlink(missing_ok=True)
            continue
        if item.arrived() > before:
            waits, wait = patience.waits(), patience.first_wait
        else:
            wait = next(waits, None)
        if wait is None:
            raise FetchError(
                f"{item.path.name}: given up after {patience.tries} tries without a new byte "
                f"({said or f'HTTP {status}'}); {item.arrived()} of {size or 'unknown'} bytes are kept: "
                "the same command continues"
            )
        if stopping.wait(wait):
            raise Stopped(f"{item.path.name}: stopped; what has arrived is kept")


def wrong_with(path: Path, item: Item, size: int | None, wanted: str | None, digest: str) -> str | None:
    """Why the file at ``path`` is not what is wanted, or None."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes arrived, {size} were expected"
    starts = MAGIC.get(item.path.suffix)
    with path.open("rb") as file:
        head = file.read(16)
    if starts and not head.startswith(starts):
        return f"it is no {item.path.suffix} file, it begins with {head!r}: an error page, perhaps"
    if item.path.suffix == ".yaml" and head.lstrip().startswith(b"<"):
        return f"it is no configuration, it begins with {head!r}: an error page, perhaps"
    if wanted is not None and digest != wanted:
        return f"its SHA-256 is {digest}, expected {wanted}"
    return None


def accept(item: Item, lock: LockFile, known: dict[str, Any] | None, stopping: threading.Event) -> str:
    """What is said of a file that is at its name already. Raises FetchError if it is another one."""
    size = item.path.stat().st_size
    if known and not item.sha256 and size == known["size"]:
        return "is there"
    wanted = item.sha256 or (known["sha256"] if known else None)
    digest = sha256_of(item.path, stopping)
    if wrong := wrong_with(item.path, item, None, wanted, digest):
        raise FetchError(f"{item.path} is there, but {wrong}: move it away and run the same command again")
    lock.record(item.key, digest, size)
    return "was there, verified" if wanted else "was there, SHA-256 recorded"


def check_size(item: Item, size: int, known: dict[str, Any] | None, lock: LockFile) -> None:
    """Raise FetchError if the server's file is not the known one, or does not fit on the disk."""
    if known and size != known["size"]:
        raise FetchError(
            f"{item.path.name}: the server's file has {size} bytes, {lock.path} knows it with "
            f"{known['size']}: another file; find out which is right before deleting the entry"
        )
    room = shutil.disk_usage(item.path.parent).free
    if size - item.arrived() > room:
        raise FetchError(
            f"{item.path.name}: {size - item.arrived()} bytes are to come, {item.path.parent} has room for "
            f"{room}: make room, or choose another folder"
        )


def fetch(item: Item, lock: LockFile, patience: Patience, stopping: threading.Event) -> str:
    """Have ``item`` at its path, whole and verified; says what was done. Raises FetchError."""
    known = lock.entry(item.key)
    wanted = item.sha256 or (known["sha256"] if known else None)
    if known and wanted != known["sha256"]:
        raise FetchError(
            f"{item.path.name}: --sha256 {item.sha256} contradicts {known['sha256']} recorded in {lock.path}"
        )
    if item.path.is_file():
        return accept(item, lock, known, stopping)
    with alone(item):
        while True:
            version = remote_version(item.url, patience)
            size = size_in(version)
            keep_or_drop_part(item, version)
            if size is not None:
                check_size(item, size, known, lock)
            resumed = item.part.exists()
            download_part(item, size, patience, stopping)
            digest = sha256_of(item.part, stopping)
            wrong = wrong_with(item.part, item, size, wanted, digest)
            if wrong is None:
                break
            item.part.unlink()
            # a part continued across a change on the server cannot be right: once more, from the first byte
            if not resumed:
                raise FetchError(f"{item.path.name}: {wrong}; deleted. Source: {item.url}")
        with item.part.open("rb") as file:
            os.fsync(file.fileno())
        lock.record(item.key, digest, item.part.stat().st_size)
        os.replace(item.part, item.path)
        item.about_part.unlink()
    return "downloaded, verified" if wanted else "downloaded, SHA-256 recorded"
