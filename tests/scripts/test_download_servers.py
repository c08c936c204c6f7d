"""Servers that change their files, lie about lengths and ranges, say nothing, or are not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.file_server import Server

from feature_extraction.errors import DownloadError
from scripts.download.ensure import ensure
from scripts.download.fetch import Download
from scripts.download.part import Part
from scripts.download.policy import RetryPolicy, Run
from scripts.download.record import LockFile
from scripts.download.version import Version

HDF5 = b"\x89HDF\r\n\x1a\n"
OLD = HDF5 + b"A" * 300_000
NEW = HDF5 + b"B" * 300_000
LONGER = HDF5 + b"B" * 310_000
SHORTER = HDF5 + b"B" * 90_000
SHA = "0" * 64
POLICY = RetryPolicy(tries=4, first_wait=0.01, longest_wait=0.02)


@pytest.fixture
def server(server: Server) -> Server:
    server.files["/file.h5"] = OLD
    return server


@pytest.fixture
def said() -> list[str]:
    return []


def left(download: Download) -> set[str]:
    return {path.name for path in download.path.parent.iterdir()}


# --- files that change ---------------------------------------------------------------------------------


@pytest.mark.parametrize("validators", ["etag", "weak", "modified", "both", "none"])
@pytest.mark.parametrize("new", [NEW, LONGER, SHORTER], ids=["as long", "longer", "shorter"])
@pytest.mark.parametrize("if_range", [True, False], ids=["If-Range obeyed", "If-Range ignored"])
@pytest.mark.parametrize("head", [True, False], ids=["with HEAD", "without HEAD"])
def test_versions_are_never_mixed(
    download: Download, lock: LockFile, server: Server, validators: str, new: bytes, if_range: bool, head: bool
) -> None:
    """The file changes on the server while the line breaks, in one run: the new file comes, from its first byte."""
    server.validators, server.if_range, server.head = validators, if_range, head
    server.coming["/file.h5"] = new
    server.trouble["/file.h5"] = ["swap:100000", "cut:120000"]
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == new
    assert left(download) == {"file.h5"}


@pytest.mark.parametrize("validators", ["etag", "weak", "modified", "none"])
def test_versions_are_never_mixed_over_two_runs(
    download: Download, lock: LockFile, server: Server, validators: str
) -> None:
    server.validators = validators
    server.trouble["/file.h5"] = ["cut:100000", *["status:503"] * 9]
    with pytest.raises(DownloadError, match="given up after 4 tries"):
        ensure(download, lock, Run(POLICY))
    server.files["/file.h5"], server.trouble = NEW, {}
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == NEW


def test_what_proves_itself_is_continued(download: Download, lock: LockFile, server: Server) -> None:
    for number, validators in enumerate(("etag", "modified", "both")):
        server.validators = validators
        server.trouble["/file.h5"] = ["cut:100000"]
        one = Download(f"{number}.h5", download.url, download.path.with_name(f"{number}.h5"))
        ensure(one, lock, Run(POLICY))
        assert server.ranges()[-1] == "bytes=100000-", validators
        assert one.path.read_bytes() == OLD


def test_without_validators_a_broken_file_is_begun_anew(download: Download, lock: LockFile, server: Server) -> None:
    for validators in ("none", "weak"):
        server.validators = validators
        server.trouble["/file.h5"] = ["cut:100000"]
        ensure(download, lock, Run(POLICY))
        assert server.ranges()[-2:] == [None, None]
        download.path.unlink()
        lock.path.unlink()


def test_a_file_on_this_machine_that_changes(tmp_path: Path, lock: LockFile) -> None:
    """Same length, same second."""
    source = tmp_path / "source.h5"
    source.write_bytes(OLD)
    download = Download("file.h5", source.as_uri(), tmp_path / "out" / "file.h5")
    download.path.parent.mkdir()
    part = Part(download.path, download.url)
    part.begin(Version.of_file(source))
    part.append(OLD[:1000])
    part.close()
    source.write_bytes(NEW)
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == NEW


def test_a_server_that_changes_all_the_time(download: Download, lock: LockFile, server: Server) -> None:
    """Two versions take turns, so that the one that came is never the one that is there afterwards."""
    bodies = [NEW[:-1] + bytes([n]) for n in range(20)]

    class Turning(dict[str, bytes]):
        def get(self, path: str, default: object = None) -> bytes:
            bodies.append(bodies.pop(0))
            return bodies[0]

    server.files = Turning()
    server.validators = "modified"
    with pytest.raises(DownloadError, match=r"changed on the server while it came, each of 3 times.*another source"):
        ensure(download, lock, Run(POLICY))
    assert "file.h5" not in left(download)


def test_several_machines_behind_one_name(download: Download, lock: LockFile, server: Server) -> None:
    """Each has its own ETag for the same bytes: a file that came in one answer is accepted."""
    count = iter(range(1000))
    plain = server.headers_of
    server.headers_of = lambda body: {**plain(body), "ETag": f'"{next(count)}"'}
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == OLD
    download.path.unlink()
    lock.path.unlink()
    server.trouble["/file.h5"] = ["cut:100000", "cut:200000"]
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == OLD, "broken lines: begun anew each time"


# --- lengths and ranges that lie -----------------------------------------------------------------------

LIES = {
    "without end": (["endless"] * 9, f"sends more than the {len(OLD)} bytes that it announces, each of 3 times"),
    "a little more": (["long:1"] * 9, f"sends more than the {len(OLD)} bytes that it announces"),
    "headers without end": (["headers"] * 9, "given up"),
    "ends early, no length": (["unsized:5000"] * 9, f"given up after 4 tries.* 5000 of {len(OLD)} bytes"),
    "another range": (["cut:5000", "shifted"] * 9, "another range than it was asked for, each of 3 times"),
    "206 without a range": (["cut:5000", "unranged"] * 9, "another range than it was asked for, each of 3 times"),
    "no content": (["status:204"] * 9, "HTTP 204 and no file"),
    "not modified": (["status:304"] * 9, "HTTP 304 and no file"),
    "always breaks, never continues": (["cut:5000"] * 9, "given up after 4 tries"),
}


@pytest.mark.parametrize(("trouble", "reads"), LIES.values(), ids=LIES)
def test_lies(download: Download, lock: LockFile, server: Server, trouble: list[str], reads: str) -> None:
    server.trouble["/file.h5"] = trouble
    if trouble == ["cut:5000"] * 9:
        server.validators = "none"
    begin = time.monotonic()
    with pytest.raises(DownloadError, match=reads):
        ensure(download, lock, Run(POLICY))
    assert time.monotonic() - begin < 10
    assert "file.h5" not in left(download)
    assert lock.entry(download.key) is None
    assert download.arrived() <= len(OLD)


def test_never_more_than_the_cap_where_nothing_is_announced(
    tmp_path: Path, lock: LockFile, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    append = Part.append

    def watched(part: Part, piece: bytes) -> None:
        nonlocal most
        append(part, piece)
        most = max(most, part.size)

    monkeypatch.setattr(Part, "append", watched)
    server.head = False
    server.files["/config.yaml"] = b"MODEL: {}\n" * 1000
    server.trouble["/config.yaml"] = ["endless"] * 9
    download = Download("config.yaml", server.url("/config.yaml"), tmp_path / "config.yaml")
    with pytest.raises(DownloadError, match="more than the 1048576 bytes that such a file may have"):
        ensure(download, lock, Run(POLICY))
    assert 0 < most <= 1 << 20


def test_more_than_a_file_of_its_kind_can_have(tmp_path: Path, lock: LockFile, server: Server) -> None:
    server.files["/config.yaml"] = bytes(2 << 20)
    download = Download("config.yaml", server.url("/config.yaml"), tmp_path / "config.yaml")
    with pytest.raises(DownloadError, match=r"announces 2097152 bytes, a \.yaml file has at most 1048576"):
        ensure(download, lock, Run(POLICY))
    assert server.ranges() == [], "nothing was fetched"


def test_no_length_at_all(download: Download, lock: LockFile, server: Server) -> None:
    """Neither HEAD nor GET say how long it is: read to its end; a file that says by itself that it is longer is not."""
    server.head = False
    server.trouble["/file.h5"] = ["unsized:-1"]
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == OLD
    whole = bytearray(OLD)
    whole[8:16] = bytes([0, 0, 0, 0, 0, 8, 8, 0])
    whole[40:48] = len(whole).to_bytes(8, "little")
    server.files["/file.h5"] = bytes(whole)
    download.path.unlink()
    lock.path.unlink()
    server.trouble["/file.h5"] = ["unsized:5000"]
    with pytest.raises(DownloadError, match="its end is missing, and the server did not say how long it is"):
        ensure(download, lock, Run(POLICY))
    server.trouble["/file.h5"] = ["unsized:-1"]
    ensure(download, lock, Run(POLICY))


def test_a_page_does_not_cost_what_has_arrived(download: Download, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:100000", "page"]
    with pytest.raises(DownloadError, match=r"it is no \.h5 file, it begins with b'<html>.*an error page, perhaps"):
        ensure(download, lock, Run(POLICY))
    server.requests.clear()
    ensure(download, lock, Run(POLICY))
    assert server.ranges() == ["bytes=100000-"]
    assert download.path.read_bytes() == OLD


# --- silence, and no network ---------------------------------------------------------------------------

QUICK = RetryPolicy(tries=8, first_wait=0.05, silence=3.0, unreachable=1.5)


@pytest.mark.parametrize("trouble", ["silent", "stall:0", "stall:100000", "drip"])
def test_a_silent_server_is_given_up(
    download: Download, lock: LockFile, server: Server, trouble: str, said: list[str]
) -> None:
    server.trouble["/file.h5"] = [trouble, *["stall:0" if trouble == "stall:100000" else trouble] * 9]
    begin = time.monotonic()
    with pytest.raises(
        DownloadError, match=r"given up: 127\.0\.0\.1:\d+ gave no answer for [3-6] s \(.*\); (\d+ of|nothing came)"
    ):
        ensure(download, lock, Run(QUICK, say=said.append))
    assert time.monotonic() - begin < QUICK.silence + 8
    assert trouble == "drip" or any(" of 8 in " in line for line in said), "it said why it tried again"
    if trouble == "stall:100000":
        server.trouble.clear()
        server.requests.clear()
        ensure(download, lock, Run(POLICY))
        assert server.ranges() == ["bytes=100000-"], "what arrived is kept"


def test_patience_by_default() -> None:
    """Two tries fit into the time: 30 s of silence, 10 s without any network."""
    policy = RetryPolicy()
    assert 2 * policy.stall + policy.first_wait <= policy.silence == 30
    assert 2 * policy.connect + policy.first_wait <= policy.unreachable == 10


def test_no_network(tmp_path: Path, lock: LockFile, said: list[str]) -> None:
    """A port that nobody listens on, and one whose listener never takes a connection."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for waiting in (first, second):  # the queue is full now
                waiting.setblocking(False)
                waiting.connect_ex(full.getsockname())
            for number, port in enumerate((1, full.getsockname()[1])):
                url, path = f"http://127.0.0.1:{port}/file.h5", tmp_path / str(number) / "file.h5"
                begin = time.monotonic()
                with pytest.raises(DownloadError, match=r"given up: 127\.0\.0\.1:\d+ gave no answer for [1-4] s"):
                    ensure(Download("file.h5", url, path), lock, Run(QUICK, say=said.append))
                assert time.monotonic() - begin < QUICK.unreachable + 5
    assert any("try 2 of 8" in line for line in said)


def test_one_dead_server_is_waited_for_once(tmp_path: Path) -> None:
    """16 files of it, four at a time: the first ones find out, the others are told."""
    mirror = ["--base-url", "http://127.0.0.1:1", "--first-wait", "0.5"]
    places = ["--datasets", str(tmp_path), "--lock", str(tmp_path / "lock.json")]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "scripts.download", "features", *mirror, *places],
        text=True, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert time.monotonic() - begin < 20
    problems = [line for line in done.stderr.splitlines() if line.startswith("download: ")]
    assert len(problems) == 16
    assert sum("not tried: 127.0.0.1:1 gave no answer for " in line for line in problems) == 12
    assert "try 2 of 8 in 0.5 s" in done.stderr
    assert "Traceback" not in done.stderr


# --- interruptions -------------------------------------------------------------------------------------


def test_killed_again_and_again(tmp_path: Path, server: Server) -> None:
    server.files |= {"/detectron_model.pth": b"PK\x03\x04" + os.urandom(2_000_000), "/detectron_config.yaml": b"A: 1\n"}
    server.trouble["/detectron_model.pth"] = ["throttle"] * 50
    arguments = ["--base-url", server.url(""), "--checkpoint_dir", str(tmp_path / "c"), "--lock", str(tmp_path / "l")]
    command = [sys.executable, "-m", "scripts.download", "checkpoint", *arguments]
    part = tmp_path / "c" / "detectron_model.pth.part"
    for _ in range(3):
        before = part.stat().st_size if part.exists() else 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            until = time.monotonic() + 10
            while not (part.exists() and part.stat().st_size > before) and time.monotonic() < until:
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert part.stat().st_size > before
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c" / "detectron_model.pth").read_bytes() == server.files["/detectron_model.pth"]
    wanted = [w for method, path, w in server.requests if path.endswith("pth")]
    assert wanted[0] is None
    assert all(wanted[1:]), "each run went on where the one before was killed"
    assert {p.name for p in (tmp_path / "c").iterdir()} == {"detectron_model.pth", "detectron_config.yaml"}


def test_after_a_power_cut_only_what_was_synced_is_trusted(download: Download, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:100000", *["status:503"] * 9]
    with pytest.raises(DownloadError):
        ensure(download, lock, Run(POLICY))
    about = download.part.with_name("file.h5.part.json")
    record = json.loads(about.read_text())
    assert record["synced"] == 100000
    about.write_text(json.dumps({**record, "synced": 60000, "boot": "another"}))
    download.part.write_bytes(OLD[:60000] + bytes(40000))
    server.trouble.clear()
    server.requests.clear()
    ensure(download, lock, Run(POLICY))
    assert server.ranges() == ["bytes=60000-"]
    assert download.path.read_bytes() == OLD


@pytest.mark.parametrize("record", ["", "{]", "[]", "[" * 100_000, '{"url": 5}', '{"url": null, "synced": "x"}'])
def test_a_damaged_record_of_a_part(download: Download, lock: LockFile, server: Server, record: str) -> None:
    download.path.parent.mkdir()
    download.part.write_bytes(bytes(5000))
    download.part.with_name("file.h5.part.json").write_text(record)
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == OLD


@pytest.mark.parametrize(
    "content",
    [
        "{]", "[" * 100_000, "[]", "5", '{"a": 1}', '{"a": {"sha256": "x", "size": 1}}', '{"a": {"size": 1}}',
        f'{{"a": {{"sha256": "{SHA}", "size": -1}}}}', f'{{"a": {{"sha256": "{SHA}", "size": 1e400}}}}',
    ],
)  # fmt: skip
def test_a_lock_file_that_is_none(download: Download, lock: LockFile, content: str) -> None:
    lock.path.write_text(content)
    with pytest.raises(DownloadError, match="is not a lock file") as error:
        ensure(download, lock, Run(POLICY))
    assert "\n" not in str(error.value)


def test_a_disk_that_cannot_be_written(download: Download, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(part: Part, piece: bytes) -> None:
        raise OSError(28, "No space left on device", str(part.path))

    append = Part.append
    monkeypatch.setattr(Part, "append", full)
    with pytest.raises(DownloadError, match=r"No space left.*is the disk full"):
        ensure(download, lock, Run(POLICY))
    monkeypatch.setattr(Part, "append", append)
    ensure(download, lock, Run(POLICY))
    assert download.path.read_bytes() == OLD


def test_what_a_server_says_reaches_no_terminal(download: Download, lock: LockFile, server: Server) -> None:
    server.files["/file.h5"] = b"\x1b[2J\nout.h5: fine"
    with pytest.raises(DownloadError, match="an error page, perhaps") as error:
        ensure(download, lock, Run(POLICY))
    assert str(error.value).isprintable()
