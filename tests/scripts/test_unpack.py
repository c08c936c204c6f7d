"""Archives from the network: what is refused, and that nothing of it is kept."""

from __future__ import annotations

import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.common import ROOT

from feature_extraction.errors import DownloadError
from scripts.download.policy import Stopped
from scripts.download.unpack import Limits, unpack

LIMITS = Limits(members=50, total_bytes=40_000_000, member_bytes=30_000_000)


def plain(archive: zipfile.ZipFile) -> None:
    archive.writestr("top/", b"")
    archive.writestr("top/1.jpg", b"one")
    archive.writestr("top/sub/2.jpg", b"two" * 1000)


def named(name: str) -> Callable[[zipfile.ZipFile], None]:
    def write(archive: zipfile.ZipFile) -> None:
        plain(archive)
        info = zipfile.ZipInfo("top/x")
        info.filename = name  # past ZipInfo's own tidying
        archive.writestr(info, b"x")

    return write


def of_mode(mode: int, name: str = "top/x") -> Callable[[zipfile.ZipFile], None]:
    def write(archive: zipfile.ZipFile) -> None:
        plain(archive)
        info = zipfile.ZipInfo(name)
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, b"/etc/passwd")

    return write


def bomb(archive: zipfile.ZipFile) -> None:
    archive.writestr("top/bomb.jpg", bytes(20_000_000), zipfile.ZIP_DEFLATED)


def many(archive: zipfile.ZipFile) -> None:
    for i in range(51):
        archive.writestr(f"top/{i}.jpg", b"")


def large(archive: zipfile.ZipFile) -> None:
    for i in range(3):
        archive.writestr(f"top/{i}.jpg", bytes(16_000_000))


def one_too_large(archive: zipfile.ZipFile) -> None:
    archive.writestr("top/1.jpg", bytes(31_000_000))


def exotic(archive: zipfile.ZipFile) -> None:
    archive.writestr("top/1.jpg", b"x" * 100, zipfile.ZIP_LZMA)


REFUSED: dict[str, tuple[Callable[[zipfile.ZipFile], None], str]] = {
    "absolute path": (named("/etc/cron.d/x"), "not one of an image archive"),
    "absolute path below the folder": (named("top//etc/x"), "not one of an image archive"),
    "parent folder": (named("../x"), "not one of an image archive"),
    "parent folder inside": (named("top/../../x"), "not one of an image archive"),
    "this folder": (named("top/./x"), "not one of an image archive"),
    "backslashes": (named("top\\..\\..\\x"), "not one of an image archive"),
    "drive letter": (named("C:/x"), "not one of an image archive"),
    "hidden file": (named("top/.bashrc"), "not one of an image archive"),
    "control character": (named("top/a\x1b[2Jb"), "not one of an image archive"),
    "name cut by a NUL": (named("top/a.jpg\x00.exe"), "not one of an image archive"),
    "letters that look like others": (named("top/\u0430.jpg"), "not one of an image archive"),
    "a newline": (named("top/a\nb"), "not one of an image archive"),
    "long name": (named("top/" + "x" * 300), "is too long"),
    "deep name": (named("top/a/b/c/d/e"), "is too deep"),
    "another folder": (named("elsewhere/x.jpg"), "not in the folder 'top'"),
    "symbolic link": (of_mode(stat.S_IFLNK), "link or a device"),
    "symbolic link, then a file through it": (of_mode(stat.S_IFLNK, "top/sub"), "link or a device"),
    "character device": (of_mode(stat.S_IFCHR), "link or a device"),
    "block device": (of_mode(stat.S_IFBLK), "link or a device"),
    "named pipe": (of_mode(stat.S_IFIFO), "link or a device"),
    "socket": (of_mode(stat.S_IFSOCK), "link or a device"),
    "folder that is a file": (of_mode(stat.S_IFDIR), "folder by its mode"),
    "a name twice": (named("top/1.jpg"), "there twice"),
    "a name twice but for its case": (named("top/1.JPG"), "there twice"),
    "file and folder of one name": (named("top/sub"), "a file and a folder"),
    "bomb": (bomb, "no image does"),
    "too many members": (many, "51 members"),
    "too much in all": (large, "unpacks to 48000000 bytes"),
    "one too large": (one_too_large, "31000000 bytes"),
    "exotic packing": (exotic, "packed by method 14"),
    "nothing in it": (lambda archive: archive.writestr("top/", b""), "no file in it"),
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as new:
        plain(new)
    return path


def refused(path: Path, tmp_path: Path, reason: str) -> None:
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DownloadError, match=reason) as error:
        unpack(path, "top", tmp_path / "out", LIMITS)
    assert "Nothing of it was kept" in str(error.value)
    assert set(tmp_path.rglob("*")) == before, "something was written"


def test_plain(archive: Path, tmp_path: Path) -> None:
    assert unpack(archive, "top", tmp_path / "out") == 2
    assert (tmp_path / "out" / "1.jpg").read_bytes() == b"one"
    assert (tmp_path / "out" / "sub" / "2.jpg").read_bytes() == b"two" * 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zip", "out"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", REFUSED)
def test_refused(kind: str, tmp_path: Path) -> None:
    make, reason = REFUSED[kind]
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        make(archive)
    refused(path, tmp_path, reason)


def edited(path: Path, signature: bytes, offset: int, form: str, value: int) -> None:
    """Overwrite a number in the last header that begins with ``signature``."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, data.rindex(signature) + offset, value)
    path.write_bytes(data)


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


@pytest.mark.parametrize(
    ("signature", "offset", "form", "value", "reason"),
    [
        (CENTRAL, 8, "<H", 1, "encrypted"),
        (CENTRAL, 16, "<I", 12345, "damaged.*CRC"),
        (CENTRAL, 24, "<I", 2999, "damaged|another number"),  # says less than it holds
        (CENTRAL, 24, "<I", 3001, "damaged|another number"),  # says more than it holds
        (CENTRAL, 20, "<I", 10**6, "more content than it has"),
        (CENTRAL, 42, "<I", 0, "overlaps"),  # two members over the same bytes
        (LOCAL, 30, "<B", ord("x"), "damaged"),  # other names in the two places a zip has for them
        (END, 16, "<I", 0, "damaged|more content"),
    ],
)
def test_headers_that_lie(
    archive: Path, tmp_path: Path, signature: bytes, offset: int, form: str, value: int, reason: str
) -> None:
    edited(archive, signature, offset, form, value)
    refused(archive, tmp_path, reason)


@pytest.mark.parametrize("keep", [0, 10, 100, -10])
def test_truncated_or_no_archive(archive: Path, tmp_path: Path, keep: int) -> None:
    archive.write_bytes(archive.read_bytes()[:keep])
    refused(archive, tmp_path, "damaged")


def test_flipped_bytes_are_never_kept(archive: Path, tmp_path: Path) -> None:
    """Whatever byte is flipped: the right files, or an error and nothing."""
    whole = archive.read_bytes()
    for i in range(0, len(whole), 7):
        archive.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        out = tmp_path / f"out{i}"
        try:
            unpack(archive, "top", out, LIMITS)
        except DownloadError:
            assert not out.exists()
        else:
            assert (out / "1.jpg").read_bytes() == b"one"
            assert (out / "sub" / "2.jpg").read_bytes() == b"two" * 1000


def test_what_is_there_is_not_touched(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(DownloadError, match="holds something already"):
        unpack(archive, "top", tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_no_room(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1

    monkeypatch.setattr("scripts.download.files.shutil.disk_usage", lambda _: Usage)
    refused(archive, tmp_path, "there is room for 1")


def test_leftovers_of_a_killed_run_are_replaced(archive: Path, tmp_path: Path) -> None:
    work = tmp_path / ".out.unpacking"
    work.mkdir()
    (work / "half").touch()
    unpack(archive, "top", tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1.jpg", "sub"]


# --- one at a time, whole or not at all ----------------------------------------------------------------


def test_a_second_process_is_told(archive: Path, tmp_path: Path) -> None:
    """It neither waits without end nor touches what the first one writes."""
    out = tmp_path / "out"

    def second() -> None:
        with pytest.raises(DownloadError, match="another process is unpacking it; wait for it"):
            unpack(archive, "top", out)

    assert unpack(archive, "top", out, check=second) == 2
    assert sorted(p.name for p in out.iterdir()) == ["1.jpg", "sub"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.zip", "out"], "no lock file is left"


def meddled(archive: Path, tmp_path: Path, meddle: Callable[[Path], None]) -> str:
    """What is said when another program works in the folder that is being filled, before the last file."""
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            meddle(tmp_path / ".out.unpacking")

    with pytest.raises(DownloadError, match="Nothing of it was kept") as error:
        unpack(archive, "top", tmp_path / "out", check=check)
    assert not (tmp_path / "out").exists()
    assert unpack(archive, "top", tmp_path / "out") == 2, "the same command mends it"
    return str(error.value)


MEDDLING: dict[str, tuple[Callable[[Path], object], str]] = {
    "removed": (lambda work: (work / "1.jpg").unlink(), "2 files were expected, 1 are there (1 missing"),
    "added": (lambda work: (work / "3.jpg").touch(), "3 are there (0 missing, 1 not in the archive"),
    "cut": (lambda work: (work / "1.jpg").write_bytes(b""), "1 of another size"),
    "all removed": (shutil.rmtree, "1 missing"),
    "in the way": (lambda work: (work / "sub").touch(), "sub"),
}


@pytest.mark.parametrize(("meddle", "reads"), MEDDLING.values(), ids=MEDDLING)
def test_what_is_there_is_compared_with_the_list(
    archive: Path, tmp_path: Path, meddle: Callable[[Path], None], reads: str
) -> None:
    assert reads in meddled(archive, tmp_path, meddle)


def test_stopped_it_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Stopped("stopped")

    before = set(tmp_path.rglob("*"))
    with pytest.raises(Stopped):
        unpack(archive, "top", tmp_path / "out", check=check)
    assert set(tmp_path.rglob("*")) == before


def test_a_list_of_files_without_end_is_not_read(tmp_path: Path) -> None:
    """zipfile reads an archive's list in one piece, however long it says that it is."""
    path = tmp_path / "in.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(2000):
            archive.writestr(f"top/{i}.jpg", b"")
    limits = Limits(directory_bytes=1 << 16)
    with pytest.raises(DownloadError, match=r"its list of files has \d+ bytes, more than 65536"):
        unpack(path, "top", tmp_path / "out", limits)


def test_killed_anywhere_it_unpacks_the_next_time(archive: Path, tmp_path: Path) -> None:
    """The process is killed at each system call that makes, renames or syncs something."""
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom scripts.download.unpack import unpack\n"
        "left = int(sys.argv[3])\n"
        "def hook(event, arguments):\n"
        "    global left\n"
        "    if event in ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir') and 'out' in str(arguments[0]):\n"
        "        left -= 1\n"
        "        if left < 0: os._exit(9)\n"
        "sys.addaudithook(hook)\n"
        "unpack(Path(sys.argv[1]), 'top', Path(sys.argv[2]))\n"
    )
    for k in range(40):
        out = tmp_path / f"out{k}"
        code = subprocess.run([sys.executable, "-c", program, archive, out, str(k)], check=False, cwd=ROOT).returncode
        assert code in (0, 9)
        if out.exists():
            assert (out / "1.jpg").read_bytes() == b"one"
            assert (out / "sub" / "2.jpg").read_bytes() == b"two" * 1000
        else:
            assert unpack(archive, "top", out) == 2
        if code == 0:
            return
    pytest.fail("it never came to its end")
