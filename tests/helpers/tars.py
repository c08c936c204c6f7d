"""Tars as img2dataset writes them, and as it does not."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from helpers.common import photograph
from PIL import Image


def jpeg(number: int, size: int = 48) -> bytes:
    """A small image of its own."""
    astronaut = photograph("astronaut")
    y, x = (37 * number) % (512 - size - 16), (61 * number) % (512 - size - 16)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(astronaut[y : y + size, x : x + size + 8 * (number % 3)])).save(file, "JPEG")
    return file.getvalue()


def member(name: str, content: bytes = b"", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    """A regular file; ``more``: other values of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def tar_bytes(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def samples(numbers: Iterable[int]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Members as img2dataset writes them: an image, its caption and its numbers, named 000000007.jpg and so on."""
    found = []
    for n in numbers:
        beside = (("jpg", jpeg(n)), ("json", b'{"width": 48}'), ("txt", b"an astronaut"))
        found += [member(f"{n:09d}.{suffix}", content) for suffix, content in beside]
    return found


def write_tar(path: Path, numbers: Iterable[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(samples(numbers)))
    return path


def write_folder(folder: Path, numbers: Iterable[int]) -> Path:
    """The images of the same samples, unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        (folder / f"{n:09d}.jpg").write_bytes(jpeg(n))
    return folder
