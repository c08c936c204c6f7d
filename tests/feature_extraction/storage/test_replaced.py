"""What is stored of an image is held to the file it was made from: replaced, touched, moved, gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.storing import IDENTITY, broken, check, extract, features, make, source, stamps

from feature_extraction.storage import files, store
from feature_extraction.storage.output import Incomplete, Output
from feature_extraction.storage.source import FileStamp, Source
from feature_extraction.storage.store import open_features

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("finished", [True, False])
def test_a_replaced_image_is_computed_again(tmp_path: Path, finished: bool) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"], count=1 if finished else 3)
    if not finished:
        make(path, ["1", "2"], 1, 3)
    again = Output(path, IDENTITY, {})
    other = source("2", version=7)
    assert again.is_current("1", *source("1").stamp, lambda: pytest.fail("the stamp is enough"))
    assert not again.is_current("2", *other.stamp, lambda: other.sha256)
    assert again.known("2")
    again.add("2", features(77), other)
    outcome = again.finish({**stamps("1"), "2": other.stamp}, [])
    again.close()
    assert (outcome.images, outcome.dropped) == (2, [])
    check(path, ["1", "2"], {"2": 77})
    with open_features(path) as file:
        assert store.source_of(file, "2") == other


def test_a_touched_or_moved_image_is_asked_for_its_digest_once(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"], 0, 2)
    asked = []

    def digest() -> str:
        asked.append(1)
        return source("1").sha256

    for _ in range(2):
        output = Output(path, IDENTITY, {})
        for _ in range(2):
            assert output.is_current("1", "/elsewhere/1.jpg", 1000, 5, digest)
        output.close()
    assert len(asked) == 1
    output = Output(path, IDENTITY, {})
    extract(output, ["1", "2"])
    assert output.finish({"1": FileStamp("/elsewhere/1.jpg", 1000, 5), **stamps("2")}, []).images == 2
    output.close()
    check(path, ["1", "2"])


def test_a_file_that_cannot_be_asked_for_its_digest_is_to_be_read_again(tmp_path: Path) -> None:
    make(tmp_path / "f.h5", ["1", "2"], 0, 2)
    output = Output(tmp_path / "f.h5", IDENTITY, {})

    def unreadable() -> str:
        raise PermissionError(13, "no")

    assert not output.is_current("1", "/elsewhere/1.jpg", 1000, 5, unreadable)
    output.close()


def test_an_image_replaced_after_its_share_ended_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    photograph = tmp_path / "1.jpg"
    photograph.write_bytes(b"new contents")
    make(path, ["1", "2"], 0, 2)
    last = Output(path, IDENTITY, {}, 1, 2)
    extract(last, ["1", "2"])
    with pytest.raises(Incomplete, match="replaced") as caught:
        last.finish({"1": FileStamp(str(photograph), 12, 3), **stamps("2")}, [])
    last.close()
    assert caught.value.missing == ["1"]
    assert not path.exists()


def test_shares_on_machines_that_name_the_images_differently_make_one_file(tmp_path: Path) -> None:
    """By another mount point, or as copies with other times."""
    path = tmp_path / "f.h5"
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(b"the bytes of 1")
    first = Output(path, IDENTITY, {}, 0, 2)
    first.add("1", features(1), source("1").__class__("/a/1.jpg", 14, 5, files.sha256_of(copy)))
    assert first.finish({"1": FileStamp("/a/1.jpg", 14, 5), **stamps("2")}, []) is None
    first.close()
    last = Output(path, IDENTITY, {}, 1, 2)
    extract(last, ["1", "2"])
    assert last.finish({"1": FileStamp(str(copy), 14, 6), **stamps("2")}, []).images == 2
    last.close()
    check(path, ["1", "2"])


@pytest.mark.parametrize(
    ("now", "size", "missing"),
    [("a" * 64, 14, []), ("b" * 64, 14, ["1"]), ("", 14, ["1"]), ("", -1, [])],
    ids=["the same bytes", "others", "none to use", "cannot be asked"],
)
def test_what_lies_in_no_file_is_asked_for_its_digest(tmp_path: Path, now: str, size: int, missing: list[str]) -> None:
    """Of members of archives and of addresses nothing lies at the path of their stamps."""
    first = Output(tmp_path / "f.h5", IDENTITY, {}, 0, 2)
    first.add("1", features(1), Source("s3://a/0.tar!/1.jpg", 14, 5, "a" * 64))
    assert first.finish({"1": FileStamp("s3://a/0.tar!/1.jpg", 14, 5)}, []) is None
    first.close()
    last = Output(tmp_path / "f.h5", IDENTITY, {}, 1, 2)
    current = {"1": FileStamp("s3://b/0.tar!/1.jpg", size, 6)}
    try:
        if missing:
            with pytest.raises(Incomplete, match="replaced") as caught:
                last.finish(current, [], lambda _: now)
            assert caught.value.missing == missing
        else:
            assert last.finish(current, [], lambda _: now).images == 1
    finally:
        last.close()


def test_images_no_longer_listed_are_dropped_and_said(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2", "3"])
    outcome = make(path, ["1", "3", "4"])
    assert (outcome.images, outcome.dropped) == (3, ["2"])
    check(path, ["1", "3", "4"])


def test_an_image_that_became_unreadable_is_dropped_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"])
    output = Output(path, IDENTITY, {})
    ruined = FileStamp(str(tmp_path / "2.jpg"), 3, 3)
    (tmp_path / "2.jpg").write_bytes(b"bad")
    assert not output.is_current("2", *ruined, lambda: files.sha256_of(ruined.path))
    outcome = output.finish({**stamps("1"), "2": ruined}, broken("2"))
    output.close()
    assert (outcome.images, outcome.dropped, [f["id"] for f in outcome.failed]) == (1, ["2"], ["2"])
    check(path, ["1"])


def test_where_nothing_listed_gives_features_the_earlier_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    make(path, ["1", "2"])
    before = path.read_bytes()
    outcome = make(path, ["3"], failed=("3",))
    assert (outcome.images, outcome.dropped) == (0, [])
    assert path.read_bytes() == before
