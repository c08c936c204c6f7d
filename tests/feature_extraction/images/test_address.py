"""address.py: what --images may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_extraction.errors import UsageError
from feature_extraction.images.address import expand, file_name, is_address, is_tar, shown, without_secrets


def test_braces_are_ranges_and_choices_as_in_a_shell() -> None:
    assert expand(Path("cc3m/{00008..00011}.tar")) == [Path(f"cc3m/{n:05}.tar") for n in range(8, 12)]
    assert expand(Path("{9..10}.tar")) == [Path("9.tar"), Path("10.tar")]
    assert expand("s3://b/{a,bc}/{0..1}.tar") == [f"s3://b/{d}/{n}.tar" for d in ("a", "bc") for n in (0, 1)]


def test_what_has_no_braces_or_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "{0..3}"
    folder.mkdir()
    assert expand(folder) == [folder]
    for source in (Path("images"), Path("a{b}.tar"), "http://h/{}.tar"):
        assert expand(source) == [source]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{3..1}.tar", "ascending range"),
        ("{0..99999999}.tar", "at most 1,000,000"),
        ("{0..9999}{0..9999}.tar", "more than 1,000,000 tars"),
        ("{0..3}.jpg", "a series is one of tars"),
        ("{0..3}.tar.gz", "decompress it first"),
        ("{0..99999999999999999999999999}.tar", "ascending range"),
    ],
)
def test_a_series_that_is_none(source: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        expand(Path(source))


def test_tars_by_their_names(tmp_path: Path) -> None:
    for name in ("folder.tar", "folder.tar.gz"):
        (tmp_path / name).mkdir()
        assert not is_tar(tmp_path / name)
    assert is_tar(Path("a.TAR"))
    assert is_tar("https://h/a.tar?token=x.jpg")
    assert not is_tar("https://h/a.jpg?name=a.tar")
    for name in ("a.tar.gz", "a.tgz", "a.tar.zst", "http://h/a.tar.xz?x"):
        with pytest.raises(UsageError, match="compressed"):
            is_tar(name)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://user:pass@host:8/a/b.tar?X-Amz-Signature=1#x", "https://host:8/a/b.tar"),
        ("HTTPS://token@host/a.tar#token", "https://host/a.tar"),
        ("  https://user:pass@host/a.tar", "https://host/a.tar"),
        ("https://us:pa?s#s@host/a.tar", "https://host/a.tar"),
        ("s3://AKIA:wJalr/XUtn/FEMI@bucket/a.tar", "s3://bucket/a.tar"),
        ("s3://bucket/a.tar?X-Amz-Signature=1", "s3://bucket/a.tar"),
        ("simplecache::https://user:pass@host/a.tar", "simplecache::https://host/a.tar"),
        ("sftp://host:22/me@home/photo #1?.jpg", "sftp://host:22/me@home/photo #1?.jpg"),
        ("http://[::1/a.jpg?x", "http://[::1/a.jpg"),
        ("memory://a\x1bb.tar", "memory://a\\x1bb.tar"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(address: str, expected: str) -> None:
    assert is_address(address)
    assert shown(address) == expected
    assert without_secrets(f"403, url='{address.strip()}'") in (f"403, url='{expected}'", f"403, url='{address}'")


def test_other_words_about_an_address_are_cleaned_too() -> None:
    """A server may redirect to an address with a signature of its own."""
    said = "Forbidden\n url='https://u:p@cdn.org/a?sig=1', from <s3://k:s@b/x>"
    assert without_secrets(said) == "Forbidden url='https://cdn.org/a', from <s3://b/x>"
    assert without_secrets("no address: a@b ?x=1") == "no address: a@b ?x=1"


def test_paths_are_no_addresses() -> None:
    for path in ("/a//b", "a/http://b", "://b", "photo: 1"):
        assert not is_address(Path(path))
        assert not is_address(path)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://h/a%20b%23.jpg?x=/c.png#y", "a b#.jpg"),
        ("s3://b/photo #1.jpg", "photo #1.jpg"),
        ("s3://b/why?.jpg", "why?.jpg"),
        ("s3://b/100%25.jpg", "100%25.jpg"),
        ("s3://b/a.tar?versionId=abc", "a.tar"),
        ("memory://a.tar", "a.tar"),
        ("https://h/", ""),
    ],
)
def test_the_name_of_what_lies_at_an_address(address: str, expected: str) -> None:
    """Only a URL has percent signs and a query in its path: with a store they are letters of the key."""
    assert file_name(address) == expected
