"""What of a folder is listed, in which order, and under which names."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from helpers import bad_images
from helpers.common import ROOT
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feature_extraction.errors import ImageFolderError
from feature_extraction.images.listing import Failure, ImageFile, Listing, list_images
from feature_extraction.storage.store import image_ids

# --- listing -------------------------------------------------------------------------------------------


def make(folder: Path, *names: str | bytes) -> None:
    """Files whose content is their path, or the text after "=" in the name."""
    for name in map(os.fsdecode, names):
        path, _, content = name.partition("=")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(os.fsencode(content or path))


def ids(folder: Path, pattern: str = "*", recursive: bool = True) -> list[str]:
    return [image.id for image in list_images(folder, pattern, recursive).images]


def reasons(folder: Path, pattern: str = "*", recursive: bool = True) -> dict[str, str]:
    return {
        os.path.relpath(failure.path, folder): failure.reason
        for failure in list_images(folder, pattern, recursive).failures
    }


def test_order_is_that_of_the_feature_file(tmp_path: Path) -> None:
    names = ["9", "10", "1", "a b", "Z", "a", "é", "e\u0301", "\U0001f408", "\uffff", "~", "-", "a.b"]
    make(tmp_path / "images", *(f"{name}.jpg" for name in names))
    found = ids(tmp_path / "images")
    assert found.index("10") < found.index("9")
    assert found.index("\uffff") < found.index("\U0001f408")  # by UTF-8 bytes; by UTF-16 it would not be
    with h5py.File(tmp_path / "features.h5", "w") as file:
        for name in names:
            file.create_group(name)
        assert found == image_ids(file) == list(file)


def test_pattern_and_depth(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "2.png", "3", "below/4.jpg", "below/further/5.jpg", "6.jpg.part")
    assert ids(tmp_path, "*.jpg", recursive=False) == ["1"]
    assert ids(tmp_path, "*", recursive=False) == ["1", "2", "3", "6.jpg"]
    assert ids(tmp_path, "*.jpg") == ["1", "4", "5"]
    assert reasons(tmp_path, "*.jpg") == {}
    paths = [image.path for image in list_images(tmp_path, "*.jpg", True).images]
    assert paths == [tmp_path / "1.jpg", tmp_path / "below/4.jpg", tmp_path / "below/further/5.jpg"]


@settings(max_examples=200)
@given(name=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=9))
def test_ids_are_stems(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assume(not name.startswith(".") and not name.endswith("."))  # hidden; pathlib has changed its mind
    folder = tmp_path_factory.getbasetemp() / "stems"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"")
    assert ids(folder) == [Path(name).stem]
    (folder / name).unlink()


def test_hidden_names_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "._1.jpg", ".DS_Store", ".cache/2.jpg", "..jpg", "__MACOSX/._1.jpg")
    listing = list_images(tmp_path, "*", True)
    assert [image.id for image in listing.images] == ["1"]
    assert listing.failures == ()
    assert listing.copies == 0


def test_a_name_in_another_case_is_reported(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "2.JPG", "3.png")
    assert reasons(tmp_path, "*.jpg") == {"2.JPG": "name does not match *.jpg: case matters"}
    assert ids(tmp_path, "*.jpg") == ["1"]
    assert ids(tmp_path, "*") == ["1", "2", "3"]


def test_only_names_in_another_case(tmp_path: Path) -> None:
    make(tmp_path, "2.JPG")
    listing = list_images(tmp_path, "*.jpg", True)
    assert (len(listing.images), len(listing.failures)) == (0, 1)


def test_copies_count_once(tmp_path: Path) -> None:
    make(tmp_path, "VG_100K/1.jpg=same", "VG_100K_2/1.jpg=same", "third/1.jpg=same", "VG_100K_2/2.jpg")
    listing = list_images(tmp_path, "*.jpg", True)
    assert [image.path.parent.name for image in listing.images] == ["VG_100K", "VG_100K_2"]
    assert listing.copies == 2
    assert listing.failures == ()


def test_duplicates_that_differ_are_reported(tmp_path: Path) -> None:
    make(tmp_path, "b/1.jpg=one", "a/1.jpg=two", "c/1.jpg=two", "c/1.txt")
    listing = list_images(tmp_path, "*", True)
    assert [image.path for image in listing.images] == [tmp_path / "a/1.jpg"]
    assert listing.copies == 1
    reason = f"duplicate id with different content: {tmp_path / 'a/1.jpg'} is used"
    assert listing.failures == (
        Failure("1", str(tmp_path / "b/1.jpg"), reason),
        Failure("1", str(tmp_path / "c/1.txt"), reason),
    )


def test_an_image_goes_before_what_lies_beside_it(tmp_path: Path) -> None:
    make(tmp_path, "1.json", "1.png", "2.PNG", "2.caption")
    assert [image.path.name for image in list_images(tmp_path, "*", False).images] == ["1.png", "2.PNG"]


@pytest.mark.parametrize("first", ["1.bmp", "1.png"])
def test_a_pipe_among_duplicates_is_not_opened(tmp_path: Path, first: str) -> None:
    os.mkfifo(tmp_path / first)
    make(tmp_path, "1.jpg")
    assert len(reasons(tmp_path)) == 1


def test_links(tmp_path: Path) -> None:
    """A linked folder is searched, each real folder once, and a loop ends."""
    make(tmp_path, "elsewhere/1.jpg", "images/2.jpg", "images/below/3.jpg")
    images = tmp_path / "images"
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "again").symlink_to(tmp_path / "elsewhere")
    (images / "below/up").symlink_to(images)
    (images / "4.jpg").symlink_to(images / "2.jpg")
    (images / "5.jpg").symlink_to("5.jpg")
    assert ids(images, "*.jpg") == ["1", "2", "3", "4", "5"]
    listing = list_images(images, "*.jpg", True)
    assert listing.images[0].path == images / "again/1.jpg"
    assert listing.failures == ()
    assert listing.copies == 0


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "open/1.jpg", "shut/2.jpg")
    scandir = os.scandir

    def refuse(path: bytes) -> object:  # simulated: tests may run as root, who may read everything
        if path.endswith(b"shut"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_images(tmp_path, "*.jpg", True)
    assert [image.id for image in listing.images] == ["1"]
    reason = "folder cannot be read: Permission denied"
    assert listing.failures == (Failure("", str(tmp_path / "shut"), reason),)
    with pytest.raises(ImageFolderError, match="Permission denied; expected a readable folder"):
        list_images(tmp_path / "shut", "*.jpg", True)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    make(tmp_path, b"caf\xe9.jpg", "1.jpg")
    (failure,) = list_images(tmp_path, "*.jpg", True).failures
    assert failure.id == r"caf\xe9"
    assert failure.path == rf"{tmp_path}/caf\xe9.jpg"
    failure.path.encode()  # printable, storable
    assert "not UTF-8" in failure.reason


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        ((), "*.jpg", r"no file matches \*.jpg in it or below, found 0 other files; expected images"),
        (("1.png", "below/2.png"), "*.jpg", "found 2 other files"),
        ((".1.jpg",), "*", "found 0 other files"),
    ],
)
def test_no_images(tmp_path: Path, names: tuple[str, ...], pattern: str, message: str) -> None:
    make(tmp_path, *names)
    with pytest.raises(ImageFolderError, match=message):
        list_images(tmp_path, pattern, True)


def test_no_folder(tmp_path: Path) -> None:
    make(tmp_path, "file")
    for path, message in (("missing", "No such file or directory"), ("file/below", "Not a directory")):
        with pytest.raises(ImageFolderError, match=f"{path}: {message}; expected .* unpack them there"):
            list_images(tmp_path / path, "*", True)


def test_all_kinds_of_bad_files(tmp_path: Path) -> None:
    bad_images.write(tmp_path)
    for recursive in (False, True):
        listing = list_images(tmp_path, "*", recursive)
        refused = {case.name: case.reason for case in bad_images.BAD if case.fails_in == "list"}
        assert {image.path.name for image in listing.images} == {c.name for c in bad_images.CASES} - set(refused)
        assert len(listing.failures) == len(refused)
        for name, reason in refused.items():
            shown = os.fsencode(name).decode("utf-8", "backslashreplace")
            (found,) = (f.reason for f in listing.failures if Path(f.path).name == shown)
            assert reason in found


# --- one image, a list ---------------------------------------------------------------------------------


def test_one_image(tmp_path: Path) -> None:
    make(tmp_path, "a.b.jpg", "other.jpg", "no suffix", ".hidden.jpg")
    for name, image_id in (("a.b.jpg", "a.b"), ("no suffix", "no suffix"), (".hidden.jpg", ".hidden")):
        listing = list_images(tmp_path / name, "*.png")  # the pattern is for folders
        assert listing == Listing((ImageFile(image_id, tmp_path / name),), ())
    (tmp_path / "link.jpg").symlink_to("a.b.jpg")
    assert list_images(tmp_path / "link.jpg").images[0].id == "link"
    make(tmp_path, b"caf\xe9.jpg")
    (failure,) = list_images(tmp_path / os.fsdecode(b"caf\xe9.jpg")).failures
    assert "not UTF-8" in failure.reason


def test_one_image_relative_to_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1.jpg", "list.txt=1.jpg")
    monkeypatch.chdir(tmp_path)
    assert list_images(Path("1.jpg")).images == (ImageFile("1", Path("1.jpg")),)
    assert list_images(Path("list.txt")).images == (ImageFile("1", Path("1.jpg")),)


def test_a_list_file(tmp_path: Path) -> None:
    make(tmp_path, "lists/2.jpg", "images/1.jpg", "images/#3.jpg", "images/ 4 .jpg", "images/ünï.jpg", "images/.5.jpg")
    lines = [
        "# a comment", "", "   ", "  # another", "2.jpg", "../images/1.jpg", str(tmp_path / "images" / "#3.jpg"),
        "../images/ 4 .jpg\r", "../images/ünï.jpg", "../images/.5.jpg",
    ]  # fmt: skip
    path = tmp_path / "lists" / "some.TXT"
    for text in ("\n".join(lines), "\ufeff" + "\n".join(lines) + "\n"):
        path.write_bytes(text.encode())
        listing = list_images(path, "*.png")
        assert listing.failures == ()
        assert [image.id for image in listing.images] == [" 4 ", "#3", ".5", "1", "2", "ünï"]
        assert all(image.path.read_bytes() for image in listing.images)
    assert listing.images[3].path == tmp_path / "lists" / "../images/1.jpg"


def test_what_a_list_names_and_is_not_there(tmp_path: Path) -> None:
    make(tmp_path, "1.jpg", "below/1.jpg=other", "copy/1.jpg=1.jpg", "3.jpg/x")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    lines = [
        b"1.jpg",
        b"gone.jpg",
        b"3.jpg",
        b"loop.jpg",
        b"below/1.jpg",
        b"copy/1.jpg",
        b"caf\xe9.jpg",
        b"x" * 300,
        b"..",
    ]
    (tmp_path / "list.txt").write_bytes(b"\n".join(lines))
    listing = list_images(tmp_path / "list.txt")
    assert [image.id for image in listing.images] == ["1"]
    assert listing.copies == 1
    found = {os.path.relpath(failure.path, tmp_path): failure.reason for failure in listing.failures}
    assert found == {
        "gone.jpg": "listed, but cannot be read: No such file or directory",
        "3.jpg": "a folder, not an image file",
        "loop.jpg": "listed, but cannot be read: Too many levels of symbolic links",
        "below/1.jpg": f"duplicate id with different content: {tmp_path / '1.jpg'} is used",
        r"caf\xe9.jpg": "listed, but cannot be read: No such file or directory",
        "x" * 300: "listed, but cannot be read: File name too long",
        "..": "a folder, not an image file",
    }


def test_a_list_of_nothing_and_no_list(tmp_path: Path) -> None:
    for content, message in (
        (b"", "names no image; expected one path a line"),
        (b"# nothing\n\n", "names no image"),
        ("1.jpg\n".encode("utf-16"), "holds zero bytes, so no text in UTF-8"),
    ):
        (tmp_path / "list.txt").write_bytes(content)
        with pytest.raises(ImageFolderError, match=message):
            list_images(tmp_path / "list.txt")
    with pytest.raises(ImageFolderError, match=r"gone\.txt: No such file or directory; expected a readable folder"):
        list_images(tmp_path / "gone.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(ImageFolderError):
        list_images(tmp_path / "pipe.txt")


# --- what the kit writes is no image -------------------------------------------------------------------


def test_the_kits_own_files_are_no_images(tmp_path: Path) -> None:
    """An output inside the image folder: shares and later runs see the same list, whenever they look."""
    make(tmp_path, "1.jpg", "below/2.jpg", "h5.jpg", "work.jpg", "a.h5.jpg", "1.report.json.png")
    before = list_images(tmp_path, "*", True)
    own = ["f.h5", "f.report.json", "f.h5.work/part0of2", "f.h5.work/manifest.json", "f.h5.work/x.jpg", ".f.h5.1234-ab"]
    own += ["f.h5.work.done-host-12/x.jpg"]  # while it is removed
    make(tmp_path, *own, *(f"below/{name}" for name in own), "f_boxes36.h5", "below/maskrcnn_train_grid8.h5.work/y.jpg")
    for recursive in (True, False):
        listing = list_images(tmp_path, "*", recursive)
        assert listing.failures == ()
        assert set(listing.images) <= set(before.images)
    assert list_images(tmp_path, "*", True) == before
    assert [image.id for image in before.images] == ["1", "1.report.json", "2", "a.h5", "h5", "work"]


# --- names ---------------------------------------------------------------------------------------------


def test_no_name_reaches_a_terminal_raw(tmp_path: Path) -> None:
    evil = "a\x1b]0;owned\x07\x1b[2J\nout.h5: features of 1,000 images, 0 failed"
    make(tmp_path, f"{evil}.jpg=1", f"b/{evil}.jpg=2", f"{evil}.JPG/x", f"{evil}.Jpg=3")
    (tmp_path / "list.txt").write_text(f"gone{evil.splitlines()[0]}.jpg")
    failures = [*list_images(tmp_path, "*.jpg").failures, *list_images(tmp_path / "list.txt").failures]
    shown = "".join(failure.path + failure.reason for failure in failures)
    assert len(list_images(tmp_path, "*.jpg").failures) == 2
    with pytest.raises(ImageFolderError) as caught:
        list_images(tmp_path / f"{evil}.JPG", f"{evil}*")
    image = list_images(tmp_path, "*.jpg").images[0]
    assert image.id == evil  # the key itself stays what it is
    failure = Failure.of(image, "reason")
    assert failure.id == evil  # so that who counts what is missing finds it
    shown += str(caught.value) + failure.path
    assert "\\x1b" in shown
    assert not {"\x1b", "\x07", "\n"} & set(shown)


SHOW = """
import sys
from pathlib import Path
from feature_extraction.images.decode import read_image
from feature_extraction.images.files import stamp
from feature_extraction.images.listing import list_images
folder = Path(sys.argv[1])
for source in (folder, folder / "list.txt", folder / sys.argv[3]):
    listing = list_images(source, sys.argv[2])
    print([ascii(image.id) for image in listing.images], ascii(listing.failures))
    print([ascii(read_image(image.path)[1]) for image in listing.images])
    print([ascii(stamp(image.path)) for image in listing.images])
"""


def _locales(folder: Path) -> dict[str, dict[str, str]]:
    """Settings of locales in which Python decodes names otherwise; one of ISO-8859-1 is made where the system can."""
    off = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = {"C": {"LC_ALL": "C", **off}, "POSIX": {"LC_ALL": "POSIX", **off}, "UTF-8 mode": {"LC_ALL": "C"}}
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-f", "ISO-8859-1", "-i", "en_US", str(folder / "en_US.ISO-8859-1")],
        check=False,
        capture_output=True,
    )
    if made and (folder / "en_US.ISO-8859-1").exists():
        found["ISO-8859-1"] = {"LC_ALL": "en_US.ISO-8859-1", "LOCPATH": str(folder), **off}
    return found


def test_ids_and_names_do_not_depend_on_the_locale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "ünïcödé"
    folder.mkdir()
    for name in ("é.jpg", "写真 🐈.jpg", "z.jpg", "é.JPG", os.fsdecode(b"caf\xe9.jpg"), "Ã©.jpg"):
        (folder / name).write_bytes(bad_images.JPEG)
    (folder / "list.txt").write_bytes("é.jpg\n写真 🐈.jpg\ngone é.jpg\n".encode())

    def ask(**settings: str) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8", "PYTHONIO"))}
        command = [sys.executable, "-c", SHOW, folder, "[éÃz写]*.jpg", "é.jpg"]
        return subprocess.run(
            command, cwd=ROOT, env={**env, **settings}, check=True, capture_output=True, text=True
        ).stdout

    expected = ask(LC_ALL="C.UTF-8")
    assert "'\\xe9'" in expected  # one letter, not two
    assert "not UTF-8" not in expected  # the pattern passes over that file
    locales = _locales(tmp_path)
    for name, variables in locales.items():
        assert ask(**variables) == expected, name
    with capsys.disabled():
        print("\nthe same ids and names in the locales", *locales)


# --- large folders -------------------------------------------------------------------------------------


def test_many_names_take_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = 20_000
    for i in range(count):
        os.close(os.open(tmp_path / f"COCO_train2014_{i:012d}.jpg", os.O_CREAT | os.O_WRONLY))
    start = time.perf_counter()
    assert len(list_images(tmp_path, "*", True).images) == count
    took = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nlisting {count:,} names: {took:.2f} s")
    assert took < 10  # 0.2 s where it was written


def test_no_call_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """150,000 files on a network disk: one system call for each would take minutes."""
    make(tmp_path, *(f"{i % 3}/{i}.jpg" for i in range(300)))
    calls: list[str] = []

    def counting(name: str) -> None:
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, **kwargs: calls.append(name) or real(*args, **kwargs))

    for name in ("stat", "lstat", "open", "scandir", "readlink"):
        counting(name)
    assert len(ids(tmp_path)) == 300
    assert len(calls) <= 2 * 4 + 2  # stat and scandir of 4 folders, one more of the first
