"""A server of one large file on this machine, by ranges, that counts what it sends and can be made to misbehave."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class RangeServer(ThreadingHTTPServer):
    """Serves ``path`` as every address. ``trouble``, from request number ``since`` on:

    no-ranges   status 200 and the whole                     cut       half of a body, then the line breaks
    shifted     other bytes than asked for, and says so      lying     other bytes than asked for, called the right ones
    longer      says more bytes than it sends                shorter   says, and sends, fewer than the range it names
    changed     another version                              grown     another size of the whole
    status:N    that status                                  unsized   a chunked body, without length
    other       a range without Content-Range                broken    every second request is cut, the next is right
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, trouble: str = "", since: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.path, self.trouble, self.since = path, trouble, since
        self.lock = threading.Lock()
        self.requests = self.sent = 0
        """Bytes are those of headers and bodies that this server wrote."""

    def url(self, path: str = "/published.h5") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        """Clients that go away are what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests += 1
            number = self.server.requests
        kind = self.server.trouble if number > self.server.since else ""
        if kind == "broken":
            kind = "" if number % 7 else "cut"
        size = self.server.path.stat().st_size
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if kind.startswith("status:"):
            self.answer(int(kind.partition(":")[2]), b"trouble", {})
        elif found is None or kind == "no-ranges":
            self.whole(size)
        else:
            self.part(kind, int(found[1]), min(int(found[2]), size - 1), size)

    def part(self, kind: str, first: int, last: int, size: int) -> None:
        with self.server.path.open("rb") as file:
            body = os.pread(file.fileno(), last - first + 1, first + (8 if kind in ("shifted", "lying") else 0))
        named = (first + 8, first + 7 + len(body)) if kind == "shifted" else (first, last)
        headers = {
            "Content-Range": f"bytes {named[0]}-{named[1]}/{size + (kind == 'grown')}",
            "ETag": '"2"' if kind == "changed" else '"1"',
        }
        if kind == "other":
            del headers["Content-Range"]
        if kind == "shorter":
            body = body[: len(body) // 2]
        length = len(body) + (9 if kind == "longer" else 0)
        if kind == "unsized":
            self.answer(206, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), {**headers, "Transfer-Encoding": "chunked"})
            return
        self.answer(206, body[: len(body) // 2] if kind == "cut" else body, headers, length)

    def whole(self, size: int) -> None:
        """As much as the client takes, in pieces."""
        self.answer(200, b"", {}, size)
        with self.server.path.open("rb") as file:
            while piece := file.read(1 << 20):
                self.wfile.write(piece)
                self.count(len(piece))

    def answer(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
        if "Transfer-Encoding" not in headers:
            headers = {"Content-Length": str(len(body) if length is None else length), **headers}
        lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        content = "\r\n".join(lines).encode() + body
        self.wfile.write(content)
        self.count(len(content))
        if length not in (None, len(body)) and status != 200:
            self.close_connection = True

    def count(self, sent: int) -> None:
        with self.server.lock:
            self.server.sent += sent


@contextmanager
def serving(path: Path, trouble: str = "", since: int = 0) -> Iterator[RangeServer]:
    with RangeServer(path, trouble, since) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
