"""A file server on this machine that does everything wrong that servers do."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves ``files``; what is next in ``trouble[path]`` befalls a GET first.

    cut:N       N bytes, then the line breaks            swap:N      ... and ``coming[path]`` is the file from then on
    stall:N     N bytes, then silence                    silent      not even headers
    drip        a byte every 50 ms                       throttle    slow, but steady
    status:N    that status                              page        an HTML page with status 200
    other       as long, but other content               no-ranges   status 200 and the whole, whatever is wanted
    shifted     another range than the one asked for     unranged    status 206 without Content-Range
    endless     chunks without end                       unsized:N   no length; ends well after N bytes (-1: all)
    headers     headers without end                      long:N      sends N bytes more than HEAD announces, chunked
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.coming: dict[str, bytes] = {}
        self.trouble: dict[str, list[str]] = {}
        self.validators = "etag"
        """etag, weak (an ETag that vouches for nothing), modified, both or none."""
        self.if_range = True
        """Whether If-Range is obeyed."""
        self.head = True
        """Whether HEAD is answered."""
        self.requests: list[tuple[str, str, str | None]] = []
        self.ended = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"

    def ranges(self) -> list[str | None]:
        """What the GETs asked for."""
        return [wanted for method, _, wanted in self.requests if method == "GET"]

    def handle_error(self, *_: object) -> None:
        """Clients that went away are what the tests are about."""

    def headers_of(self, body: bytes) -> dict[str, str]:
        digest = hashlib.md5(body).hexdigest()
        headers = {"Date": "Fri, 31 Jan 2025 00:00:00 GMT"}
        if self.validators in ("etag", "both"):
            headers["ETag"] = f'"{digest}"'
        if self.validators == "weak":
            headers["ETag"] = 'W/"the same"'
        if self.validators in ("modified", "both"):
            headers["Last-Modified"] = f"Wed, 01 Jan 2025 00:00:{int(digest[:8], 16) % 60:02} GMT"
        return headers


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.server.head:
            self.serve("fine", "")
        else:
            self.answer(405, b"", {})

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        trouble = self.server.trouble.get(self.path, [])
        kind, _, value = (trouble.pop(0) if trouble else "fine").partition(":")
        self.serve(kind, value)

    def begin(self, status: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, status: int, body: bytes, headers: dict[str, str], send: int | None = None) -> None:
        self.begin(status, {"Content-Length": str(len(body)), **headers})
        if self.command == "GET":
            self.wfile.write(body if send is None else body[:send])
        if send is not None:
            self.wfile.flush()
            self.close_connection = True

    def serve(self, kind: str, value: str) -> None:
        if self.path.startswith("/redirect"):
            to = {"/redirect": "/file.h5", "/redirect-loop": "/redirect-back", "/redirect-back": "/redirect-loop"}
            self.answer(302, b"", {"Location": to.get(self.path, "file:///etc/hostname")})
            return
        body = self.server.files.get(self.path)
        if body is None:
            self.answer(404, b"no such file", {})
        elif kind == "silent":
            self.be_silent()
        elif kind == "status":
            self.answer(int(value), b"trouble", {"Retry-After": "0"})
        elif kind == "page":
            self.answer(200, b"<html>log in first</html>", {})
        elif kind == "headers":
            self.send_headers_without_end()
        elif kind in ("endless", "long", "unsized"):
            self.without_length(kind, int(value or 0), body)
        else:
            self.ranged(kind, value, body)

    def ranged(self, kind: str, value: str, body: bytes) -> None:
        headers = self.server.headers_of(body)
        if kind == "other":
            body = body[:8] + bytes(len(body) - 8)
        status, wanted, asked = 200, self.headers.get("Range"), self.headers.get("If-Range")
        if asked and self.server.if_range and asked not in headers.values():
            wanted = None
        if wanted and kind != "no-ranges":
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                return
            start -= kind == "shifted"
            if kind != "unranged":
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            status, body = 206, body[start:]
        if kind in ("throttle", "drip", "stall"):
            self.begin(status, {"Content-Length": str(len(body)), **headers})
            self.slowly(kind, value, body)
            return
        self.answer(status, body, headers, int(value) if kind in ("cut", "swap") else None)
        if kind == "swap":
            self.server.files[self.path] = self.server.coming[self.path]

    def slowly(self, kind: str, value: str, body: bytes) -> None:
        if kind == "stall":
            self.wfile.write(body[: int(value)])
            self.be_silent()
            return
        piece = 1 if kind == "drip" else 1 << 15
        for i in range(0, len(body), piece):
            self.wfile.write(body[i : i + piece])
            time.sleep(0.05 if kind == "drip" else 0.01)

    def without_length(self, kind: str, value: int, body: bytes) -> None:
        if kind == "unsized":
            self.begin(200, {"Connection": "close", **self.server.headers_of(body)})
            self.wfile.write(body if value < 0 else body[:value])
            self.close_connection = True
            return
        self.begin(200, {"Transfer-Encoding": "chunked"})
        piece = body if kind == "endless" else body + bytes(value)
        while not self.server.ended.is_set():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if kind == "long":
                self.wfile.write(b"0\r\n\r\n")
                return

    def send_headers_without_end(self) -> None:
        self.send_response_only(200)
        self.flush_headers()
        while not self.server.ended.is_set():
            self.wfile.write(b"X-More: " + b"x" * 8000 + b"\r\n")

    def be_silent(self) -> None:
        self.wfile.flush()
        self.server.ended.wait(30)
        self.close_connection = True


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()
