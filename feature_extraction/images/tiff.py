"""TIFF: which combinations of tags are read, as a list of what was compared with an independent decoder; all others are
refused with their reason. Pillow opens more than it reads rightly.

Read here and not by Pillow: 16 bits with white at 0, 12 bits, and colour maps of 8-bit values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from ..errors import ImageError

UNSIGNED, SIGNED, FLOAT = 1, 2, 3
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, CIELAB = 0, 1, 2, 3, 5, 6, 8
PHOTOMETRIC: Final = {
    WHITE_IS_ZERO: "gray with white at 0", BLACK_IS_ZERO: "gray", RGB: "RGB", PALETTE: "palette", 4: "mask",
    CMYK: "CMYK", YCBCR: "YCbCr", CIELAB: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a sensor's colour filter array",
    32844: "LogL", 32845: "LogLuv", 34892: "a sensor's linear RGB",
}  # fmt: skip
FORMATS: Final = {
    UNSIGNED: "",
    SIGNED: "signed ",
    FLOAT: "floating-point ",
    4: "untyped ",
    5: "complex ",
    6: "complex ",
}
SAMPLES: Final[dict[int, dict[int, tuple[int, ...]]]] = {
    WHITE_IS_ZERO: {UNSIGNED: (1, 2, 4, 8, 16)},
    BLACK_IS_ZERO: {UNSIGNED: (1, 2, 4, 8, 12, 16, 32), SIGNED: (32,), FLOAT: (32,)},
    RGB: {UNSIGNED: (8, 16)},
    PALETTE: {UNSIGNED: (1, 2, 4, 8)},
    CMYK: {UNSIGNED: (8, 16)},
    YCBCR: {UNSIGNED: (8,)},
    CIELAB: {UNSIGNED: (8,)},
}
"""What is read: photometric interpretation -> kind of sample -> bits per sample."""
REVERSED: Final = (
    *((photometric, bits) for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO) for bits in (1, 2, 4)),
    *((photometric, 8) for photometric in (BLACK_IS_ZERO, RGB, PALETTE)),
)
"""What is read with the bits of each byte in reversed order: photometric interpretation, bits."""
COLOURS: Final = {RGB: 3, CMYK: 4, YCBCR: 3, CIELAB: 3}
"""Samples of a pixel, without the extra ones; 1 for the others."""
RAW, JPEG = 1, 7
FAX_CODES: Final = (2, 3, 4)
GENERAL_CODES: Final = (5, 8, 32946, 34925, 50000)
"""LZW, deflate (new and old number), LZMA, Zstandard: those that go with predictors."""
PACKBITS: Final = 32773
DEFAULTS: Final = {
    332: ((1,), "inks other than CMYK"),
    336: ((0, 255), "a dot range of its own"),
    529: ((0.299, 0.587, 0.114), "YCbCr coefficients of its own"),
}
"""Tags that decide colours: tag -> (the value that is read, what any other means)."""
REFERENCE_BLACK_WHITE: Final = {YCBCR: (0, 255, 128, 255, 128, 255), RGB: (0, 255) * 3}


@dataclass(frozen=True)
class Layout:
    """What the tags say of samples; the standard's defaults where they are silent."""

    photometric: int
    bits: tuple[int, ...]
    samples: int
    sample_formats: tuple[int, ...]
    extra: tuple[int, ...]
    apart: bool
    """A plane for each sample."""
    compression: int
    predictor: int

    @classmethod
    def of(cls, tags: ImageFileDirectory_v2) -> Layout:
        return cls(
            photometric=int(tags.get(262, -1)),
            bits=_tuple(tags.get(258, 1)),
            samples=int(tags.get(277, 1)),
            sample_formats=_tuple(tags.get(339, UNSIGNED)),
            extra=_tuple(tags.get(338, ())),
            apart=int(tags.get(284, 1)) == 2,
            compression=int(tags.get(259, RAW)),
            predictor=int(tags.get(317, 1)),
        )

    def __str__(self) -> str:
        bits = " + ".join(map(str, dict.fromkeys(self.bits)))
        kinds = "".join(FORMATS.get(f, "unknown ") for f in dict.fromkeys(self.sample_formats))
        colours = PHOTOMETRIC.get(self.photometric, f"photometric interpretation {self.photometric}")
        return f"TIFF of {kinds}{bits} bits a sample, {colours}" + (", in planes" if self.apart else "")


def check(image: TiffImageFile) -> None:
    """Raises ImageError for what is not known to be read rightly. To be called before the pixels are loaded."""
    layout = Layout.of(image.tag_v2)
    if reason := _why_not(layout, image.tag_v2) or _misplaced(layout, image.tag_v2):
        raise ImageError(f"{reason}: not read; save it as RGB of 8 bits")


def reason_why_unreadable(file: BinaryIO) -> str:
    """Why Pillow does not open the TIFF; empty where its tags do not tell."""
    file.seek(0)
    try:
        head = file.read(8)
        tags = ImageFileDirectory_v2(head + (file.read(8) if head[2:3] == b"+" else b""))
        file.seek(tags.next)
        tags.load(file)
        layout = Layout.of(tags)
        known = layout.photometric in PHOTOMETRIC and 256 in tags and 257 in tags
        reason = _why_not(layout, tags) or str(layout)
    except Exception:  # bytes from outside; that they are a damaged TIFF is told by the caller
        return ""
    return f"{reason}: not read; save it as RGB of 8 bits" if known else ""


def pixels(image: TiffImageFile) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) RGB of a loaded image where Pillow's own conversion is not to be used; None: it is."""
    layout = Layout.of(image.tag_v2)
    if layout.photometric == PALETTE and (colours := _colours_of_8_bits(image.tag_v2)) is not None:
        return np.take(colours, np.asarray(image if image.mode == "P" else image.getchannel("P")), axis=0)
    if image.mode.startswith("I;16") and (layout.photometric == WHITE_IS_ZERO or set(layout.bits) == {12}):
        values = np.asarray(image)
        white = (1 << layout.bits[0]) - 1
        gray = (white - values if layout.photometric == WHITE_IS_ZERO else values) >> (layout.bits[0] - 8)
        return np.repeat(gray.astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    return None


def jpeg_streams(content: bytes, tags: ImageFileDirectory_v2) -> Iterator[bytes]:
    """The JPEGs that a TIFF of that compression consists of, each with the tables that they share."""
    if int(tags.get(259, RAW)) != JPEG:
        return
    tables = bytes(tags.get(347, b""))[:-2]  # without its end marker
    for start, size in zip(*_blocks(tags), strict=True):
        stream = content[start : start + size]
        yield tables + stream[2:] if tables else stream


def _colours_of_8_bits(tags: ImageFileDirectory_v2) -> npt.NDArray[np.uint8] | None:
    """(2**bits, 3) RGB of a colour map of 8-bit values, which the standard does not allow and programs write."""
    values = _tuple(tags.get(320, ()))
    if not values or max(values) > 255:
        return None
    return np.array(values, np.uint8).reshape(3, -1).T


def _why_not(layout: Layout, tags: ImageFileDirectory_v2) -> str:
    """Empty where samples of this kind are read."""
    if layout.photometric == -1:
        return "TIFF that does not say what its samples mean (no photometric interpretation)"
    bits = set(layout.bits)
    formats = set(layout.sample_formats)
    kinds: dict[int, tuple[int, ...]] = SAMPLES.get(layout.photometric, {})
    if len(bits) > 1 or len(formats) > 1 or not bits <= set(kinds.get(min(formats), ())):
        return str(layout)
    if layout.samples != COLOURS.get(layout.photometric, 1) + len(layout.extra) and (
        (layout.photometric, layout.samples) != (RGB, 4)  # alpha that is not declared
    ):
        return f"{layout}, {layout.samples} samples of which {len(layout.extra)} are extra"
    if layout.extra and (layout.extra[0] not in (0, 1, 2) or max(layout.extra[1:], default=0) > 0):
        return f"{layout}, extra samples of the kinds {', '.join(map(str, layout.extra))}"
    return _why_not_packed(layout, min(bits), tags) or _why_not_coloured(layout, tags)


def _why_not_packed(layout: Layout, bits: int, tags: ImageFileDirectory_v2) -> str:
    code = layout.compression
    single = layout.samples == 1
    if layout.apart:
        plain = layout.photometric in (BLACK_IS_ZERO, RGB, PALETTE, CMYK) and not any(layout.extra)
        alpha = layout.photometric == RGB and layout.extra == (2,)
        if not (bits == 8 and (plain or alpha)) and (code == RAW or not single):
            return str(layout)
    if code in FAX_CODES:
        return f"{layout}, as a fax is compressed (damage would go unnoticed)"
    if code == JPEG:
        known = bits == 8 and layout.photometric in (BLACK_IS_ZERO, RGB, YCBCR) and not layout.extra
    else:
        known = code in (RAW, PACKBITS, *GENERAL_CODES)
    if not known:
        return f"{layout}, compression {code}"
    if layout.predictor != 1:
        kind = {2: UNSIGNED, 3: FLOAT}.get(layout.predictor)
        if code not in GENERAL_CODES or bits < 8 or bits == 12 or kind not in layout.sample_formats:
            return f"{layout}, compression {code} with predictor {layout.predictor}"
    if code != RAW and bits == 32 and tags.prefix == b"MM":
        return f"{layout}, big-endian, compression {code}"
    if int(tags.get(266, 1)) != 1 and ((layout.photometric, bits) not in REVERSED or layout.apart):
        return f"{layout}, bits in reversed order"
    return ""


def _why_not_coloured(layout: Layout, tags: ImageFileDirectory_v2) -> str:
    for tag, (usual, meaning) in DEFAULTS.items():
        if tag in tags and not np.allclose(_tuple(tags[tag])[: len(usual)], usual, atol=1e-3):
            return f"{layout}, {meaning}"
    usual = REFERENCE_BLACK_WHITE.get(layout.photometric, ())
    if 532 in tags and usual and not np.allclose(_tuple(tags[532]), usual, atol=1):
        return f"{layout}, black and white of its own"
    if layout.photometric == YCBCR and layout.compression != JPEG and _tuple(tags.get(530, (2, 2))) != (1, 1):
        return f"{layout}, fewer samples of colour than of brightness"
    if layout.photometric == PALETTE and len(_tuple(tags.get(320, ()))) != 3 << layout.bits[0]:
        return f"{layout}, a colour map of another size"
    if 50706 in tags:
        return "a camera's raw image (DNG), of which a TIFF reader sees the preview"
    if int(tags.get(254, 0)) & 5:
        return "TIFF whose first page is a preview or a mask of another"
    return ""


def _misplaced(layout: Layout, tags: ImageFileDirectory_v2) -> str:
    """Empty where there are as many strips or tiles as the image has, and each is in the file."""
    starts, sizes = _blocks(tags)
    width, height = int(tags[256]), int(tags[257])
    tiled = 273 not in tags
    rows, columns = (int(tags.get(323, 0)), int(tags.get(322, 0))) if tiled else (int(tags.get(278, height)), width)
    if rows <= 0 or columns <= 0:
        return "TIFF with strips or tiles of no size"
    rows = rows if tiled else min(rows, height)
    planes = layout.samples if layout.apart else 1
    needed = -(-height // rows) * -(-width // columns) * planes
    if len(starts) != needed or len(sizes) not in (0, needed):
        return f"TIFF of {len(starts):,} strips or tiles, expected {needed:,}"
    if not all(starts) or not all(sizes):
        return "TIFF with strips or tiles that are left out"
    if layout.compression == RAW and sizes:
        per_row = -(-columns * (layout.samples // planes) * layout.bits[0] // 8)
        last = rows if tiled else height - (-(-height // rows) - 1) * rows
        down = -(-height // rows)
        for i, size in enumerate(sizes):
            is_last = not tiled and i % down == down - 1
            if size < per_row * (last if is_last else rows):
                return "TIFF with strips or tiles that are cut off"
    return ""


def _blocks(tags: ImageFileDirectory_v2) -> tuple[Sequence[int], Sequence[int]]:
    """(offsets, sizes in bytes) of strips or tiles."""
    numbers = (273, 279) if 273 in tags else (324, 325)
    starts, sizes = (_tuple(tags.get(number, ())) for number in numbers)
    return starts, sizes


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)
