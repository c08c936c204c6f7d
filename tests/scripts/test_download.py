"""Downloads against a server on this machine that does everything wrong that servers do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.download import __main__ as download
from scripts.download.fetch import FetchError, Item, LockFile, Patience, Stopped, fetch
from scripts.download.fetch import transfer as real_transfer

HDF5 = b"\x89HDF\r\n\x1a\n"
CONTENT = HDF5 + bytes(range(256)) * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = Patience(tries=4, first_wait=0.01, longest_wait=0.02, connect=5, stalled=5)


class Server(ThreadingHTTPServer):
    """Serves ``files``; what is next in ``trouble[path]`` befalls a GET first."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, list[str]] = {}
        self.etag = True
        self.head = True
        self.requests: list[tuple[str, str, str | None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, headers: dict[str, str], send: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if send is None else body[:send])
        if send is not None:
            self.wfile.flush()
            self.close_connection = True

    def do_HEAD(self) -> None:
        if not self.server.head:
            self.answer(405, b"", {})
        else:
            self.serve([])

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        self.serve(self.server.trouble.get(self.path, []))

    def serve(self, trouble: list[str]) -> None:
        if self.path.startswith("/redirect"):
            to = {"/redirect": "/file.h5", "/redirect-loop": "/redirect-loop"}.get(self.path, "file:///etc/hostname")
            self.answer(302, b"", {"Location": to})
            return
        body = self.server.files.get(self.path)
        if body is None:
            self.answer(404, b"no such file", {})
            return
        kind, _, value = (trouble.pop(0) if trouble else "fine").partition(":")
        headers = {"ETag": f'"{hashlib.md5(body).hexdigest()}"'} if self.server.etag else {}
        if kind == "status":
            self.answer(int(value), b"trouble", {})
        elif kind == "page":
            self.answer(200, b"<html>log in first</html>", {})
        else:
            if kind == "other":  # as long, but other content
                body = HDF5 + bytes(len(body) - len(HDF5))
            status, wanted = 200, self.headers.get("Range")
            if wanted and kind != "no-ranges":
                start = int(wanted.removeprefix("bytes=").partition("-")[0])
                if start >= len(body):
                    self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
                    return
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                status, body = 206, body[start:]
            if kind == "throttle":
                self.send_response(status)
                for name, text in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, text)
                self.end_headers()
                for i in range(0, len(body), 1 << 15):
                    self.wfile.write(body[i : i + (1 << 15)])
                    time.sleep(0.01)
            else:
                self.answer(status, body, headers, int(value) if kind == "cut" else None)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.files["/file.h5"] = CONTENT
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def item(server: Server, tmp_path: Path) -> Item:
    return Item("COCO/file.h5", server.url("/file.h5"), tmp_path / "out" / "file.h5")


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    return LockFile(tmp_path / "lock.json")


def get(item: Item, lock: LockFile) -> str:
    return fetch(item, lock, PATIENCE, threading.Event())


def nothing_at_its_name(item: Item) -> bool:
    return not item.path.exists()


def ranges(server: Server) -> list[str | None]:
    return [r for method, _, r in server.requests if method == "GET"]


def test_first_sight_records_and_later_ones_are_held_to_it(item: Item, lock: LockFile, server: Server) -> None:
    assert get(item, lock) == "downloaded, SHA-256 recorded"
    assert item.path.read_bytes() == CONTENT
    assert lock.entry(item.key) == {"sha256": SHA, "size": len(CONTENT)}
    assert [p.name for p in item.path.parent.iterdir()] == ["file.h5"], "no parts are left"
    assert get(item, lock) == "is there"
    assert len(server.requests) == 1

    item.path.unlink()
    assert get(item, lock) == "downloaded, verified"
    item.path.unlink()
    server.files["/file.h5"] = HDF5 + bytes(len(CONTENT) - 8)  # as long, but other content
    with pytest.raises(FetchError, match=f"SHA-256 is .*, expected {SHA}"):
        get(item, lock)
    assert nothing_at_its_name(item)


RECOVERED = {
    "throttled": ["throttle"],
    "cut once": ["cut:1000"],
    "cut often": ["cut:1000", "cut:3", "cut:70000", "cut:1", "cut:20000", "cut:10"],
    "cut before the first byte": ["cut:0", "cut:0"],
    "500, then fine": ["status:500"],
    "503, 500, 429": ["status:503", "status:500", "status:429"],
    "cut, 503, then on": ["cut:5000", "status:503"],
    "cannot continue, begins anew": ["cut:5000", "no-ranges", "fine"],
    "416 on continuing, begins anew": ["cut:5000", "status:416"],
    "page of an error with 206 missing": ["cut:5000", "no-ranges"],
}


@pytest.mark.parametrize("trouble", RECOVERED.values(), ids=RECOVERED)
def test_recovers(item: Item, lock: LockFile, server: Server, trouble: list[str]) -> None:
    server.trouble["/file.h5"] = list(trouble)
    get(item, lock)
    assert item.path.read_bytes() == CONTENT
    assert server.trouble["/file.h5"] == [], "every trouble was met"


def test_continues_where_it_was_cut(item: Item, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:5000"]
    get(item, lock)
    assert ranges(server) == [None, "bytes=5000-"]


def test_redirects_are_followed(item: Item, lock: LockFile, server: Server) -> None:
    get(Item(item.key, server.url("/redirect"), item.path), lock)
    assert item.path.read_bytes() == CONTENT


STOPPED = {
    # what the server does -> what the user reads
    "404": (lambda s: s.files.clear(), "404.*another source: BASE_URL"),
    "always 503": (lambda s: s.trouble.update({"/file.h5": ["status:503"] * 9}), "given up after 4 tries.*503"),
    "always 500": (lambda s: s.trouble.update({"/file.h5": ["status:500"] * 9}), "given up after 4 tries.*500"),
    "always 416": (lambda s: s.trouble.update({"/file.h5": ["status:416"] * 9}), "neither continues nor begins"),
    "403": (lambda s: s.trouble.update({"/file.h5": ["status:403"]}), "403"),
    "shorter than it says": (lambda s: s.trouble.update({"/file.h5": ["cut:99"] + ["cut:0"] * 9}), "given up.* 99 of"),
    "a page instead": (lambda s: s.files.update({"/file.h5": b"<html>log in"}), r"no \.h5 file.*an error page"),
    "a page of other length": (lambda s: s.trouble.update({"/file.h5": ["page"] * 9}), "given up|bytes arrived"),
}


@pytest.mark.parametrize(("does", "reads"), STOPPED.values(), ids=STOPPED)
def test_stops_with_a_clear_error(
    item: Item, lock: LockFile, server: Server, does: Callable[[Server], None], reads: str
) -> None:
    does(server)
    with pytest.raises(FetchError, match=reads):
        get(item, lock)
    assert nothing_at_its_name(item)
    assert lock.entry(item.key) is None


@pytest.mark.parametrize(("path", "reads"), [("/redirect-loop", "redirects"), ("/redirect-to-file", "protocol")])
def test_bad_redirects(item: Item, lock: LockFile, server: Server, path: str, reads: str) -> None:
    with pytest.raises(FetchError, match=reads):
        get(Item(item.key, server.url(path), item.path), lock)
    assert nothing_at_its_name(item)


def test_no_server(item: Item, lock: LockFile, server: Server) -> None:
    with pytest.raises(FetchError, match=r"given up after 4 tries.*unknown bytes"):
        get(Item(item.key, "http://127.0.0.1:1/file.h5", item.path), lock)


def test_wrong_content_with_a_demanded_sum(item: Item, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["other"]
    demanded = Item(item.key, item.url, item.path, sha256=SHA)
    with pytest.raises(FetchError, match=f"SHA-256 is .*, expected {SHA}.*deleted"):
        get(demanded, lock)
    assert nothing_at_its_name(item)
    assert not item.part.exists()
    assert get(demanded, lock) == "downloaded, verified"


def test_a_demanded_sum_against_the_lock(item: Item, lock: LockFile) -> None:
    lock.record(item.key, "a" * 64, len(CONTENT))
    with pytest.raises(FetchError, match="contradicts"):
        get(Item(item.key, item.url, item.path, sha256=SHA), lock)


def test_another_length_than_the_lock_knows(item: Item, lock: LockFile) -> None:
    lock.record(item.key, SHA, 5)
    with pytest.raises(FetchError, match=f"has {len(CONTENT)} bytes, .* knows it with 5"):
        get(item, lock)
    assert nothing_at_its_name(item)


def test_a_part_of_an_older_version_is_dropped(item: Item, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:5000", *["status:503"] * 9]
    with pytest.raises(FetchError, match="are kept"):
        get(item, lock)
    assert item.part.stat().st_size == 5000
    server.trouble.clear()
    server.files["/file.h5"] = HDF5 + b"new" * 5000
    get(item, lock)
    assert item.path.read_bytes() == server.files["/file.h5"]


def test_a_part_of_this_version_is_continued(item: Item, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:5000", *["status:503"] * 9]
    with pytest.raises(FetchError, match="are kept"):
        get(item, lock)
    server.trouble.clear()
    server.requests.clear()
    get(item, lock)
    assert ranges(server) == ["bytes=5000-"]
    assert item.path.read_bytes() == CONTENT


def test_changed_unnoticed_between_two_parts(item: Item, lock: LockFile, server: Server) -> None:
    """Same length, no validators: only the recorded sum can tell; the file is fetched anew, from the first byte."""
    server.etag = False
    lock.record(item.key, SHA, len(CONTENT))
    item.part.parent.mkdir(parents=True)
    item.part.write_bytes(bytes(5000))
    version = {"url": item.url, "content-length": str(len(CONTENT))}
    item.about_part.write_text(json.dumps(version))
    assert get(item, lock) == "downloaded, verified"
    assert item.path.read_bytes() == CONTENT
    assert ranges(server) == ["bytes=5000-", None]


def test_a_server_without_head(item: Item, lock: LockFile, server: Server) -> None:
    server.head = False
    server.trouble["/file.h5"] = ["cut:5000"]
    get(item, lock)
    assert item.path.read_bytes() == CONTENT


def test_a_damaged_file_at_its_name_is_not_taken(item: Item, lock: LockFile) -> None:
    get(item, lock)
    item.path.write_bytes(CONTENT[:-1])
    with pytest.raises(FetchError, match=r"is there, but its SHA-256.*move it away"):
        get(item, lock)


def test_no_room(item: Item, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 7

    monkeypatch.setattr("scripts.download.fetch.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(FetchError, match=f"{len(CONTENT)} bytes are to come.*room for 7"):
        get(item, lock)
    assert nothing_at_its_name(item)


def test_one_download_of_a_file_at_a_time(item: Item, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def transfer_while_another_tries(*arguments: Any) -> tuple[int, int, str]:
        with pytest.raises(FetchError, match="another download of it is running"):
            get(item, lock)
        return real_transfer(*arguments)

    monkeypatch.setattr("scripts.download.fetch.transfer", transfer_while_another_tries)
    get(item, lock)


def test_stopping_keeps_what_has_arrived(item: Item, lock: LockFile, server: Server) -> None:
    server.files["/file.h5"] = CONTENT * 20
    server.trouble["/file.h5"] = ["throttle"]
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    with pytest.raises(Stopped):
        fetch(item, lock, PATIENCE, stopping)
    assert nothing_at_its_name(item)
    kept = item.part.stat().st_size
    assert kept > 0
    server.requests.clear()
    get(item, lock)
    assert ranges(server) == [f"bytes={kept}-"]
    assert item.path.read_bytes() == CONTENT * 20


def test_a_broken_lock_file_is_named(item: Item, lock: LockFile) -> None:
    lock.path.write_text("{]")
    with pytest.raises(FetchError, match="is not a lock file"):
        get(item, lock)


# --- the command ---------------------------------------------------------------------------------------


def command(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folders = ["--datasets", str(tmp_path / "datasets"), "--checkpoint_dir", str(tmp_path / "ckpt")]
    own = ["--lock", str(tmp_path / "lock.json"), "--tries", "2", "--first-wait", "0.01"]
    program = [sys.executable, "-m", "scripts.download"]
    return subprocess.run([*program, *arguments, *folders, *own], text=True, capture_output=True, check=False)


def test_checkpoint_from_a_mirror(tmp_path: Path, server: Server) -> None:
    server.files |= {"/detectron_model.pth": b"PK\x03\x04weights", "/detectron_config.yaml": b"MODEL: {}\n"}
    done = command(tmp_path, "checkpoint", "--base-url", server.url(""))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "detectron_model.pth").read_bytes() == b"PK\x03\x04weights"
    assert set(json.loads((tmp_path / "lock.json").read_text())) == {"detectron_model.pth", "detectron_config.yaml"}
    again = command(tmp_path, "checkpoint", "--base-url", server.url(""))
    assert again.returncode == 0
    assert again.stdout.count("is there") == 2


def test_checkpoint_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "carried over"
    folder.mkdir()
    (folder / "detectron_model.pth").write_bytes(b"PK\x03\x04weights")
    (folder / "detectron_config.yaml").write_bytes(b"MODEL: {}\n")
    done = command(tmp_path, "checkpoint", "--base-url", str(folder))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "detectron_model.pth").read_bytes() == b"PK\x03\x04weights"


def test_features_keep_to_the_published_tree(tmp_path: Path, server: Server) -> None:
    names = [f"/NLVR2/maskrcnn_{s}_{k}.h5" for s in ("train", "valid", "test") for k in ("grid8", "boxes36")]
    server.files |= dict.fromkeys(names, CONTENT)
    server.trouble[names[0]] = ["cut:5000", "status:503"]
    del server.files[names[-1]]
    done = command(tmp_path, "features", "nlvr2", "--base-url", server.url(""))
    assert done.returncode == 1
    assert "maskrcnn_test_boxes36.h5" in done.stderr
    assert "404" in done.stderr
    found = sorted(p.name for p in (tmp_path / "datasets/published/nlvr2/features").glob("*.h5"))
    assert found == sorted(Path(n).name for n in names[:-1]), "one failure does not keep the others"


def test_images_are_unpacked_into_the_published_tree(tmp_path: Path, server: Server) -> None:
    for name in ("train2014", "val2014", "test2015"):
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{name}/", b"")
            archive.writestr(f"{name}/COCO_{name}_000000000001.jpg", b"\xff\xd8photograph")
        server.files[f"/COCO/{name}.zip"] = path.read_bytes()
    done = command(tmp_path, "images", "coco", "--base-url", server.url(""))
    assert done.returncode == 0, done.stderr
    images = tmp_path / "datasets" / "COCO" / "images"
    assert (images / "train2014" / "COCO_train2014_000000000001.jpg").read_bytes() == b"\xff\xd8photograph"
    assert sorted(p.name for p in images.iterdir()) == ["test2015", "train2014", "val2014"]
    assert not list((images.parent / "archives").iterdir())
    requests = len(server.requests)
    assert command(tmp_path, "images", "coco", "--base-url", server.url("")).returncode == 0
    assert len(server.requests) == requests, "what is there is not downloaded again"


def test_a_hostile_archive_leaves_nothing(tmp_path: Path, server: Server) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images/1.jpg", b"fine")
        archive.writestr("images/../../../2.jpg", b"not fine")
    server.files["/GQA/images.zip"] = path.read_bytes()
    done = command(tmp_path, "images", "gqa", "--base-url", server.url(""))
    assert done.returncode == 1
    assert "is not one of an image archive" in done.stderr
    assert not (tmp_path / "datasets" / "GQA" / "images").exists()


def test_nlvr2_is_explained_and_a_folder_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command(tmp_path, "images", "nlvr2")
    assert done.returncode == 1
    assert "fills in its form" in done.stderr
    assert "0 of 103170 images" in done.stdout
    folder = tmp_path / "elsewhere"
    for name in ("train/12", "dev", "test1"):
        (folder / name).mkdir(parents=True)
    (folder / "train/12/a-0-img0.png").touch()
    done = command(tmp_path, "images", "nlvr2", "--nlvr2", str(folder))
    assert "1 of 103170 images" in done.stdout
    assert (tmp_path / "datasets/nlvr2/images").resolve() == folder
    (folder / "dev").rmdir()
    done = command(tmp_path, "images", "nlvr2", "--nlvr2", str(folder))
    assert "has no folder dev" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reads"),
    [
        (["features", "flickr"], "no data set 'flickr'; the data sets: coco, vg, gqa, nlvr2"),
        (["checkpoint", "coco"], "checkpoint has no data sets"),
        (["checkpoint", "--sha256", "abc"], "is not NAME=SHA-256"),
        (["checkpoint", "--sha256", f"nosuch={SHA}"], "nosuch, which is not among the files"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], reads: str) -> None:
    done = command(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert reads in done.stderr


def test_every_published_archive_has_its_place() -> None:
    from feature_extraction import catalog

    keys = {
        f"{catalog.data_set(n).folder}/{u.rpartition('/')[2]}"
        for n, us in catalog.IMAGE_ARCHIVE_URLS.items()
        for u in us
    }
    assert keys == set(download.UNPACKED)
