"""tar.py: what an archive holds, however it was made or mistreated."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import os
import struct
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import bad_images
from helpers.tars import jpeg, member, samples, tar_bytes, write_tar
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_extraction.errors import ImageError, ImageFolderError
from feature_extraction.images import files, tar
from feature_extraction.images.decode import decode_image, read_opened, size_opened
from feature_extraction.images.listed import Listing
from feature_extraction.images.tar import TarMember, list_archive, open_tar


def listed(path: Path, content: bytes) -> Listing[TarMember]:
    path.write_bytes(content)
    return list_archive(open_tar(path))


def reasons(listing: Listing[TarMember]) -> list[str]:
    return [failure.reason for failure in listing.failures]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "00000.tar"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_images_are_members_by_their_stems_and_what_lies_beside_is_ignored(path: Path, form: int) -> None:
    folder = member("below", type=tarfile.DIRTYPE)
    others = [member("stats.csv"), member("below/12.PNG", bad_images.PNG), member("._13.jpg", b"x")]
    listing = listed(path, tar_bytes([folder, *samples((7, 3)), *others], form))
    assert [image.id for image in listing.images] == ["000000003", "000000007", "12"]
    assert (listing.ignored, listing.failures) == (5, ())
    assert listing.images[2].name == f"{path}!/below/12.PNG"
    listing.close()


def test_a_member_is_read_as_the_same_file_is(path: Path, tmp_path: Path) -> None:
    archive = listed(path, tar_bytes(samples(range(3))))
    for number, image in enumerate(archive.images):
        (tmp_path / "x.jpg").write_bytes(jpeg(number))
        pixels, source = read_opened(image.opened_for_good())
        np.testing.assert_array_equal(pixels, decode_image(tmp_path / "x.jpg"))
        assert size_opened(image.opened()) == pixels.shape[:2]
        assert source.sha256 == hashlib.sha256(jpeg(number)).hexdigest() == image.sha256()
        assert source.stamp == image.stamp()


@pytest.mark.parametrize(
    "case", [c for c in bad_images.CASES if c.fails_in != "list"], ids=lambda c: ascii(c.name)[1:31]
)
def test_every_good_and_bad_file_fares_as_it_does_in_a_folder(
    case: bad_images.Case, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "case.jpg"
    case.make(image)
    if not image.is_file() or image.stat().st_size > 1 << 24:
        pytest.skip("no regular file, or a large one")
    (inside,) = listed(path, tar_bytes([member("case.jpg", image.read_bytes())])).images

    def outcome(what: object) -> object:
        try:
            return decode_image(what) if isinstance(what, Path) else read_opened(what)[0]
        except ImageError as error:
            return str(error)

    as_file = outcome(image)
    for in_memory in (files.IN_MEMORY, 1):  # a large member stays on the disk
        monkeypatch.setattr(files, "IN_MEMORY", in_memory)
        as_member = outcome(inside.opened_for_good())
        assert type(as_member) is type(as_file)
        np.testing.assert_array_equal(as_member, as_file)


def test_many_threads_read_one_archive(path: Path) -> None:
    images = listed(path, tar_bytes(samples(range(40)))).images
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda image: image.sha256(), [*images, *images]))
    assert found == [hashlib.sha256(jpeg(n)).hexdigest() for n in range(40)] * 2


# --- hostile and broken ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "image_id", "shown"),
    [
        ("../../etc/x.jpg", "x", "../../etc/x.jpg"),
        ("/etc/x.jpg", "x", "/etc/x.jpg"),
        ("C:\\x.jpg", "C:\\x", "C:\\x.jpg"),
        ("a\nb.jpg", "a\nb", "a\\x0ab.jpg"),
        ("\x1b[2Jgone.jpg", "\x1b[2Jgone", "\\x1b[2Jgone.jpg"),
        ("\u202egpj.exe.jpg", "\u202egpj.exe", "\\u202egpj.exe.jpg"),
        ("./x.jpg", "x", "./x.jpg"),
    ],
)
def test_a_hostile_name_is_a_key_and_nothing_else(path: Path, name: str, image_id: str, shown: str) -> None:
    listing = listed(path, tar_bytes([member(name, jpeg(1))]))
    assert [image.id for image in listing.images] == [image_id]
    assert listing.images[0].name == f"{path}!/{shown}"
    assert listing.images[0].stamp().path.isprintable()
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"name": "x" * 300 + ".jpg"}, "name of 304 bytes, the limit is 255"),
        ({"name": "a.jpg", "pax_headers": {"path": "a\0b.jpg"}}, "name holds a zero byte"),
        ({"name": "a.jpg", "type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "a link, not a regular file"),
        ({"name": "a.jpg", "type": tarfile.LNKTYPE, "linkname": "b.jpg"}, "a hard link, not a regular file"),
        ({"name": "a.jpg", "type": tarfile.CHRTYPE}, "a device, not a regular file"),
        ({"name": "a.jpg", "type": tarfile.FIFOTYPE}, "a named pipe, not a regular file"),
        ({"name": "a\udcff.jpg"}, "name is not UTF-8, as keys of HDF5 files are: rename it"),
    ],
)
def test_what_cannot_be_an_image_is_a_failure(path: Path, info: dict, reason: str) -> None:
    bad = member(info["name"])[0]
    for key, value in info.items():
        setattr(bad, key, value)
    listing = listed(path, tar_bytes([(bad, b""), member("good.jpg", jpeg(1))]))
    assert [image.id for image in listing.images] == ["good"]
    assert reasons(listing) == [reason]
    assert all(len(failure.path) < 2000 and failure.path.isprintable() for failure in listing.failures)


def test_a_sparse_member_is_a_failure(path: Path) -> None:
    sparse = tarfile.TarInfo("s.jpg")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999999"}
    sparse.size = 512
    listing = listed(path, tar_bytes([(sparse, b"1\n0\n5\n".ljust(512, b"\0")), member("good.jpg", jpeg(1))]))
    assert [image.id for image in listing.images] == ["good"]
    assert "sparse" in reasons(listing)[0]


def test_duplicate_keys(path: Path) -> None:
    """The same bytes count once; others are reported, and the first by name is used."""
    members = [
        member("b/1.jpg", jpeg(2)),
        member("a/1.jpg", jpeg(1)),
        member("c/1.png", jpeg(1)),
        member("2.jpg", jpeg(2)),
    ]
    listing = listed(path, tar_bytes([*members, member("2.jpg", jpeg(3))]))
    assert [(image.id, image.member) for image in listing.images] == [("1", "a/1.jpg"), ("2", "2.jpg")]
    assert listing.images[1].sha256() == hashlib.sha256(jpeg(2)).hexdigest()
    assert listing.copies == 1
    assert reasons(listing) == [
        f"duplicate id with different content: {path}!/2.jpg is used",
        f"duplicate id with different content: {path}!/a/1.jpg is used",
    ]


def test_a_truncated_archive_gives_what_is_whole_and_says_that_it_is_cut(path: Path) -> None:
    """Cut at every block, and inside each: never an image more or less than is whole, never silence."""
    whole = tar_bytes(samples(range(4)))
    ends = [image.offset + image.size for image in listed(path, whole).images]
    padded = -(-max(ends) // 512) * 512
    for cut in [*range(512, padded + 1024, 512), *range(700, padded, 1111)]:
        try:
            listing = listed(path, whole[:cut])
        except ImageFolderError:
            assert cut < min(ends)
            continue
        assert len(listing.images) == sum(end <= cut for end in ends), cut
        assert any("cut" in reason or "truncated" in reason for reason in reasons(listing)), cut
        assert all(image.sha256() for image in listing.images)
        listing.close()


def test_a_damaged_header_in_between_is_not_taken_for_the_end(path: Path) -> None:
    whole = bytearray(tar_bytes(samples(range(4))))
    second = listed(path, bytes(whole)).images[1]
    whole[second.offset - 512 + 5] ^= 0xFF
    listing = listed(path, bytes(whole))
    assert [image.id for image in listing.images] == ["000000000"]
    assert "damaged at byte" in reasons(listing)[0]


def test_two_tars_in_one_file_are_said(path: Path) -> None:
    listing = listed(path, tar_bytes(samples([1])) + tar_bytes(samples([2])))
    assert [image.id for image in listing.images] == ["000000001"]
    assert "several tars in one" in reasons(listing)[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(tar_bytes(samples([1]))), r"compressed \(gzip\)"),
        (bz2.compress(tar_bytes(samples([1]))), r"compressed \(bzip2\)"),
        (lzma.compress(tar_bytes(samples([1]))), r"compressed \(xz\)"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), r"compressed \(zstd\)"),
        (b"", "no tar"),
        (b"<!doctype html>" + b" " * 1000, "no tar"),
        (bytes(10240), "no image"),
        (tar_bytes([member("1.txt", b"x")]), "holds no image, 1 other members, the first 1.txt; expected"),
    ],
)
def test_what_is_no_tar_of_images_is_refused(path: Path, content: bytes, said: str) -> None:
    with pytest.raises(ImageFolderError, match=said):
        listed(path, content)


def test_no_file_and_a_pipe_are_refused(path: Path) -> None:
    with pytest.raises(ImageFolderError, match="No such file"):
        open_tar(path)
    with pytest.raises(ImageFolderError, match="a series of them in braces"):
        open_tar(path.with_name("*.tar"))
    os.mkfifo(path)
    with pytest.raises(ImageFolderError, match="a named pipe"):
        open_tar(path)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    """A pax header with these records, raw."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = kind, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    "bad",
    [
        pax(b"%d path=%s\n" % (3_000_011 + 1, b"x" * 3_000_000)),
        pax(b"12 size=-1\n") + member("n.jpg")[0].tobuf(),
        pax(b"30 size=99999999999999999999\n") + member("n.jpg")[0].tobuf(),
        pax(b"0 path=x\n"),
        b"".join(pax(b"9 a%d=xy\n" % (i % 10), b"g") for i in range(3000)),
        b"".join(pax(b"%d k%06d=x\n" % (12, i), b"g") + member("n.txt")[0].tobuf() for i in range(2000)),
    ],
    ids=["huge header", "negative size", "size beyond numbers", "length 0", "chain", "many global"],
)
def test_hostile_headers_end_the_pass_and_cost_nothing(path: Path, bad: bytes) -> None:
    good = tar_bytes([member("good.jpg", jpeg(1))]).rstrip(b"\0")
    good += bytes(-len(good) % 512)
    listing = listed(path, good + bad + good + bytes(1024))
    assert [image.id for image in listing.images] == ["good"]
    assert listing.failures
    assert listing.failures[0].path.isprintable()


def test_a_size_that_leads_backwards_does_not_loop(path: Path) -> None:
    """base-256 numbers may be negative."""
    info = tarfile.TarInfo("back.jpg")
    header = bytearray(info.tobuf())
    header[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    good = tar_bytes([member("good.jpg", jpeg(1))]).rstrip(b"\0")
    listing = listed(path, good + bytes(-len(good) % 512) + bytes(header) + bytes(1024))
    assert [image.id for image in listing.images] == ["good"]
    assert listing.failures


def test_more_members_than_the_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_MEMBERS", 6)
    listing = listed(path, tar_bytes(samples(range(4))))
    assert len(listing.images) == 2
    assert "more than 6 members" in reasons(listing)[0]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5119), st.integers(0, 255)), min_size=1, max_size=12))
def test_flipped_bytes_never_end_in_anything_but_a_listing_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(tar_bytes(samples(range(2))))
    for at, value in changes:
        content[at] = value
    path = tmp_path_factory.mktemp("flipped") / "x.tar"
    try:
        listing = listed(path, bytes(content))
    except ImageFolderError:
        return
    for image in listing.images:
        with contextlib.suppress(ImageError):
            read_opened(image.opened_for_good())
    listing.close()


def test_a_tar_among_images_is_told_by_name(path: Path) -> None:
    write_tar(path, [1])
    with pytest.raises(ImageError, match="a tar; name it itself as the source"):
        decode_image(path)


# --- changes --------------------------------------------------------------------------------------------


def test_an_archive_that_is_written_to_while_it_is_read(path: Path) -> None:
    listing = listed(path, tar_bytes(samples(range(3))))
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"more")
    with pytest.raises(ImageError, match="the archive changed while it was read"):
        read_opened(listing.images[0].opened_for_good())


def test_an_archive_that_is_replaced_is_read_to_its_end(path: Path) -> None:
    listing = listed(path, tar_bytes(samples(range(3))))
    other = write_tar(path.with_name("other"), range(5, 8))
    other.rename(path)
    assert listing.images[0].sha256() == hashlib.sha256(jpeg(0)).hexdigest()


def test_the_stamp_is_another_one_when_the_archive_is(path: Path) -> None:
    before = listed(path, tar_bytes(samples(range(3)))).images[0].stamp()
    time = path.stat().st_mtime_ns
    path.write_bytes(tar_bytes(samples(range(9))))
    os.utime(path, ns=(time, time))
    longer = list_archive(open_tar(path)).images[0].stamp()
    os.utime(path, ns=(time, time + 1))
    later = list_archive(open_tar(path)).images[0].stamp()
    assert len({before, longer, later}) == 3
