"""Ids are names from outside: none leaves OUT, breaks a line, or hides another image."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.exporting import COCO, box_arrays, coco_file, config, contents, export, write_file
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from feature_extraction.errors import StoreError, UsageError
from feature_extraction.exports.keys import keys_of, read_ids
from feature_extraction.exports.spec import check
from feature_extraction.exports.table import FORMS

FOLDERS = {"vilbert-npy": ".npy", "mmf-npy": "_info.npy", "npz": ".npz"}
REFUSED = {
    "..": (*FOLDERS, "webdataset"),
    ".hidden": (*FOLDERS, "webdataset"),
    "two\nlines": (*FOLDERS, "webdataset", "lxmert-tsv"),
    "a\tcolumn": (*FOLDERS, "webdataset", "lxmert-tsv"),
    "\x1b[2Jclears": (*FOLDERS, "webdataset", "lxmert-tsv"),
    '"quoted"': ("lxmert-tsv",),
    "keys": ("vilbert-lmdb", "mmf-lmdb"),
    "a.b": ("webdataset",),
    "a.npy.b": ("webdataset", "mmf-npy", "mmf-lmdb"),
    "a_info": ("mmf-npy",),
    "n" * 253: (*FOLDERS,),
    "n" * 512: (*FOLDERS, "webdataset", "vilbert-lmdb", "mmf-lmdb"),
}
"""Ids, and the formats that cannot hold an image called so."""


@pytest.mark.parametrize("image_id", REFUSED, ids=lambda name: ascii(name[:12]))
@pytest.mark.parametrize("form", FORMS)
def test_a_hostile_id_is_refused_where_it_would_harm_and_written_where_not(
    form: str, image_id: str, tmp_path: Path
) -> None:
    source = write_file(tmp_path / "a.h5", {"1": box_arrays(1), image_id: box_arrays(0)})
    if form in REFUSED[image_id]:
        with pytest.raises(StoreError, match=r"cannot be written as .*nothing was written") as refused:
            export(source, form, tmp_path / "out")
        assert str(refused.value).isprintable()
        assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]
    else:
        assert contents(export(source, form, tmp_path / "out"))


def unfit(form: str, key: str) -> str:
    return FORMS[form].why_unfit(SimpleNamespace(config=SimpleNamespace(split="val")), key)


@pytest.mark.parametrize("form", FOLDERS)
@given(key=st.text(max_size=300))
def test_a_name_that_is_taken_is_that_of_a_file_in_the_folder(form: str, key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return  # half a pair: no name in HDF5
    if not unfit(form, key):
        path = Path("/out") / (key + FOLDERS[form])
        assert path.parent == Path("/out")
        assert path.name == key + FOLDERS[form]
        assert len(path.name.encode()) <= 255


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_a_name_that_is_taken_is_read_back_from_a_line(key: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if not unfit("lxmert-tsv", key):
        path = tmp_path_factory.mktemp("tsv") / "one.tsv"
        path.write_bytes(key.encode() + b"\t480\n")
        with path.open(encoding="utf-8") as file:  # as LXMERT opens it: every kind of line ends
            assert list(csv.reader(file, delimiter="\t")) == [[key, "480"]]


@given(key=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_a_name_that_is_taken_is_read_back_from_a_tar(key: str) -> None:
    if not unfit("webdataset", key):
        assert base_plus_ext(f"{key}.features.npy") == (key, "features.npy")


def test_numbers() -> None:
    assert keys_of(["COCO_val2014_000000000042", "0007", "a_b_19"], "number") == ["42", "7", "19"]


@pytest.mark.parametrize("image_id", ["n42", "dev-0-0-img0", "a_", "", "a_1 ", "a_1\n", "a_٣", "x_" + "9" * 30])
def test_an_id_without_a_number_is_named(image_id: str) -> None:
    with pytest.raises(StoreError, match="does not end with a number"):
        keys_of(["1", image_id], "number")


def test_two_ids_of_one_number_are_named() -> None:
    with pytest.raises(StoreError, match="'a_01' and 'b_1' have one number, 1"):
        keys_of(["a_01", "b_1"], "number")


def test_lists_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes("b\r\n\n a \né\x85".encode())
    assert read_ids(path) == ["b", " a ", "é\x85"]
    path.write_bytes(b"\xef\xbb\xbfa\n")  # as Windows begins a text
    assert read_ids(path) == ["a"]
    for text, why in (("a\nb\na\n", "names 'a' twice"), ("\n", "names no image")):
        path.write_text(text)
        with pytest.raises(UsageError, match=why):
            read_ids(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_ids(path)


def test_ids_that_are_not_there_are_named(tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text(f"{COCO[0]}\nother\n")
    with pytest.raises(StoreError, match=r"no features of 1 of the 2 images asked for: 'other'"):
        export(coco_file(tmp_path / "a.h5"), "npz", tmp_path / "out", ids=ids)


@pytest.mark.parametrize(
    ("form", "more", "why"),
    [
        ("lxmert-tsv", {"dtype": "float16"}, "4 bytes a number"),
        ("vilbert-lmdb", {"dtype": "float16", "quirks": ("base64",)}, "4 bytes a number"),
        ("npz", {"quirks": ("objects",)}, "has no quirk 'objects'"),
        ("vilbert-npy", {"quirks": ("base64",)}, "it has: objects"),
        ("npz", {"split": "val"}, "has no --split"),
        ("fga-h5", {"split": ""}, "needs --split NAME"),
        ("fga-h5", {"split": "a/b"}, "--split 'a/b': it becomes the name of an array"),
        ("npz", {"features": "boxes"}, "--features 'boxes': expected features, or"),
        ("npz", {"per_file": 3}, "no --per_file"),
    ],
)
def test_what_does_not_go_together(form: str, more: dict[str, object], why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        export(tmp_path / "none.h5", form, tmp_path / "out", **more)


def test_mmf_knows_an_lmdb_by_its_name(tmp_path: Path) -> None:
    chosen = config(tmp_path / "a.h5", "mmf-lmdb", tmp_path / "out")
    assert chosen.output.name == "out.lmdb"
    with pytest.raises(UsageError, match=r"OUT\.lmdb"):
        check(replace(chosen, output=tmp_path / "out"))
