"""A published file that is read where it lies, piece by piece, by HTTP range requests (fsspec, aiohttp).

Reading is fsspec's; here is what it does not ask: whether each answer is what was asked for. A server without ranges
would send the whole file, one that is being filled mixes two versions, one that miscounts makes numbers of other
images; each ends in one DownloadError instead of a verdict.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from feature_extraction.errors import DownloadError
from feature_extraction.images.address import is_web, shown, without_secrets
from feature_extraction.names import printable
from feature_extraction.places import to_type

BLOCK: Final = 8 << 10
"""Bytes read beyond what HDF5 asks for: what describes an image lies in two such places."""
TRIES: Final = 3
"""Of each request, where the line breaks or the server is in trouble of its own."""
TIMEOUT: Final = 30.0
"""Seconds without a byte, and to connect."""
CONNECTIONS: Final = 16
REMEMBERED: Final = 256
"""Small pieces: an image's group is looked at before each of its arrays."""
CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
T = TypeVar("T")


class Retry(Exception):
    """The server is in trouble of its own, which may pass."""


@dataclass
class Traffic:
    """What was asked of a server, and what it has sent."""

    requests: int = 0
    bytes: int = 0
    """Of the bodies."""


class RemoteFile(io.RawIOBase):
    """A file behind ``http://`` or ``https://``: a ``storage.stream.Stream``. Raises DownloadError and its way out."""

    def __init__(self, url: str) -> None:
        super().__init__()
        if not is_web(url):
            raise DownloadError(f"{shown(url)}: only http(s) is read in pieces: give a signed https address of it")
        errors, system = _libraries()
        self._errors: tuple[type[Exception], ...] = (Retry, *errors)
        self.name = shown(url)
        self.traffic = Traffic()
        self.failure: DownloadError | None = None
        """Why reading ended: HDF5 tells it in its own words, if at all."""
        self.size: int | None = None
        self._url, self._version, self._at = url, "", 0
        self._file: Any = None
        self._remembered = functools.lru_cache(REMEMBERED)(self._read)
        self._system = system(get_client=self._client, skip_instance_cache=True)
        self._system.use_listings_cache = False
        self._tried(lambda: self._system.cat_file(url, start=0, end=1))
        assert self.size is not None  # every answer is checked, and says it
        self._file = self._system.open(url, size=self.size, block_size=BLOCK, cache_type="readahead")

    async def _client(self, **settings: Any) -> Any:
        import aiohttp

        settings.pop("loop", None)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT),
            raise_for_status=self._check,
            trust_env=True,  # proxies, as curl takes them
            **settings,
        )

    async def _check(self, response: Any) -> None:
        """Called with the headers of every answer, before its body is read."""
        self.traffic.requests += 1
        problem = self._problem(response)
        if problem is None:
            self.traffic.bytes += response.content_length
            return
        response.close()  # what else it would send is not waited for
        raise problem

    def _problem(self, response: Any) -> Exception | None:
        """What is wrong with an answer; None: it is the very bytes that were asked for, of the version first seen."""
        asked, status, headers = response.request_info.headers.get("Range", ""), response.status, response.headers
        if status >= 500 or status == 429:
            return Retry(f"the server answers {status}")
        if status == 200:
            length = f"all {response.content_length:,} bytes" if response.content_length else "the whole file"
            return self._error(
                f"the server has no range requests, it would send {length}: {to_type('download-features')}"
            )
        if status != 206:
            return self._error(f"the server answers {status} {printable(response.reason or '')}: see its address")
        found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if found is None:
            return self._error("the server sends a part without saying which (Content-Range): use another one")
        first, last, size = map(int, found.groups())
        if asked != f"bytes={first}-{last}":
            return self._error(f"asked for {printable(asked)}, the server sends {first}-{last}: use another one")
        if response.content_length != last - first + 1 or headers.get("Content-Encoding", "identity") != "identity":
            return self._error(
                f"the server sends bytes {first}-{last} and calls them {response.content_length} bytes "
                f"({printable(headers.get('Content-Encoding', 'not encoded'))}): use another one"
            )
        version = headers.get("ETag") or headers.get("Last-Modified") or ""
        if (self.size, self._version) not in ((None, ""), (size, version)):
            return self._error(
                f"the file changed on the server: {self.size:,} bytes {printable(self._version)}, now {size:,} bytes "
                f"{printable(version)}; try later"
            )
        self.size, self._version = size, version
        return None

    def _error(self, reason: str) -> DownloadError:
        return DownloadError(f"{self.name}: {reason}")

    def _tried(self, ask: Callable[[], T]) -> T:
        """``ask()``, several times where the line breaks. Raises DownloadError, kept in ``failure``."""
        last = ""
        try:
            for _ in range(TRIES):
                try:
                    return ask()
                except self._errors as error:
                    last = without_secrets(str(error))[:200] or type(error).__name__
            raise self._error(
                f"could not be read in {TRIES} tries ({last}): try later, or {to_type('download-features')}"
            )
        except DownloadError as error:
            self.failure = error
            raise

    # --- what HDF5 asks for ---------------------------------------------------------------------------------------

    def pread(self, pieces: Sequence[tuple[int, int]], /) -> list[bytes]:
        """Pieces (offset, bytes), cut off at the end of the file: many are asked for at once, one lies close to what
        HDF5 reads next."""
        assert self.size is not None
        ends = [min(offset + size, self.size) for offset, size in pieces]
        starts = [min(offset, end) for (offset, _), end in zip(pieces, ends, strict=True)]
        if len(pieces) == 1:
            return [self._remembered(starts[0], ends[0] - starts[0])]
        found: dict[int, bytes] = {}

        def ask() -> None:
            left = [number for number in range(len(pieces)) if number not in found]
            where = [[self._url] * len(left), [starts[n] for n in left], [ends[n] for n in left]]
            answers = dict(zip(left, self._system.cat_ranges(*where, on_error="return"), strict=True))
            found.update((n, answer) for n, answer in answers.items() if isinstance(answer, bytes))
            failed = [answer for answer in answers.values() if not isinstance(answer, bytes)]
            for answer in sorted(failed, key=lambda a: not isinstance(a, DownloadError)):
                raise answer

        self._tried(ask)
        return [found[number] for number in range(len(pieces))]

    def _read(self, offset: int, size: int) -> bytes:
        def read() -> bytes:
            self._file.seek(offset)
            content: bytes = self._file.read(size)
            return content

        content = self._tried(read)
        if len(content) != size:
            self.failure = self._error(f"ends {size - len(content)} bytes too early: try later")
            raise self.failure
        return content

    def seek(self, offset: int, whence: int = 0, /) -> int:
        assert self.size is not None
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """All of ``buffer``: HDF5's driver crashes where fewer bytes come."""
        view = memoryview(buffer).cast("B")

        content = self._read(self._at, len(view))
        view[:] = content
        self._at += len(content)
        return len(content)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def __repr__(self) -> str:
        return self.name


def _libraries() -> tuple[tuple[type[Exception], ...], Any]:
    """(errors of a broken line, fsspec's HTTP file system)."""
    try:
        import aiohttp
        from fsspec.exceptions import FSTimeoutError
        from fsspec.implementations.http import HTTPFileSystem
    except ImportError as error:
        raise DownloadError(
            f"reading a published file where it lies needs fsspec and aiohttp ({printable(str(error))}): "
            f"pip install 'xlxmert-features[remote]', or {to_type('download-features')}"
        ) from None
    return (aiohttp.ClientError, TimeoutError, FSTimeoutError, OSError), HTTPFileSystem
