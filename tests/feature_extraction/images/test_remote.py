"""Images and tars behind addresses: fsspec's memory file system, and a loopback server that errs as servers do."""

from __future__ import annotations

import builtins
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from helpers.file_server import Server, serving
from helpers.tars import jpeg, member, samples, tar_bytes

from feature_extraction.errors import ImageError, ImageFolderError, StoreError, UsageError
from feature_extraction.images import files, place, remote, sources
from feature_extraction.images.decode import decode_image, read_opened
from feature_extraction.images.listed import ListedImage, Listing


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(place, "PAUSES", (0.01, 0.01))
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(place, "PAUSES", (0.01, 0.01))
    with serving() as running:
        yield running


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def listed(source: str | Path, scratch: Path) -> Listing[ListedImage]:
    return sources.list_source(source, "*", True, scratch=scratch, say=lambda _: None)


def read(image: ListedImage) -> str:
    """The reason why the image cannot be read; empty where it can, and is what it is taken for."""
    try:
        _, source = read_opened(image.opened_for_good())
    except ImageError as error:
        return str(error)
    assert source.sha256 == image.sha256()
    assert source.stamp == image.stamp()
    return ""


# --- memory:// ------------------------------------------------------------------------------------------


def test_a_remote_folder_is_searched_as_one_here(memory: Any, scratch: Path, tmp_path: Path) -> None:
    for name in ("7.jpg", "below/3.jpg", ".hidden.jpg", ".hidden/9.jpg", "f.h5", "f.h5.work/x.log", "f.report.json"):
        memory.pipe(f"/images/{name}", jpeg(int(name[0]) if name[0].isdigit() else 3))
    memory.pipe("/images/text.jpg", b"no image")
    listing = listed("memory://images", scratch)
    assert [image.id for image in listing.images] == ["3", "7", "text"]
    (tmp_path / "7.jpg").write_bytes(jpeg(7))
    np.testing.assert_array_equal(read_opened(listing.images[1].opened_for_good())[0], decode_image(tmp_path / "7.jpg"))
    assert read(listing.images[2]) == "not an image: a text file"


def test_large_remote_images_go_through_the_disk(memory: Any, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/images/1.jpg", jpeg(1))
    monkeypatch.setattr(remote, "IN_MEMORY", 100)
    assert read(listed("memory://images/1.jpg", scratch).images[0]) == ""
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 200)
    assert "more than the 200 that an image can have" in read(listed("memory://images/1.jpg", scratch).images[0])


def test_remote_duplicates(memory: Any, scratch: Path) -> None:
    for name, number in (("a/1.jpg", 1), ("b/1.jpg", 2), ("c/1.jpg", 1)):
        memory.pipe(f"/images/{name}", jpeg(number))
    listing = listed("memory://images", scratch)
    assert [image.name for image in listing.images] == ["memory:///images/a/1.jpg"]
    assert listing.copies == 1
    assert [f.reason for f in listing.failures] == [
        "duplicate id with different content: memory:///images/a/1.jpg is used"
    ]


def test_a_remote_tar_is_copied_into_a_file_without_a_name(memory: Any, scratch: Path) -> None:
    memory.pipe("/cc3m/00000.tar", tar_bytes(samples(range(3))))
    said: list[str] = []
    listing = sources.list_source("memory://cc3m/00000.tar", "*", True, scratch=scratch, say=said.append)
    assert said == ["fetching memory://cc3m/00000.tar (0.0 MB)"]
    assert [image.id for image in listing.images] == [f"{n:09}" for n in range(3)]
    assert [image.sha256() for image in listing.images] == [hashlib.sha256(jpeg(n)).hexdigest() for n in range(3)]
    assert list(scratch.iterdir()) == []
    assert listing.notes == sources.notes_of("memory://cc3m/00000.tar")
    listing.close()
    before = listing.images[0].stamp()
    memory.pipe("/cc3m/00000.tar", tar_bytes(samples(range(3))))
    assert listed("memory://cc3m/00000.tar", scratch).images[0].stamp() != before  # written anew


def test_an_image_written_anew_since_it_was_listed_is_read_as_it_is(memory: Any, scratch: Path) -> None:
    memory.pipe("/images/1.jpg", jpeg(1))
    (image,) = listed("memory://images", scratch).images
    before = image.stamp()
    memory.pipe("/images/1.jpg", jpeg(2) + bytes(100))
    assert read(image) == ""
    assert image.stamp() != before
    assert image.sha256() == hashlib.sha256(jpeg(2) + bytes(100)).hexdigest()


def test_a_tar_that_the_disk_has_no_room_for(memory: Any, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/0.tar", tar_bytes(samples([1])))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(StoreError, match="a copy of memory://0"):
        listed("memory://0.tar", scratch)


def test_a_disk_that_fills_up_meanwhile_is_told_at_once(
    memory: Any, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/0.tar", tar_bytes(samples([1])))
    tries: list[int] = []

    def full(*_: Any, **__: Any) -> Any:
        tries.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(memory, "_open", full)
    with pytest.raises(ImageFolderError, match=r"memory://0.tar: cannot be read: OSError: .*No space left"):
        listed("memory://0.tar", scratch)
    assert len(tries) == 1


def test_a_list_of_addresses_here_and_there(memory: Any, scratch: Path, tmp_path: Path) -> None:
    memory.pipe("/images/1.jpg", jpeg(1))
    memory.pipe("/images/2.jpg", jpeg(2))
    (tmp_path / "list.txt").write_text("# two\nmemory://images/1.jpg\nmemory://images/2.jpg\n/etc/hostname\n")
    listing = listed(tmp_path / "list.txt", scratch)
    assert [image.id for image in listing.images] == ["1", "2"]
    assert [failure.path for failure in listing.failures] == ["/etc/hostname"]
    memory.pipe("/images/list.txt", b"2.jpg\nmemory://images/1.jpg\n")
    assert [read(image) for image in listed("memory://images/list.txt", scratch).images] == ["", ""]


@pytest.mark.parametrize("line", ["file:///etc/hostname", "local:///x.jpg", "s3://bucket/x.jpg", "http://h/x.jpg"])
def test_a_remote_list_cannot_choose_another_kind_of_place(memory: Any, scratch: Path, line: str) -> None:
    memory.pipe("/list.txt", line.encode())
    with pytest.raises(ImageFolderError, match="expected memory:// only"):
        listed("memory://list.txt", scratch)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("memory://nothing", "nothing there or below"),
        ("memory://nothing.tar", "archive memory://nothing.tar: is not there"),
        ("memory://nothing.txt", "image list memory://nothing.txt: is not there"),
    ],
)
def test_nothing_there(memory: Any, scratch: Path, source: str, said: str) -> None:
    with pytest.raises(ImageFolderError, match=said):
        listed(source, scratch)


def test_kinds_of_places_that_cannot_be_opened(scratch: Path) -> None:
    with pytest.raises(ImageFolderError, match=r"s3:// needs s3fs \(.*\): pip install s3fs"):
        listed("s3://bucket/images", scratch)
    with pytest.raises(UsageError, match="nosuch://bucket/images is nothing that can be opened"):
        listed("nosuch://bucket/images", scratch)
    with pytest.raises(UsageError, match="not a chain"):
        listed("memory://x::memory://y", scratch)


def test_without_the_extra_its_name_is_told(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "fsspec":
            raise ModuleNotFoundError(f"No module named {name!r}", name="fsspec")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImageFolderError, match=r"memory:// needs fsspec: .*pip install 'xlxmert-features\[remote\]'"):
        listed("memory://images", scratch)


# --- http ----------------------------------------------------------------------------------------------


def test_one_image_a_list_and_a_tar_over_http(server: Server, scratch: Path) -> None:
    server.files["/a%20b.jpg"] = server.files["/1.jpg"] = jpeg(1)
    server.files["/list.txt"] = f"1.jpg\n{server.url('/a%20b.jpg')}\nmissing.jpg\n".encode()
    server.files["/0.tar"] = tar_bytes(samples(range(4)))
    assert read(listed(server.url("/1.jpg"), scratch).images[0]) == ""
    listing = listed(server.url("/list.txt"), scratch)
    assert [image.id for image in listing.images] == ["1", "a b", "missing"]
    assert [read(image)[:35] for image in listing.images] == ["", "", "is not there"]
    tar = listed(server.url("/0.tar"), scratch)
    assert [read(image) for image in tar.images] == [""] * 4
    assert server.ranges().count(None) == len(server.ranges())  # whole, in sequence
    with pytest.raises(UsageError, match="http has no folders"):
        listed(server.url("/images/"), scratch)


def test_a_server_that_answers_no_head(server: Server, scratch: Path) -> None:
    server.head = False
    server.files["/1.jpg"] = jpeg(1)
    server.files["/0.tar"] = tar_bytes(samples(range(2)))
    assert read(listed(server.url("/1.jpg"), scratch).images[0]) == ""
    assert len(listed(server.url("/0.tar"), scratch).images) == 2


def test_a_proxy_is_asked_as_curl_asks_it(server: Server, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines of a cluster often reach others by no other way."""
    address = "http://elsewhere.invalid/1.jpg"
    server.files[address] = jpeg(1)  # a proxy is asked with the whole address
    monkeypatch.setenv("http_proxy", server.url(""))
    assert read(listed(address, scratch).images[0]) == ""


@pytest.mark.parametrize("trouble", ["cut:1000", "status:503", "status:429", "page", "unsized:1000"])
def test_a_line_that_breaks_once_or_twice_is_asked_again(server: Server, scratch: Path, trouble: str) -> None:
    server.files["/0.tar"] = tar_bytes(samples(range(4)))
    server.trouble["/0.tar"] = [trouble, trouble]
    assert [read(image) for image in listed(server.url("/0.tar"), scratch).images] == [""] * 4


def test_a_server_that_cannot_be_reached_is_not_a_file_that_is_not_there(server: Server, scratch: Path) -> None:
    """fsspec says so of whatever goes wrong with the first question, a line that is down for a second too."""
    with pytest.raises(ImageFolderError, match=r"cannot be read: ClientConnectorError: .*127\.0\.0\.1:1"):
        listed("http://127.0.0.1:1/0.tar", scratch)
    server.head = False
    server.files["/1.jpg"] = jpeg(1)
    server.trouble["/1.jpg"] = ["status:503", "status:503"]
    assert read(listed(server.url("/1.jpg"), scratch).images[0]) == ""
    assert read(listed(server.url("/2.jpg"), scratch).images[0]) == "is not there"
    with pytest.raises(ImageFolderError, match=r"2\.txt: is not there"):
        listed(server.url("/2.txt"), scratch)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [("cut:1000", ""), ("status:503", "503"), ("status:403", "403"), ("page", "25 of 10,240 bytes came")],
)
def test_a_server_that_stays_bad_is_given_up(server: Server, scratch: Path, trouble: str, said: str) -> None:
    server.files["/0.tar"] = tar_bytes([member("1.jpg", jpeg(1))])
    server.trouble["/0.tar"] = [trouble] * 9
    with pytest.raises(ImageFolderError, match=f"cannot be read: .*{said}"):
        listed(server.url("/0.tar"), scratch)
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("trouble", ["long:5000", "endless"])
def test_what_a_server_sends_beyond_what_it_announced_is_not_read(server: Server, scratch: Path, trouble: str) -> None:
    server.files["/0.tar"] = tar_bytes([member("1.jpg", jpeg(1))])
    server.trouble["/0.tar"] = [trouble] * 9
    listing = listed(server.url("/0.tar"), scratch)
    assert [image.sha256() for image in listing.images] == [hashlib.sha256(jpeg(1)).hexdigest()]


def test_a_server_that_does_not_say_how_much_it_will_send(
    server: Server, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place.Place, "size", None)
    server.files["/0.tar"] = server.files["/1.jpg"] = jpeg(1)
    with pytest.raises(ImageFolderError, match="does not say how large it is"):
        listed(server.url("/0.tar"), scratch)
    assert read(listed(server.url("/1.jpg"), scratch).images[0]) == ""
    server.trouble["/1.jpg"] = ["endless"] * 9
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100_000)
    assert "more than the 100,000 that an image can have" in read(listed(server.url("/1.jpg"), scratch).images[0])


def test_a_silent_server_is_given_up(server: Server, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "SILENCE", 0.2)
    monkeypatch.setattr(place, "PAUSES", ())
    server.files["/1.jpg"] = jpeg(1)
    server.trouble["/1.jpg"] = ["stall:100"]
    assert "cannot be read: " in read(listed(server.url("/1.jpg"), scratch).images[0])


@pytest.mark.parametrize("validators", ["etag", "modified", "both", "none"])
def test_a_version_is_what_the_server_says(server: Server, scratch: Path, validators: str) -> None:
    """Without an ETag or a date nothing vouches for a file, and it is read again."""
    server.validators = validators
    server.files["/1.jpg"] = jpeg(1)

    def stamp() -> object:
        return listed(server.url("/1.jpg"), scratch).images[0].stamp()

    before = stamp()
    assert (stamp() == before) == (validators != "none")
    server.files["/1.jpg"] = jpeg(1)[:-3] + b"xyz"
    assert stamp() != before


@pytest.mark.parametrize(
    "address",
    [
        "http://user:pa55word@127.0.0.1:{port}/no.tar?sig=s3cr3t",
        "http://user:pa55word@127.0.0.1:{port}/0.tar?sig=s3cr3t",
        "http://user:pa55word@127.0.0.1:1/no.tar?sig=s3cr3t",
        "http://127.0.0.1:{port}/redirect-loop?sig=s3cr3t#.txt",
        "s3://user:pa55word/s3cr3t@bucket/no.tar",
        "nosuch://user:pa55word@bucket/no.tar?sig=s3cr3t",
        "simplecache::http://user:pa55word@127.0.0.1/no.tar?sig=s3cr3t",
        " http://user:pa55word@127.0.0.1/no?sig=s3cr3t",
    ],
)
def test_secrets_of_an_address_are_never_told(server: Server, scratch: Path, address: str) -> None:
    server.files["/0.tar?sig=s3cr3t"] = jpeg(1)
    server.trouble["/0.tar?sig=s3cr3t"] = ["status:403"] * 9
    said: list[str] = []
    with pytest.raises((ImageFolderError, UsageError)) as caught:
        sources.list_source(address.format(port=server.server_port), "*", True, scratch=scratch, say=said.append)
    assert (":1/" not in address) or "Connection refused" in str(caught.value)
    for text in (*said, str(caught.value)):
        assert not any(secret in text for secret in ("user", "pa55", "s3cr3t"))


def test_a_listed_name_that_fsspec_would_take_for_a_chain(memory: Any, scratch: Path) -> None:
    memory.pipe("/images/a::b #1.jpg", jpeg(1))
    memory.pipe("/images/a::b #2.jpg", jpeg(2))
    listing = listed("memory://images", scratch)
    assert [image.id for image in listing.images] == ["a::b #1", "a::b #2"]
    assert [read(image) for image in listing.images] == ["", ""]
