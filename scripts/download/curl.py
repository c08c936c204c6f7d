"""One run of curl: its command line, the headers of the answer, the body piece by piece. Standard library only.

curl speaks to the network: redirects, proxies, certificates, protocols. The body comes through a pipe, so that nothing
is written before the answer's headers have been judged, and never more than was announced.
"""

from __future__ import annotations

import math
import os
import re
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from feature_extraction.errors import DownloadError
from feature_extraction.names import printable

from .policy import SLOW

PIECE: Final = 1 << 20
MOST_HEADERS: Final = 1 << 20
"""Bytes of headers, redirects included; the answers of real servers have a few thousand."""
LOOK: Final = 0.1
"""Seconds after which a waiting reader looks whether it is to stop."""

FINAL_EXITS: Final = {
    1: "the protocol of the address, or of a redirect, is not allowed",
    2: "curl does not start: a newer one may be needed",
    3: "the address is malformed",
    37: "the local file cannot be read",
    47: "too many redirects",
    48: "curl is too old: 7.54 or newer is needed",
    58: "the client certificate cannot be used",
    60: "the server's certificate is not trusted; a site's own goes into CURL_CA_BUNDLE",
    77: "the file of trusted certificates cannot be read; see CURL_CA_BUNDLE",
}
"""curl's exit codes that another try will not change."""
UNREACHED_EXITS: Final = (5, 6, 7)
TIMED_OUT: Final = 28
HTTP_ERROR: Final = 22


@dataclass(frozen=True)
class Answer:
    """Status and headers (lower-case names) of the last answer of a chain of redirects; status 0: a local file."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def first_byte(self) -> int | None:
        """Where the body of a 206 begins in the file. None: it does not say."""
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", self.headers.get("content-range", ""))
        return int(found[1]) if found else None

    def retry_after(self) -> float:
        """Seconds the server asks to be left alone; 0: it does not say."""
        text = self.headers.get("retry-after", "")
        return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0


@dataclass(frozen=True)
class Outcome:
    """How a run of curl ended."""

    code: int
    said: str

    @property
    def unreached(self) -> bool:
        """Whether there was not even a connection."""
        waited = re.search(r"resolv|connection time|failed to connect|ssl connection", self.said, re.IGNORECASE)
        return self.code in UNREACHED_EXITS or (self.code == TIMED_OUT and waited is not None)


def protocols(url: str) -> str:
    """What an address and its redirects may use: never less than what the address itself uses."""
    scheme = url.partition(":")[0].lower()
    return {"https": "=https", "file": "=file"}.get(scheme, "=http,https")


@dataclass(frozen=True)
class Timeouts:
    """Seconds after which curl gives up."""

    connect: float
    """To reach the server."""
    stall: float
    """Of less than 1 kB/s."""
    first: float
    """For both, until the first byte."""


class Request:
    """``with Request(url, ...) as request``: iterate over the pieces of the body; ``answer`` is there from the first
    piece on, ``outcome`` when the pieces have ended. Left early, curl is ended.

    ``start``: the first byte wanted. ``validator``: the version that a continuation has to be of (If-Range).
    """

    def __init__(
        self,
        url: str,
        stopping: threading.Event,
        timeouts: Timeouts,
        *,
        start: int = 0,
        validator: str | None = None,
        head: bool = False,
    ) -> None:
        self.stopping = stopping
        self.timeouts = timeouts
        self.answer = Answer()
        self.outcome = Outcome(-1, "was stopped")
        self._files = ExitStack()
        self._headers, self._errors = (
            self._files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  __exit__ closes them
            for _ in range(2)
        )
        self._pieces, self._header_bytes = 0, 0
        self._begun = time.monotonic()
        self._last: float | None = None
        """When something last came."""
        self._command = [
            shutil.which("curl") or "curl",
            "--disable", "--globoff", "--silent", "--show-error", "--fail", "--no-buffer",
            "--location", "--max-redirs", "5", "--proto", protocols(url), "--proto-redir", protocols(url),
            "--suppress-connect-headers", "--connect-timeout", f"{max(timeouts.connect, 0.1):.2f}",
            "--speed-limit", str(SLOW), "--speed-time", str(max(1, math.ceil(timeouts.stall))),
            "--dump-header", f"/dev/fd/{self._headers.fileno()}",
            *(("--head", "--output", os.devnull) if head else ()),
            *(("--range", f"{start}-") if start else ()),
            *(("--header", f"If-Range: {validator}") if start and validator else ()),
            "--", url,
        ]  # fmt: skip

    def __enter__(self) -> Request:
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=(self._headers.fileno(),),
                start_new_session=True,  # Ctrl-C is for us: what has arrived is to be put away first
                env={**os.environ, "LC_ALL": "C"},
            )
        except FileNotFoundError:
            self._files.close()
            raise DownloadError("curl is not installed: install it (apt install curl) and try again") from None
        except BaseException:
            self._files.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._files.close()

    def __iter__(self) -> Iterator[bytes]:
        assert self._process.stdout is not None
        handle = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(handle, select.POLLIN | select.POLLHUP)
        while not self.stopping.is_set():
            if not poll.poll(1000 * LOOK):
                if why := self._hopeless():
                    self._end()
                    self.outcome = Outcome(TIMED_OUT, why)
                    return
                continue
            piece = os.read(handle, PIECE)
            if not self._pieces:
                self.answer = self._read_answer()
            if not piece:
                break
            self._pieces, self._last = self._pieces + 1, time.monotonic()
            yield piece
        self._end()
        code = self._process.returncode
        self.outcome = Outcome(code, self._read_errors() or f"curl ended with code {code}")

    def _hopeless(self) -> str | None:
        """Why nothing is to be waited for. curl itself looks at slow servers, and takes some seconds more."""
        size = os.fstat(self._headers.fileno()).st_size
        if size > MOST_HEADERS:
            return "the server sends headers without end"
        now = time.monotonic()
        if size > self._header_bytes:
            self._header_bytes, self._last = size, now
        waited = self.timeouts.stall if self._last is not None else self.timeouts.first
        if now - (self._last or self._begun) >= waited:
            return f"not a byte for {waited:.3g} s"
        return None

    def run(self) -> None:
        """To the end, for an answer without a body that anyone wants."""
        for _ in self:
            pass

    def _read_answer(self) -> Answer:
        text = os.pread(self._headers.fileno(), MOST_HEADERS, 0).decode("latin-1").replace("\r", "")
        blocks = [block for block in text.split("\n\n") if block.startswith("HTTP/")]  # redirects come first
        if not blocks:
            return Answer()
        first, *lines = blocks[-1].split("\n")
        status = re.match(r"HTTP/\S+ (\d{3})\b", first)
        pairs = (line.partition(":") for line in lines)
        return Answer(
            int(status[1]) if status else 0,
            {name.strip().lower(): value.strip() for name, colon, value in pairs if colon},
        )

    def _read_errors(self) -> str:
        text = os.pread(self._errors.fileno(), 1 << 12, 0).decode("utf-8", "replace").strip()
        return printable(re.sub(r"^curl: (\(\d+\) )?", "", text))

    def _end(self) -> None:
        """curl has ended, or is ended."""
        if self._process.poll() is None and not self._at_end():
            self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _at_end(self) -> bool:
        """Whether curl has closed its side of the pipe, and is about to end by itself."""
        assert self._process.stdout is not None
        poll = select.poll()
        poll.register(self._process.stdout.fileno(), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))
