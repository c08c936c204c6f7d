"""JPEG 2000: which samples and colours are read, as a list of what was compared with known values; others are refused.

Pillow opens more than it reads rightly: more than 8 bits of colour turn white into black, fewer leave it gray, and what
the file says of the order of its channels, of subsampled ones or of Lab is not heard.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from ..errors import ImageError

START_AND_SIZE: Final = b"\xff\x4f\xff\x51"
"""A codestream begins so: two markers, the second with the header below behind its length."""
NUMBERED, PROFILE = 1, 2
"""Ways to name a colour space."""
COLOURS: Final = {16: (3, 4), 17: (1, 2), 18: (3, 4)}
"""Number of the colour space (sRGB, gray, sYCC) -> components that go with it, the last of them alpha."""
PROFILES: Final = {b"GRAY": (1, 2), b"RGB ": (3, 4)}
UNNAMED: Final = (1, 2, 3)
"""Components of a bare codestream that leave no choice: gray, gray and alpha, RGB."""
GRAY_BITS: Final = {8, *range(10, 17)}
"""Of 9, Pillow makes 8 with white wrapped around to black."""
ORDERS: Final = {
    1: {(0, 0, 1)},
    2: {(0, 0, 1), (1, 1, 0)},
    3: {(0, 0, 1), (1, 0, 2), (2, 0, 3)},
    4: {(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 1, 0)},
}
"""Components -> (channel, 0 colour or 1 opacity, which colour; 0: all) as they are where a file does not say."""


@dataclass
class Header:
    """What a file says of its samples."""

    components: list[tuple[int, int, int]] = field(default_factory=list)
    """(bits, bit 7: signed, less 1; step across; step down)."""
    named: bool = False
    """Whether a header says something of colours."""
    colours: tuple[int, ...] = ()
    """Numbers of components that go with the first colour space; empty: it is none that is read."""
    colour_name: str = ""
    channels: set[tuple[int, int, int]] = field(default_factory=set)
    columns: int = 0
    """Of the palette; 0: there is none; -1: it is none of 8 bits whose columns are red, green and blue."""


def check(content: bytes) -> None:
    """Raises ImageError where the file of these bytes is not known to be read rightly."""
    try:
        header = read_header(content)
    except (struct.error, IndexError) as error:
        raise ImageError("JPEG 2000 file whose header cannot be read: truncated or damaged") from error
    if reason := _why_not(header):
        raise ImageError(f"JPEG 2000 {reason}: not read; save it as RGB of 8 bits")


def read_header(content: bytes) -> Header:
    """The boxes before the codestream, and its own header."""
    header = Header()
    if content.startswith(START_AND_SIZE):
        header.components = _components(content)
        return header
    for kind, start, size in _boxes(content, 0, len(content)):
        if kind == b"jp2h":
            for inner, at, length in _boxes(content, start, start + size):
                _read_box(header, inner, content[at : at + length])
        elif kind == b"jp2c":
            header.components = _components(content[start : start + (1 << 16)])
            break
    header.named = True
    return header


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, offset of the content, its size) of the boxes between two offsets."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, start + 8)
            head = 16
        size = size or max(end - start, head)  # 0: to the end of the file
        if size < head:
            raise struct.error
        yield kind, start + head, size - head
        start += size


def _read_box(header: Header, kind: bytes, content: bytes) -> None:
    if kind == b"colr" and not header.colour_name:
        method = content[0]
        if method == NUMBERED:
            (number,) = struct.unpack_from(">I", content, 3)
            header.colours, header.colour_name = COLOURS.get(number, ()), f"of colour space {number}"
        elif method == PROFILE:
            space = content[3 + 16 : 3 + 20]
            header.colours, header.colour_name = PROFILES.get(space, ()), f"of a profile for {space!r}"
        else:
            header.colour_name = f"whose colours are given in a way of number {method}"
    elif kind == b"pclr":
        columns = content[2]
        header.columns = columns if set(content[3 : 3 + columns]) == {7} else -1  # of 8 bits
    elif kind == b"cmap":
        in_order = b"".join(struct.pack(">HBB", 0, 1, i) for i in range(len(content) // 4))
        header.columns = header.columns if content == in_order else -1
    elif kind == b"cdef":
        (count,) = struct.unpack_from(">H", content)
        header.channels = {struct.unpack_from(">HHH", content, 2 + 6 * i) for i in range(count)}


def _components(codestream: bytes) -> list[tuple[int, int, int]]:
    if not codestream.startswith(START_AND_SIZE):
        raise struct.error
    (count,) = struct.unpack_from(">H", codestream, 40)
    return [struct.unpack_from(">BBB", codestream, 42 + 3 * i) for i in range(count)]


def _why_not(header: Header) -> str:
    """Empty where samples of this kind are read."""
    count = len(header.components)
    bits = {1 + (depth & 127) for depth, _, _ in header.components}
    if any(depth & 128 for depth, _, _ in header.components):
        return "of signed samples"
    if any((across, down) != (1, 1) for _, across, down in header.components):
        return "of fewer samples of colour than of brightness"
    if not bits <= (GRAY_BITS if count == 1 and not header.columns else {8}):
        return f"of {' + '.join(map(str, sorted(bits)))} bits a sample and {count} components"
    if not header.named:
        return "" if count in UNNAMED else f"of {count} components that are not named"
    if not header.colours:
        return header.colour_name or "that names no colour space"
    if header.columns and (count, header.columns) != (1, 3):
        return "of a palette that is not RGB of 8 bits"
    shown = header.columns or count
    if shown not in header.colours:
        return f"{header.colour_name} with {shown} components"
    if header.channels and header.channels != ORDERS[shown]:
        return "of channels in an order of its own, or premultiplied ones"
    return ""
