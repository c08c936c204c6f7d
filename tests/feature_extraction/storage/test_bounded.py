"""Arrays and documents made to harm: refused with the reason, soon, without memory; sound ones are read."""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.within_bounds import outcome

from feature_extraction.storage.bounded import load_npy, load_npz, read_bytes, read_json

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


def npy(description: str | bytes | None = None, content: bytes = ARRAY.tobytes(), length: int | None = None) -> bytes:
    """An .npy file that describes itself so."""
    said = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }\n" if description is None else description
    said = said.encode() if isinstance(said, str) else said
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said) if length is None else length) + said + content


def shaped(shape: str, descr: str = "'<f4'", fortran: str = "False") -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n")


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return file.getvalue()


NPY: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no .npy file"),
    "a page": (b"<html>", "no .npy file"),
    "a pickle": (b"\x80\x04.", "no .npy file"),
    "an array of objects": (pickled(), "object|pickle"),
    "10^12 numbers": (shaped("(1000000, 1000000)"), "4000000000000 bytes of numbers are claimed"),
    "10^24 numbers": (shaped("(1000000000000, 1000000000000)"), "bytes of numbers are claimed, 48 are there"),
    "a negative size": (shaped("(-3, -4)"), "plain numbers|no .npy"),
    "one number less": (shaped("(3, 3)"), "36 bytes of numbers are claimed, 48 are there"),
    "one number more": (shaped("(13,)"), "52 bytes of numbers are claimed, 48 are there"),
    "cut": (npy()[:-1], "48 bytes of numbers are claimed, 47 are there"),
    "longer": (npy() + b"x", "48 bytes of numbers are claimed, 49 are there"),
    "100 dimensions": (shaped("(" + "1," * 100 + "12)"), "100|dimensions"),
    "records": (shaped("(3,)", "[('a', '<f4'), ('b', '<f4', (3,))]"), "expected plain numbers"),
    "parts of nothing": (shaped("(3, 4)", "'|V4'"), "expected plain numbers"),
    "complex": (shaped("(6,)", "'<c8'"), "expected plain numbers"),
    "times": (shaped("(6,)", "'<M8[s]'"), "expected plain numbers"),
    "a call in the description": (npy("__import__('os').system('touch harmed')\n"), "no .npy file"),
    "a deep description": (npy("(" * 3000 + ")" * 3000 + "\n"), "no .npy file"),
    "signs": (npy("-" * 3000 + "1\n"), "no .npy file"),
    "a description of 60 KB": (npy("#" * 60_000 + "\n"), "no .npy file"),
    "a description that is cut": (npy(length=60_000), "no .npy file"),
    "a description of 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "no .npy file"),
    "version 9": (b"\x93NUMPY\x09\x00" + npy()[8:], "no .npy file"),
    "escape codes": (npy("{'\x1b[2J\x1b]0;owned\x07': 1}\n"), "no .npy file"),
}  # fmt: skip


def packed(write: Callable[[zipfile.ZipFile], Any], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        write(archive)
    return file.getvalue()


def sound(archive: zipfile.ZipFile) -> None:
    archive.writestr("ids.npy", npy())
    archive.writestr("words.npy", npy())


def changed(place: Callable[[bytes], int], form: str, value: int) -> bytes:
    content = bytearray(packed(sound))
    struct.pack_into(form, content, place(bytes(content)), value)
    return bytes(content)


NPZ: dict[str, tuple[bytes, str]] = {
    "no archive": (b"PK\x03\x04 no archive", "damaged archive"),
    "half of one": (packed(sound)[:200], "damaged archive"),
    "a bomb": (packed(sound, zipfile.ZIP_DEFLATED), "compressed"),
    "one array": (packed(lambda a: a.writestr("ids.npy", npy())), "arrays ids.npy, expected ids, words"),
    "three arrays": (packed(lambda a: (sound(a), a.writestr("x.npy", npy()))), "expected ids, words"),
    "one twice": (packed(lambda a: (sound(a), a.writestr("ids.npy", npy()))), "expected ids, words"),
    "another name": (packed(lambda a: (a.writestr("ids.npy", npy()), a.writestr("../w.npy", b""))), "expected ids"),
    "escape codes": (packed(lambda a: (a.writestr("\x1b[2J.npy", npy()), a.writestr("w", b""))), r"\\x1b\[2J"),
    "a flipped bit": (changed(lambda c: c.index(ARRAY.tobytes()) + 9, "<B", 77), "CRC-32"),
    "a list of 4 GB": (changed(lambda c: c.rindex(b"PK\x05\x06") + 12, "<I", 4_000_000_000), "damaged archive"),
    "a member of 4 GB": (changed(lambda c: c.rindex(b"PK\x01\x02") + 24, "<I", 4_000_000_000), "compressed|claimed"),
    "encrypted": (changed(lambda c: c.rindex(b"PK\x01\x02") + 8, "<H", 1), "encrypted"),
    "an array in it is shorter": (
        packed(lambda a: (a.writestr("ids.npy", npy()), a.writestr("words.npy", npy()[:-4]))),
        "48 bytes of numbers are claimed, 44 are there",
    ),
    "an array in it is huge": (
        packed(lambda a: (a.writestr("ids.npy", npy()), a.writestr("words.npy", shaped("(10000000000,)")))),
        "40000000000 bytes of numbers are claimed",
    ),
    "a pickle in it": (
        packed(lambda a: (a.writestr("ids.npy", npy()), a.writestr("words.npy", pickled()))),
        "object|pickle",
    ),
}  # fmt: skip

JSON: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "Expecting value"),
    "deep": (b"[" * 100_000, "too deep"),
    "deep objects": (b'{"a":' * 100_000, "too deep"),
    "a number of 10^6 digits": (b"9" * 1_000_000, "digits"),
    "no text": (b"\xff\xfe\x00", "codec|Expecting|decode"),
    "half a pair": (b'"\\ud800', "Invalid|Unterminated"),
    "a control character": (b'"\x1b[2J"', "control character"),
    "more behind it": (b"{} {}", "Extra data"),
    "too large": (b" " * (1 << 21), "more than 1048576 bytes"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("read", "content", "reads"),
    [(load_npy, *case) for case in NPY.values()]
    + [(lambda p: load_npz(p, ("ids", "words")), *case) for case in NPZ.values()]
    + [(lambda p: read_json(p, 1 << 20), *case) for case in JSON.values()],
    ids=[f"npy: {n}" for n in NPY] + [f"npz: {n}" for n in NPZ] + [f"json: {n}" for n in JSON],
)
def test_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], Any], content: bytes, reads: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(content)
    said = outcome(read, path)
    assert said.startswith("ValueError: "), said
    assert re.search(reads, said), said
    assert said.isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "something was run"


@pytest.mark.parametrize(
    "read",
    [load_npy, lambda p: load_npy(p, mmap=True), lambda p: load_npz(p, ("a",)), read_json,
     lambda p: read_bytes(p, 10)],
)  # fmt: skip
def test_only_regular_files_are_opened(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in outcome(read, tmp_path / "pipe")
    assert "not a regular file" in outcome(read, Path("/dev/zero"))
    assert outcome(read, tmp_path / "nothing").startswith("FileNotFoundError")


@pytest.mark.parametrize(
    "array",
    [
        ARRAY,
        np.asfortranarray(ARRAY),
        np.arange(5),
        np.array(7, np.int64),
        np.array(["a", "bcd", "\u00e9"]),
        np.array("{}"),
        np.zeros((0, 4), np.float32),
        np.array([True, False]),
        ARRAY.astype(">f4"),
        ARRAY.astype(np.float16),
    ],
    ids=lambda a: f"{a.dtype} {a.shape}",
)
def test_what_numpy_writes_is_read(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", one=array, other=array[..., None])
    both = load_npz(tmp_path / "a.npz", ("one", "other"))
    for found in (load_npy(tmp_path / "a.npy"), load_npy(tmp_path / "a.npy", mmap=True), both["one"]):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    np.testing.assert_array_equal(both["other"], array[..., None])
    assert load_npy(tmp_path / "a.npy").flags.writeable
    assert load_npz(tmp_path / "a.npz", ("one",), ("other", "third")).keys() == {"one", "other"}


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2.5, null, "\u00e9"]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, None, "\u00e9"]}
