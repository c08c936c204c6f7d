"""Whether a JPEG has all its data.

Where data are missing before a marker, libjpeg says "premature end of data segment", fills up with zeros or gray and
goes on; Pillow does not pass the warning on. It is found out here by decoding once more, changed in a way that shows
what libjpeg did:

    one scan, no restarts       with one row of blocks more than there are. libjpeg decodes the first block beyond the
    (nearly all photographs)    data of a whole file from what is left of its last byte; it skips it, which gives gray,
                                where it has had to fill up already. Exact, and quick: an eighth of the size will do
    several scans, restarts,    with a few bytes more at the end of each stretch of data. A whole file does not read
    the block beyond is gray    them; one that lacks data takes them for its own and shows something else

Pixels are those of the file itself in every case.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from ..errors import ImageError

ZERO_TAIL: Final = 512
"""Bytes (one disk sector). So many zeros at the end of a file are worth telling: a broken copy."""
MAX_SIDE: Final = 65_500
"""Pixels: libjpeg reads no larger side."""
GRAY: Final = 128
"""What a block without data decodes to."""
BAND: Final = 256
"""Rows compared at a time."""
BASELINE, EXTENDED = 0xC0, 0xC1
"""Codes of the frame headers of sequential, Huffman-coded images."""
ARITHMETIC: Final = frozenset((0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
SCAN, END, RESTART_INTERVAL, RESTART = 0xDA, 0xD9, 0xDD, 0xD0
BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length: temporary, restarts, start of image."""

_marker = re.compile(rb"\xff[^\x00\xff]").search
"""Between segments: anything may lie before a marker. In image data, FF 00 is a byte FF."""
_FILLING: Final = b"\xa5\x5a\x3c\xc3" * 16
"""What lengthens a stretch of data. The best of nine tried on progressive files that lacked one to five bytes of a scan
in their middle: 643 of 661 showed it (zeros 304); of the other 18, 11 look the same whatever is filled in."""
_BEYOND_ARITHMETIC: Final = bytes(64)
"""An arithmetic encoder drops zeros at the end of its data, which the decoder puts back."""


class Stretch(NamedTuple):
    """Image data between markers."""

    end: int
    """Offset of the marker behind it (of the first FF where several precede one)."""
    last: bool
    """Whether its scan ends there."""
    restart: int
    """Code of the restart marker that goes on with the scan."""


@dataclass
class Layout:
    """Where the parts of the first image in a file lie, as offsets in bytes."""

    frame: int = 0
    """Of the frame header, its marker's code."""
    kind: int = 0
    """Code of the frame header."""
    restart_interval: int = 0
    scans: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    restarts_in_order: bool = True
    end: int = 0
    """Behind the end marker; 0: there is none."""


def check_stream(content: bytes) -> None:
    """Raises ImageError where the JPEG of these bytes cannot be decoded or lacks a part of its data."""
    with JpegImageFile(io.BytesIO(content)) as image:
        check_complete(content, image)


def check_complete(content: bytes, image: Image.Image) -> None:
    """Raises ImageError where the JPEG of these bytes, decoded as ``image``, lacks a part of its data."""
    image.load()
    layout = read_layout(content)
    if not layout.end:
        zeros = len(content) - len(content.rstrip(b"\0"))
        found = f"the last {zeros:,} of {len(content):,} bytes are zeros" if zeros >= ZERO_TAIL else "no end marker"
        raise ImageError(f"truncated JPEG: {found}")
    in_order = layout.restarts_in_order or not layout.restart_interval  # else one and what it begins are missing
    if not in_order or not (
        _block_beyond_is_decoded(content, layout, image) or _filling_changes_nothing(content, layout, image)
    ):
        raise ImageError("truncated JPEG: a part of its image data is missing, though it has an end marker")


def reason_why_unreadable(file: BinaryIO) -> str:
    """Why Pillow does not open the JPEG; empty where its headers do not tell."""
    file.seek(0)
    try:
        JpegImageFile(file).close()
    except SyntaxError as error:
        if match := re.fullmatch(r"cannot handle (\d+)-(bit|layer) .*", str(error)):
            what = "bits a sample" if match[2] == "bit" else "components"
            return f"JPEG of {match[1]} {what}: not read; save it as RGB of 8 bits"
    except Exception:  # bytes from outside; that they are a damaged JPEG is told by the caller
        return ""
    return ""


def read_layout(content: bytes) -> Layout:
    """The parts of a JPEG; what it holds behind its first image (previews, films, padding) is not looked at."""
    layout = Layout()
    position = 0
    in_scan, restart = False, RESTART
    while found := _marker(content, position):
        code, position = found[0][1], found.end()
        if in_scan:
            in_scan = RESTART <= code < RESTART + 8
            layout.stretches.append(Stretch(_first_of_fill(content, found.start()), not in_scan, restart))
            layout.restarts_in_order &= not in_scan or code == restart
            restart = RESTART + (restart + 1) % 8
        if code == END:
            layout.end = position
            break
        if code in BARE:
            continue
        if code in FRAMES and not layout.frame:
            layout.frame, layout.kind = position - 1, code
        elif code == RESTART_INTERVAL:
            layout.restart_interval = int.from_bytes(content[position + 2 : position + 4])
        elif code == SCAN:
            layout.scans += 1
            in_scan, restart = True, RESTART
        position += int.from_bytes(content[position : position + 2])
    return layout


def _first_of_fill(content: bytes, position: int) -> int:
    """Any number of FF may precede a marker; ``position``: of the last."""
    while content[position - 1] == 0xFF:
        position -= 1
    return position


def _block_beyond_is_decoded(content: bytes, layout: Layout, image: Image.Image) -> bool:
    """True: the file is whole. False: it is not, or that cannot be told in this way."""
    simple = layout.scans == 1 and layout.kind in (BASELINE, EXTENDED) and not layout.restart_interval
    if not simple or image.mode not in ("L", "RGB"):
        return False
    at = layout.frame + 4  # behind code, length and bits per sample: height, width, number of components
    height, width = (int.from_bytes(content[i : i + 2]) for i in (at, at + 2))
    samplings = content[at + 6 : at + 4 + 3 * content[at + 4] + 1 : 3]
    rows = 8 * (max(s & 15 for s in samplings) if len(samplings) > 1 else 1)
    beyond = -(-height // rows) * rows
    if beyond + rows > MAX_SIDE:
        return False
    taller = content[:at] + (beyond + rows).to_bytes(2) + content[at + 2 : layout.end]
    with JpegImageFile(io.BytesIO(taller)) as variant:
        variant.draft("L", (max(1, width // 8), max(1, (beyond + rows) // 8)))
        scale = (beyond + rows) // variant.height
        return bool(variant.getpixel((0, beyond // scale)) != GRAY)


def _filling_changes_nothing(content: bytes, layout: Layout, image: Image.Image) -> bool:
    """Whether no stretch of data is too short, nor one missing at the end of a scan."""
    filling = (_BEYOND_ARITHMETIC if layout.kind in ARITHMETIC else b"") + _FILLING
    longer, position = [], 0
    for stretch in layout.stretches:
        longer += [content[position : stretch.end], filling]
        if layout.restart_interval and stretch.last:
            longer += [bytes((0xFF, stretch.restart)), filling]  # where another should follow, it shows this
        position = stretch.end
    longer.append(content[position : layout.end])
    with JpegImageFile(io.BytesIO(b"".join(longer))) as variant:
        variant.load()
        bands = (_band(variant, y) == _band(image, y) for y in range(0, image.height, BAND))
        return all(bands)


def _band(image: Image.Image, y: int) -> bytes:
    """Some rows of pixels: a copy of all of a large image would take as much memory again."""
    return image.crop((0, y, image.width, min(y + BAND, image.height))).tobytes()
