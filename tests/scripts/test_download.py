"""Downloads against a server on this machine that does everything wrong that servers do."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.file_server import Server

from feature_extraction.errors import DownloadError
from scripts.download import __main__ as main_module
from scripts.download.ensure import ensure
from scripts.download.fetch import Download
from scripts.download.files import exclusive
from scripts.download.plan import UNPACKED
from scripts.download.policy import RetryPolicy, Run, Stopped
from scripts.download.record import Known, LockFile

HDF5 = b"\x89HDF\r\n\x1a\n"
CONTENT = HDF5 + bytes(range(256)) * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
POLICY = RetryPolicy(tries=4, first_wait=0.01, longest_wait=0.02)


@pytest.fixture
def server(server: Server) -> Server:
    server.files["/file.h5"] = CONTENT
    return server


def get(download: Download, lock: LockFile) -> str:
    """What was done, without the file's name."""
    path, _, done = ensure(download, lock, Run(POLICY)).partition(": ")
    assert path == str(download.path)
    return done


def nothing_at_its_name(download: Download) -> bool:
    return not download.path.exists()


def test_first_sight_records_and_later_ones_are_held_to_it(download: Download, lock: LockFile, server: Server) -> None:
    assert get(download, lock) == "downloaded, SHA-256 recorded"
    assert download.path.read_bytes() == CONTENT
    assert lock.entry(download.key) == Known(SHA, len(CONTENT))
    assert [p.name for p in download.path.parent.iterdir()] == ["file.h5"], "no parts are left"
    assert get(download, lock) == "is there"
    assert len(server.requests) == 1

    download.path.unlink()
    assert get(download, lock) == "downloaded, verified"
    download.path.unlink()
    server.files["/file.h5"] = HDF5 + bytes(len(CONTENT) - 8)  # as long, but other content
    with pytest.raises(DownloadError, match=f"SHA-256 is .*, expected {SHA}"):
        get(download, lock)
    assert nothing_at_its_name(download)


RECOVERED = {
    "throttled": ["throttle"],
    "cut once": ["cut:1000"],
    "cut often": ["cut:1000", "cut:3", "cut:70000", "cut:1", "cut:20000", "cut:10"],
    "cut before the first byte": ["cut:0", "cut:0"],
    "500, then fine": ["status:500"],
    "503, 500, 429": ["status:503", "status:500", "status:429"],
    "cut, 503, then on": ["cut:5000", "status:503"],
    "cannot continue, begins anew": ["cut:5000", "no-ranges"],
    "416 on continuing, begins anew": ["cut:5000", "status:416"],
}


@pytest.mark.parametrize("trouble", RECOVERED.values(), ids=RECOVERED)
def test_recovers(download: Download, lock: LockFile, server: Server, trouble: list[str]) -> None:
    server.trouble["/file.h5"] = list(trouble)
    get(download, lock)
    assert download.path.read_bytes() == CONTENT
    assert server.trouble["/file.h5"] == [], "every trouble was met"


def test_continues_where_it_was_cut(download: Download, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:5000"]
    get(download, lock)
    assert server.ranges() == [None, "bytes=5000-"]


def test_redirects_are_followed(download: Download, lock: LockFile, server: Server) -> None:
    get(Download(download.key, server.url("/redirect"), download.path), lock)
    assert download.path.read_bytes() == CONTENT


STOPPED = {
    # what the server does -> what the user reads
    "404": (lambda s: s.files.clear(), "404.*another source: BASE_URL"),
    "always 503": (lambda s: s.trouble.update({"/file.h5": ["status:503"] * 9}), "given up after 4 tries.*503"),
    "always 500": (lambda s: s.trouble.update({"/file.h5": ["status:500"] * 9}), "given up after 4 tries.*500"),
    "always 416": (lambda s: s.trouble.update({"/file.h5": ["status:416"] * 9}), "neither continues nor begins"),
    "403": (lambda s: s.trouble.update({"/file.h5": ["status:403"]}), "403"),
    "shorter than it says": (lambda s: s.trouble.update({"/file.h5": ["cut:99"] + ["cut:0"] * 9}), "given up.* 99 of"),
    "a page instead": (lambda s: s.files.update({"/file.h5": b"<html>log in"}), r"no \.h5 file.*an error page"),
    "a page of other length": (lambda s: s.trouble.update({"/file.h5": ["page"] * 9}), "an error page, perhaps"),
}


@pytest.mark.parametrize(("does", "reads"), STOPPED.values(), ids=STOPPED)
def test_stops_with_a_clear_error(
    download: Download, lock: LockFile, server: Server, does: Callable[[Server], None], reads: str
) -> None:
    does(server)
    with pytest.raises(DownloadError, match=reads):
        get(download, lock)
    assert nothing_at_its_name(download)
    assert lock.entry(download.key) is None


@pytest.mark.parametrize(("path", "reads"), [("/redirect-loop", "redirects"), ("/redirect-to-file", "protocol")])
def test_bad_redirects(download: Download, lock: LockFile, server: Server, path: str, reads: str) -> None:
    with pytest.raises(DownloadError, match=reads):
        get(Download(download.key, server.url(path), download.path), lock)
    assert nothing_at_its_name(download)


def test_no_server(download: Download, lock: LockFile, server: Server) -> None:
    with pytest.raises(DownloadError, match=r"given up after 4 tries.*nothing came.*BASE_URL"):
        get(Download(download.key, "http://127.0.0.1:1/file.h5", download.path), lock)


def test_wrong_content_with_a_demanded_sum(download: Download, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["other"]
    demanded = Download(download.key, download.url, download.path, sha256=SHA)
    with pytest.raises(DownloadError, match=f"SHA-256 is .*, expected {SHA}.*deleted"):
        get(demanded, lock)
    assert nothing_at_its_name(download)
    assert not download.part.exists()
    assert get(demanded, lock) == "downloaded, verified"


def test_a_demanded_sum_against_the_lock(download: Download, lock: LockFile) -> None:
    lock.record(download.key, "a" * 64, len(CONTENT))
    with pytest.raises(DownloadError, match="contradicts"):
        get(Download(download.key, download.url, download.path, sha256=SHA), lock)


def test_another_length_than_the_lock_knows(download: Download, lock: LockFile) -> None:
    lock.record(download.key, SHA, 5)
    with pytest.raises(DownloadError, match=f"has {len(CONTENT)} bytes, .* knows it with 5"):
        get(download, lock)
    assert nothing_at_its_name(download)


def test_a_part_of_an_older_version_is_dropped(download: Download, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:5000", *["status:503"] * 9]
    with pytest.raises(DownloadError, match="are kept"):
        get(download, lock)
    assert download.part.stat().st_size == 5000
    server.trouble.clear()
    server.files["/file.h5"] = HDF5 + b"new" * 5000
    get(download, lock)
    assert download.path.read_bytes() == server.files["/file.h5"]


def test_a_part_of_this_version_is_continued(download: Download, lock: LockFile, server: Server) -> None:
    server.trouble["/file.h5"] = ["cut:5000", *["status:503"] * 9]
    with pytest.raises(DownloadError, match="are kept"):
        get(download, lock)
    server.trouble.clear()
    server.requests.clear()
    get(download, lock)
    assert server.ranges() == ["bytes=5000-"]
    assert download.path.read_bytes() == CONTENT


def test_no_secret_of_an_address_is_kept_and_another_signature_goes_on(
    download: Download, lock: LockFile, server: Server
) -> None:
    def signed(signature: str) -> Download:
        path = f"/file.h5?sig={signature}"
        server.files[path] = CONTENT
        return replace(download, url=server.url(path).replace("//", "//user:pa55word@"))

    first = signed("s3cr3t")
    server.trouble["/file.h5?sig=s3cr3t"] = ["cut:5000", *["status:503"] * 9]
    with pytest.raises(DownloadError, match="are kept") as caught:
        get(first, lock)
    told = str(caught.value) + "".join(p.read_text(errors="replace") for p in download.path.parent.iterdir())
    assert not [secret for secret in ("user", "pa55word", "s3cr3t") if secret in told]
    server.requests.clear()
    get(signed("another"), lock)
    assert server.ranges() == ["bytes=5000-"]


def test_changed_unnoticed_between_two_parts(download: Download, lock: LockFile, server: Server) -> None:
    """Same length, no validators: only the recorded sum can tell; the file is fetched anew, from the first byte."""
    server.validators = "none"
    lock.record(download.key, SHA, len(CONTENT))
    download.part.parent.mkdir(parents=True)
    download.part.write_bytes(bytes(5000))
    version = {"url": download.url, "content-length": str(len(CONTENT))}
    download.part.with_name("file.h5.part.json").write_text(json.dumps(version))
    assert get(download, lock) == "downloaded, verified"
    assert download.path.read_bytes() == CONTENT
    assert server.ranges() == ["bytes=5000-", None]


def test_a_server_without_head(download: Download, lock: LockFile, server: Server) -> None:
    server.head = False
    server.trouble["/file.h5"] = ["cut:5000"]
    get(download, lock)
    assert download.path.read_bytes() == CONTENT


def test_a_damaged_file_at_its_name_is_not_taken(download: Download, lock: LockFile) -> None:
    get(download, lock)
    download.path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"is there, but its SHA-256.*move it away"):
        get(download, lock)


def test_no_room(download: Download, lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 7

    monkeypatch.setattr("scripts.download.files.shutil.disk_usage", lambda _: Usage)
    with pytest.raises(DownloadError, match=f"{len(CONTENT)} bytes are to come.*room for 7"):
        get(download, lock)
    assert nothing_at_its_name(download)


def test_one_download_of_a_file_at_a_time(download: Download, lock: LockFile) -> None:
    with exclusive(download.busy, "not free"), pytest.raises(DownloadError, match="another download of it is running"):
        get(download, lock)
    get(download, lock)
    assert not download.busy.exists()


def test_stopping_keeps_what_has_arrived(download: Download, lock: LockFile, server: Server) -> None:
    server.files["/file.h5"] = CONTENT * 20
    server.trouble["/file.h5"] = ["throttle"]
    run = Run(POLICY)
    threading.Timer(0.3, run.stopping.set).start()
    with pytest.raises(Stopped):
        ensure(download, lock, run)
    assert nothing_at_its_name(download)
    kept = download.part.stat().st_size
    assert kept > 0
    server.requests.clear()
    get(download, lock)
    assert server.ranges() == [f"bytes={kept}-"]
    assert download.path.read_bytes() == CONTENT * 20


def test_a_broken_lock_file_is_named(download: Download, lock: LockFile) -> None:
    lock.path.write_text("{]")
    with pytest.raises(DownloadError, match="is not a lock file"):
        get(download, lock)


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
    for name in ("detectron_model.pth", "detectron_config.yaml"):  # of one killed in its last step, and of one at work
        (tmp_path / "ckpt" / f"{name}.lock").touch()
    with (tmp_path / "ckpt" / "detectron_config.yaml.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        again = command(tmp_path, "checkpoint", "--base-url", server.url(""))
    assert again.returncode == 0
    assert again.stdout.count("is there") == 2
    assert [path.name for path in (tmp_path / "ckpt").glob("*.lock")] == ["detectron_config.yaml.lock"]


def test_checkpoint_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "carried over"
    folder.mkdir()
    (folder / "detectron_model.pth").write_bytes(b"PK\x03\x04weights")
    (folder / "detectron_config.yaml").write_bytes(b"MODEL: {}\n")
    done = command(tmp_path, "checkpoint", "--base-url", str(folder))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ckpt" / "detectron_model.pth").read_bytes() == b"PK\x03\x04weights"


def test_pythias_detector_has_a_folder_of_its_own(tmp_path: Path, server: Server) -> None:
    server.files |= {"/x-101/detectron_model.pth": b"PK\x03\x04weights", "/x-101/detectron_model.yaml": b"MODEL: {}\n"}
    done = command(tmp_path, "checkpoint", "x-101", "--base-url", server.url(""))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "ckpt" / "x-101"
    assert sorted(path.name for path in folder.iterdir()) == ["detectron_model.pth", "detectron_model.yaml"]
    assert f"next: --checkpoint_dir {folder}" in done.stdout
    lock = json.loads((tmp_path / "lock.json").read_text())
    assert set(lock) == {"x-101/detectron_model.pth", "x-101/detectron_model.yaml"}, "not the published detector's keys"


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
    (images / ".val2014.lock").touch()  # of one that was killed in its last step
    requests = len(server.requests)
    assert command(tmp_path, "images", "coco", "--base-url", server.url("")).returncode == 0
    assert len(server.requests) == requests, "what is there is not downloaded again"
    assert sorted(p.name for p in images.iterdir()) == ["test2015", "train2014", "val2014"]


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


def test_images_that_have_come_another_way_are_there(tmp_path: Path) -> None:
    """Who has a data set already has no folder of its archives."""
    for folder in ("train2014", "val2014", "test2015"):
        (tmp_path / "datasets/COCO/images" / folder).mkdir(parents=True)
        (tmp_path / "datasets/COCO/images" / folder / "1.jpg").touch()
    done = command(tmp_path, "images", "coco", "--base-url", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": is there") == 3
    assert not (tmp_path / "datasets/COCO/archives").exists()


def test_all_that_can_be_had_without_a_form_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make download-images && make extract-all` goes on; who names NLVR2 wants it."""
    monkeypatch.setattr(main_module, "Plan", lambda args: SimpleNamespace(downloads=[]))
    words = ["--datasets", str(tmp_path), "--lock", str(tmp_path / "lock.json")]
    assert main_module.main(["images", *words]) == 0
    said = capsys.readouterr()
    assert "not downloaded: nlvr2: images are lacking" in said.out
    assert "make extract-gqa" in said.out
    assert "make extract-nlvr2" not in said.out
    assert said.err == ""
    assert main_module.main(["images", "nlvr2", *words]) == 1


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
        (["checkpoint", "coco"], "no detector 'coco'; known: x-152, x-101, mmf-x-152"),
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
    assert keys == set(UNPACKED)


def test_the_lock_file_is_written_by_one_process_at_a_time(lock: LockFile) -> None:
    """What another one recorded in between would be lost."""
    writing = threading.Thread(target=lock.record, args=("a", SHA, 1))
    with lock.path.with_name(lock.path.name + ".guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        writing.start()
        writing.join(0.3)
        assert writing.is_alive()
        lock.path.write_text(json.dumps({"b": {"sha256": SHA, "size": 2}}))
    writing.join(60)
    assert (lock.entry("a"), lock.entry("b")) == (Known(SHA, 1), Known(SHA, 2))
