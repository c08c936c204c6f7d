"""Files that call themselves HDF5 and are not, or were changed behind its back."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from helpers.hostile_h5 import sound

RAW: dict[str, Callable[[Path], None]] = {}


def raw(build: Callable[[Path], None]) -> Callable[[Path], None]:
    RAW[build.__name__] = build
    return build


@raw
def empty_file(path: Path) -> None:
    path.touch()


@raw
def a_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


@raw
def a_pointer_of_git_lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43402656768\n")


@raw
def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@raw
def a_folder(path: Path) -> None:
    path.mkdir()


@raw
def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@raw
def cut_in_half(path: Path) -> None:
    sound(path)
    os.truncate(path, path.stat().st_size // 2)


@raw
def only_the_signature(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(88))


@raw
def signature_and_noise(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(5000))


@raw
def a_tree_that_is_its_own_neighbour(path: Path) -> None:
    """Whoever walks the names of the root by their nodes walks for ever."""
    sound(path, 200)
    data = bytearray(path.read_bytes())
    at = data.find(b"TREE")
    while at >= 0:
        struct.pack_into("<QQ", data, at + 8, at, at)  # left and right sibling
        at = data.find(b"TREE", at + 1)
    path.write_bytes(data)


@raw
def a_tree_that_is_its_own_child(path: Path) -> None:
    sound(path, 200)
    data = bytearray(path.read_bytes())
    at = data.find(b"TREE")
    while at >= 0:
        data[at + 5] = 1  # level
        struct.pack_into("<Q", data, at + 32, at)  # first child
        at = data.find(b"TREE", at + 1)
    path.write_bytes(data)


@raw
def an_image_whose_tree_is_its_own_child(path: Path) -> None:
    sound(path)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"TREE")
    data[at + 5] = 1
    struct.pack_into("<Q", data, at + 32, at)
    path.write_bytes(data)


@raw
def a_text_attribute_of_four_gigabytes(path: Path) -> None:
    """The length of a text of any length, and the size of the heap it lies in, are whatever the file says."""
    sound(path)
    with h5py.File(path, "a") as file:
        file.attrs["dataset"] = "X" * 23
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack("<I", 23))
    while at >= 0:
        struct.pack_into("<I", data, at, 0xFFFFFFF0)
        at = data.find(struct.pack("<I", 23), at + 1)
    path.write_bytes(data)


@raw
def a_heap_of_sixteen_exabytes(path: Path) -> None:
    sound(path)
    with h5py.File(path, "a") as file:
        file.attrs["dataset"] = "X" * 23
    data = bytearray(path.read_bytes())
    for kind in (b"GCOL", b"HEAP"):
        at = data.find(kind)
        while at >= 0:
            struct.pack_into("<Q", data, at + 8, 0x7FFFFFFFFFFFFFF0)
            at = data.find(kind, at + 1)
    path.write_bytes(data)


@raw
def arrays_behind_the_end_of_the_file(path: Path) -> None:
    sound(path)
    with h5py.File(path) as file:
        offset = file["000/features"].id.get_offset()
    data = path.read_bytes().replace(struct.pack("<Q", offset), struct.pack("<Q", 1 << 40))
    path.write_bytes(data)
