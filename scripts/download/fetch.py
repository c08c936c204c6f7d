"""Download one file whole, or leave nothing at its name. curl does the transfer; this module decides what comes next.

curl, because it is on every machine, is cared for like few programs, and already does what is easily got wrong:
redirects, proxies, certificates, protocols. What curl cannot know is decided here: whether what has arrived still
belongs to the file the server has now, whether to resume or begin anew, how long to wait, and whether what came is
what is wanted. Standard library only.

Bytes of two versions of a file are never joined. A continuation is asked for with If-Range, its answer has to name the
same version (ETag or Last-Modified, length) and the very range; before the file is accepted the server is asked once
more. Where a server says neither, a broken file is begun anew, unless its SHA-256 is known beforehand.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from feature_extraction.errors import DownloadError
from feature_extraction.images.address import shown
from feature_extraction.names import printable
from feature_extraction.places import to_give

from .curl import FINAL_EXITS, HTTP_ERROR, Answer, Outcome, Request, Timeouts
from .documents import not_a_document
from .files import room, sha256
from .part import Part
from .policy import SLOW, Run
from .record import Known, LockFile
from .validate import HEAD, announced_too_much, cap, is_cut_short, not_of_its_kind
from .version import Version

FINAL_STATUS: Final = (400, 401, 403, 404, 405, 406, 410, 451)
"""HTTP answers that another try will not change."""
ELSEWHERE: Final = f"try later, or another source: {to_give('--base-url ADDRESS|FOLDER', 'BASE_URL=mirror or folder')}"


class Contradiction(Exception):
    """What the server sends does not fit what has arrived: the file is to be begun anew."""


@dataclass(frozen=True)
class Download:
    """One file to have, and for an archive where its content belongs."""

    key: str
    """Its name in the lock file, and below a mirror's address."""
    url: str
    path: Path
    sha256: str | None = None
    """Demanded by the user; otherwise the lock file's, otherwise recorded."""
    top: str = ""
    """The folder in an archive that holds what is wanted."""
    destination: Path | None = None
    """Where that folder's content belongs."""

    @property
    def part(self) -> Path:
        return self.path.with_name(self.path.name + ".part")

    @property
    def busy(self) -> Path:
        """The lock file of the process that is at it."""
        return self.path.with_name(self.path.name + ".lock")

    @property
    def name(self) -> str:
        return printable(self.path.name)

    @property
    def source(self) -> str:
        """The address as it may be shown: without a password."""
        return shown(self.url)

    def arrived(self) -> int:
        """Bytes on the disk."""
        for path in (self.path, self.part):
            if path.is_file():
                return path.stat().st_size
        return 0

    def there(self) -> bool:
        if self.destination is not None:
            return self.destination.is_dir() and any(self.destination.iterdir())
        return self.path.is_file()


def ask(url: str, run: Run) -> tuple[Version, str]:
    """What the server says of the file it has now, and why it says nothing, if so. Raises DownloadError."""
    if url.lower().startswith("file:"):
        return Version.of_file(Path(unquote(urlsplit(url).path))), ""
    server = run.server(url)
    if server.unanswered or server.given_up:
        return Version(), server.given_up or "it did not answer before"
    server.tried = server.tried or time.monotonic()
    policy = run.policy
    with Request(url, run.stopping, _timeouts(policy.connect, policy.stall / 2), head=True) as request:
        request.run()
    if request.answer.status:
        server.spoke(time.monotonic())
    else:
        server.reached |= not request.outcome.unreached
        server.unanswered = True
    if request.outcome.code:
        return Version(), request.outcome.said
    return Version.of(request.answer.headers), ""


def fetch(download: Download, lock: LockFile, run: Run) -> str:
    """Have the file at its path, whole and verified; says what was done. The caller holds ``download.busy``.
    Raises DownloadError, OSError."""
    known = lock.entry(download.key)
    if known and download.sha256 not in (None, known.sha256):
        raise DownloadError(
            f"{download.name}: the demanded SHA-256 {download.sha256} contradicts {known.sha256} recorded in "
            f"{printable(lock.path)}: find out which is right before deleting the entry"
        )
    if download.path.is_file():
        return verify_present(download, known, lock, run)
    return _Fetching(download, known, lock, run).to_the_end()


def verify_present(download: Download, known: Known | None, lock: LockFile, run: Run) -> str:
    """What is said of a file that is at its name already. Raises DownloadError if it is another one."""
    size = download.path.stat().st_size
    if known and not download.sha256 and size == known.size:
        return "is there"
    wanted = download.sha256 or (known.sha256 if known else None)
    run.say(f"{download.name}: is there; checking its SHA-256 ({size / 1e9:.3f} GB)")
    digest = sha256(download.path, lambda: run.check(download.name))
    if wrong := validate(download.path, download, None, wanted, digest):
        raise DownloadError(
            f"{printable(download.path)} is there, but {wrong}: move it away and run the same command again"
        )
    lock.record(download.key, digest, size)
    return "was there, verified" if wanted else "was there, SHA-256 recorded"


def validate(path: Path, download: Download, size: int | None, wanted: str | None, digest: str) -> str | None:
    """Why the file at ``path`` is not what is wanted, or None. ``size``: as announced."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes arrived, {size} were expected"
    with path.open("rb") as file:
        head = file.read(HEAD)
    if wrong := not_of_its_kind(download.path.suffix, head):
        return wrong
    if wanted is not None and digest != wanted:
        return f"its SHA-256 is {digest}, expected {wanted}"
    if size is None and wanted is None and is_cut_short(path, download.path.suffix):
        return "its end is missing, and the server did not say how long it is"
    if wanted is None and download.path.suffix == ".json" and (wrong := not_a_document(path)):
        return f"it is no JSON document: {wrong}"
    return None


class _Fetching:
    """One file on its way."""

    def __init__(self, download: Download, known: Known | None, lock: LockFile, run: Run) -> None:
        self.download, self.known, self.lock, self.run = download, known, lock, run
        self.name = download.name
        self.local = download.url.lower().startswith("file:")
        self.server = run.server(download.url)
        self.wanted = download.sha256 or (known.sha256 if known else None)
        self.part = Part(download.path, download.source)
        self.announced = Version()
        self.ended = False
        """Whether the last answer came to its end in good order."""
        self.heard = time.monotonic()
        """When the last bytes came, at more than 1 kB/s."""
        self.digests: set[str] = set()

    def to_the_end(self) -> str:
        for restarts in itertools.count(1):
            try:
                self.begin_or_continue()
                self.receive()
                digest = self.verified()
                break
            except Contradiction as contradiction:
                self.part.drop()
                if restarts > self.run.policy.restarts:
                    raise DownloadError(
                        f"{self.name}: {contradiction}, each of {restarts} times ({self.download.source}): {ELSEWHERE}"
                    ) from None
                self.run.say(f"{self.name}: {contradiction}; begun anew")
            finally:
                self.part.close()
        self.lock.record(self.download.key, digest, self.part.size)
        self.part.publish()
        return "downloaded, verified" if self.wanted else "downloaded, SHA-256 recorded"

    def begin_or_continue(self) -> None:
        """Ask what the server has now; keep what has arrived only if it is of that version."""
        if self.server.given_up:
            raise DownloadError(f"{self.name}: not tried: {self.server.given_up}")
        self.ended = False
        self.announced, _ = ask(self.download.url, self.run)
        self.run.check(self.name)
        self.check_announced(self.announced)
        if self.part.size and not self.may_continue(self.announced):
            self.run.say(f"{self.name}: what has arrived cannot be continued, the file may have changed; begun anew")
            self.part.drop()

    def may_continue(self, now: Version) -> bool:
        before = self.part.version
        if before.contradicts(now) or (before.size is not None and self.part.size > before.size):
            return False
        # a server that says nothing now is asked with If-Range
        return self.wanted is not None or before.proves(now) or (now == Version() and before.validator is not None)

    def check_announced(self, version: Version) -> None:
        """Raise DownloadError if the server's file is not the known one, is too large, or does not fit on the disk."""
        size = version.size
        if size is None:
            return
        if self.known and size != self.known.size:
            raise DownloadError(
                f"{self.name}: the server's file has {size} bytes, {printable(self.lock.path)} knows it with "
                f"{self.known.size}: another file; find out which is right before deleting the entry"
            )
        if wrong := announced_too_much(self.download.path.suffix, size):
            raise DownloadError(f"{self.name}: {wrong}. Source: {self.download.source}")
        folder = self.download.path.parent
        if size - self.part.size > room(folder):
            raise DownloadError(
                f"{self.name}: {size - self.part.size} bytes are to come, {printable(folder)} has room for "
                f"{room(folder)}: make room, or choose another folder"
            )

    def whole(self) -> bool:
        size = self.part.version.size
        return self.part.size == size if size is not None else self.ended

    def receive(self) -> None:
        """Make the part whole, however often the line breaks. Raises DownloadError, Contradiction."""
        failures, most = 0, self.part.size
        while not self.whole():
            outcome, answer = self.attempt()
            self.run.check(self.name)
            if outcome.code == 0 and self.whole():
                return
            said = outcome.said if outcome.code else "the line ended early"
            if outcome.code in FINAL_EXITS or answer.status in FINAL_STATUS:
                why = FINAL_EXITS.get(outcome.code, ELSEWHERE)
                raise DownloadError(f"{self.name}: {said} ({self.download.source}): {why}")
            if answer.status == 416:
                raise Contradiction(f"the server neither continues nor begins ({said})")
            failures = 0 if self.part.size > most else failures + 1
            most = max(most, self.part.size)
            self.wait_or_give_up(failures, said, answer)

    def attempt(self) -> tuple[Outcome, Answer]:
        """One run of curl, continuing what has arrived if that can be proved to be right."""
        policy, now = self.run.policy, time.monotonic()
        validator = self.part.version.validator
        start = self.part.size if validator or self.wanted else 0
        self.server.tried = self.server.tried or now
        self.ended = False
        left = self.server.deadline(self.heard, policy) - now
        timeouts = _timeouts(policy.connect, policy.stall, left)
        request = Request(self.download.url, self.run.stopping, timeouts, start=start, validator=validator)
        try:
            with request:
                pieces = iter(request)
                head = b"".join(_until(pieces, HEAD))
                if head or request.outcome.code == 0:
                    self.judge(request.answer, start, head, len(head) >= HEAD or request.outcome.code == 0)
                    self.store(head, pieces, now)
        finally:
            self.part.close()
        self.ended = request.outcome.code == 0
        if request.answer.status:
            self.server.spoke(time.monotonic())
        else:
            self.server.reached |= not request.outcome.unreached
        if request.outcome.code == HTTP_ERROR:
            self.heard = time.monotonic()  # an error is an answer
        return request.outcome, request.answer

    def judge(self, answer: Answer, start: int, head: bytes, enough: bool) -> None:
        """Open the part for what comes. Raises Contradiction, DownloadError. ``enough``: ``head`` shows the kind."""
        version = ask(self.download.url, self.run)[0] if self.local else Version.of(answer.headers)
        if start and (self.local or answer.status == 206):
            if not self.local and answer.first_byte() != start:
                raise Contradiction("the server answers with another range than it was asked for")
            if not (version.proves(self.part.version) or (self.wanted and not version.contradicts(self.part.version))):
                raise Contradiction("the file has changed on the server")
            self.part.resume()
            return
        if not self.local and (answer.status not in (200, 203, 206) or answer.first_byte() not in (None, 0)):
            raise Contradiction(f"the server answers with HTTP {answer.status} and no file")
        if enough and (wrong := not_of_its_kind(self.download.path.suffix, head)):
            raise DownloadError(f"{self.name}: {wrong}. Source: {self.download.source}")
        if start:
            self.run.say(f"{self.name}: has changed on the server, or is not continued by it; begun anew")
        if version.size is None and not version.contradicts(self.announced):
            version = replace(version, size=self.announced.size)
        self.part.begin(version)
        self.check_announced(version)

    def store(self, head: bytes, pieces: Iterator[bytes], asked: float) -> None:
        """Write what comes, never more than was announced. ``asked``: when it was asked for."""
        size = self.part.version.size
        limit = size if size is not None else self.known.size if self.known else cap(self.download.path.suffix)
        arrived, came = self.part.size, 0
        for piece in itertools.chain([head], pieces):
            self.part.append(piece[: limit - arrived])
            arrived += len(piece)
            came += len(piece)
            if arrived > limit:
                raise Contradiction(
                    f"the server sends more than the {limit} bytes that "
                    + ("it announces" if size is not None else "such a file may have")
                )
            now = time.monotonic()
            if came > SLOW * (now - asked):
                self.heard = self.server.heard = now

    def wait_or_give_up(self, failures: int, said: str, answer: Answer) -> None:
        policy, now = self.run.policy, time.monotonic()
        wait = max(policy.wait(failures), min(answer.retry_after(), policy.longest_wait))
        deadline = self.server.deadline(self.heard, policy)
        kept, size = self.part.size, self.part.version.size or self.announced.size or "unknown"
        then = f"{kept} of {size} bytes are kept: the same command continues" if kept else f"nothing came: {ELSEWHERE}"
        if now + wait >= deadline:
            quiet = now - (deadline - (policy.silence if self.server.reached else policy.unreachable))
            reason = f"{self.server.name} gave no answer for {quiet:.0f} s ({said})"
            if self.server.heard is None or now - self.server.heard >= policy.silence - wait:
                self.server.given_up = reason
            raise DownloadError(f"{self.name}: given up: {reason}; {then}")
        if failures >= policy.tries:
            raise DownloadError(f"{self.name}: given up after {policy.tries} tries without a new byte ({said}); {then}")
        self.run.say(f"{self.name}: {said}; try {failures + 1} of {policy.tries} in {wait:g} s")
        self.run.sleep(wait, self.name)

    def verified(self) -> str:
        """The SHA-256 of the part, which is what is wanted. Raises DownloadError, Contradiction."""
        part, size = self.part, self.part.version.size
        part.close()
        if part.size > 10**9:
            self.run.say(f"{self.name}: has arrived; computing its SHA-256")
        digest = sha256(part.path, lambda: self.run.check(self.name))
        wrong = validate(part.path, self.download, size, self.wanted, digest)
        # what was continued across a change on the server cannot be right: once more, from the first byte
        if wrong and part.continued:
            raise Contradiction(wrong)
        if wrong:
            part.drop()
            part.about.unlink(missing_ok=True)
            raise DownloadError(f"{self.name}: {wrong}; deleted. Source: {self.download.source}")
        if self.wanted is None and self.changed_meanwhile() and digest not in self.digests:
            self.digests.add(digest)
            raise Contradiction("the file has changed on the server while it came")
        return digest

    def changed_meanwhile(self) -> bool:
        """Whether the server has another version now than the one that came."""
        now, came = ask(self.download.url, self.run)[0], self.part.version
        if not self.part.continued and not self.local:
            # several machines behind one name may each have their own ETag; one answer is of one file
            now = replace(now, etag=None)
        return now.contradicts(came)


def _timeouts(connect: float, stall: float, left: float = float("inf")) -> Timeouts:
    return Timeouts(min(connect, left), min(stall, left), min(connect + stall, left))


def _until(pieces: Iterator[bytes], enough: int) -> Iterator[bytes]:
    """Pieces until there are so many bytes."""
    came = 0
    while came < enough and (piece := next(pieces, b"")):
        yield piece
        came += len(piece)
