"""A folder of bad and odd images beside good ones: how each is made, and what must happen to it.

``write(folder)`` makes them all; ``CASES`` says what to expect. A case either gives features (``fails_in`` is
empty) or is reported, by the stage in ``fails_in``, with a reason that contains ``reason``:

    list     the listing (``list_images(folder, "*", recursive=False)``) does not hand it out
    decode   ``decode_image`` raises ImageError
    resize   it decodes, but is too narrow for the network

Everything is made from a seeded noise picture, offline, in under a second.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from helpers import tiff_files
from helpers.tiff_files import Tiff
from PIL import Image, ImageCms

Stage = Literal["", "list", "decode", "resize"]


def _picture(height: int = 60, width: int = 80) -> np.ndarray:
    """(H, W, 3) uint8 RGB: smooth colours with noise, so that no codec makes it small or empty."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([x * 200 / width, y * 200 / height, 200 - x * 100 / width], axis=2)
    noise = np.random.default_rng(0).integers(0, 50, (height, width, 3))
    return (smooth + noise).astype(np.uint8)


RGB = Image.fromarray(_picture())
GRAY = RGB.convert("L")
ALPHA = Image.fromarray(_picture()[:, :, 0])


def _encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


JPEG = _encode(RGB, "JPEG", quality=95)
PNG = _encode(RGB, "PNG")
GIF = _encode(RGB, "GIF")
TIFF = _encode(RGB, "TIFF", compression="tiff_lzw")
BMP = _encode(RGB, "BMP")
WEBP = _encode(RGB, "WEBP")


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes, position: int) -> bytes:
    """One byte inverted."""
    damaged = bytearray(content)
    damaged[position] ^= 0xFF
    return bytes(damaged)


def _with_alpha(mode: str) -> Image.Image:
    image = RGB.convert(mode)
    image.putalpha(ALPHA)
    return image


def _frames(count: int = 3) -> list[Image.Image]:
    return [Image.fromarray(np.roll(_picture(), 10 * i, axis=1)) for i in range(count)]


def _animated(fmt: str, **options: Any) -> bytes:
    first, *rest = _frames()
    return _encode(first, fmt, save_all=True, append_images=rest, **options)


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *extra: bytes, depth: int = 8, color: int = 0, rows: bytes = b"") -> bytes:
    """A PNG written by hand: sizes that no encoder writes, pixels only where ``rows`` has them."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        *((b"zTXt", e) for e in extra),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _rgb_16_bits() -> bytes:
    """A colour PNG of 16 bits a channel, which Pillow reads but cannot write."""
    wide = (_picture().astype(np.uint16) * 256 + 77).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    return _png(wide.shape[1], wide.shape[0], depth=16, color=2, rows=rows)


def _bmp(width: int, height: int, rows: bytes = b"") -> bytes:
    """A 24-bit BMP written by hand; negative height: the first row is the top one."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows


def _tiff(*tags: tuple[int, int, int, int]) -> bytes:
    """A little-endian TIFF of one directory: (tag, type, count, value) and no pixels."""
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4)


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("1.jpg", JPEG)
    return out.getvalue()


def _tiff_of(values: np.ndarray) -> bytes:
    return _encode(Image.fromarray(values), "TIFF")


def _tiff_samples(values: np.ndarray, bits: int, photometric: int, sample_format: int = 1) -> bytes:
    """Gray of that many bits, which Pillow does not write."""
    how = Tiff(bits=bits, photometric=photometric, sample_format=sample_format)
    return tiff_files.write(values[:, :, np.newaxis].astype(np.int64), how)


def _png_of_half() -> bytes:
    half = np.asarray(RGB)[:30]
    return _png(80, 60, depth=8, color=2, rows=b"".join(b"\0" + row.tobytes() for row in half))


def _bomb() -> bytes:
    """A valid black-and-white PNG just above the pixel limit."""
    row = b"\0" + bytes((BIG + 7) // 8)
    return _png(BIG, BIG, depth=1, rows=row * BIG)


def _sparse(path: Path) -> None:
    """Takes no space on the disk."""
    with path.open("wb") as file:
        file.write(WEBP)
        file.truncate(2**31)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(os.path.relpath(path))  # an absolute path may be too long for a socket


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@dataclass(frozen=True)
class Case:
    """One file."""

    name: str
    how: str
    """How it is made."""
    make: Callable[[Path], object]
    fails_in: Stage = ""
    reason: str = ""
    """A part of the reason that must be given."""
    shows: Image.Image | None = None
    """What a decoded image looks like, but for the loss of its format."""

    @property
    def id(self) -> str:
        return Path(self.name).stem


def _good(name: str, how: str, content: bytes, shows: Image.Image | None = RGB) -> Case:
    return Case(name, how, _write(content), shows=shows)


def _bad(name: str, how: str, content: bytes, reason: str) -> Case:
    return Case(name, how, _write(content), "decode", reason)


BROKEN_EXIF = b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(10)
ZEROS = zlib.compress(bytes(2**26), 9)
HUGE_TAGS = ((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8))
ABSURD_TAGS = ((256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 999), (262, 3, 1, 999), (277, 3, 1, 999))
HTML = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n'
BLACK_AND_WHITE = GRAY.convert("1")
TURNED = RGB.transpose(Image.Transpose.ROTATE_270)
PALETTE = RGB.quantize(256)
WHITE = Image.new("RGB", RGB.size, "white")
EIGHT_BITS = np.asarray(GRAY)
SIXTEEN_BITS = EIGHT_BITS.astype(np.uint16) * 256 + 99
LAB = ImageCms.profileToProfile(RGB, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB")
HOLE = len(JPEG) // 3
BIG = 13_378  # its square is just above the limit of 178,956,970 pixels

GOOD: tuple[Case, ...] = (
    _good("good_rgb.jpg", "baseline JPEG", JPEG),
    _good("good_gray.jpg", "gray JPEG", _encode(GRAY, "JPEG", quality=95), GRAY),
    _good("good_png.png", "RGB PNG", PNG),
    _good("good_gray_png.png", "gray PNG", _encode(GRAY, "PNG"), GRAY),
)

ODD: tuple[Case, ...] = (
    # pixel modes
    _good("mode_1.png", "1-bit PNG", _encode(BLACK_AND_WHITE, "PNG"), BLACK_AND_WHITE),
    _good("mode_p.png", "palette PNG", _encode(PALETTE, "PNG")),
    _good("mode_p_hole.png", "palette PNG, one colour transparent", _encode(PALETTE, "PNG", transparency=3)),
    _good("mode_p_alpha.png", "palette PNG with alphas", _encode(PALETTE, "PNG", transparency=bytes(range(256)))),
    _good("mode_la.png", "gray PNG with alpha", _encode(_with_alpha("L"), "PNG"), GRAY),
    _good("mode_rgba.png", "RGB PNG with alpha", _encode(_with_alpha("RGB"), "PNG")),
    _good(
        "mode_rgba_webp.webp",
        "WebP with alpha",
        _encode(_with_alpha("RGB"), "WEBP", lossless=True, exact=True),
    ),
    _good("mode_rgb_hole.png", "RGB PNG, one colour transparent", _encode(RGB, "PNG", transparency=(1, 2, 3))),
    _good("mode_rgb16.png", "16-bit RGB PNG", _rgb_16_bits()),
    _good("mode_i16.png", "16-bit gray PNG", _encode(Image.fromarray(SIXTEEN_BITS), "PNG"), GRAY),
    _good("mode_i16_tiff.tif", "16-bit gray TIFF", _tiff_of(SIXTEEN_BITS), GRAY),
    _good("mode_i.tif", "32-bit integer TIFF, 0..255", _tiff_of(EIGHT_BITS.astype(np.int32)), GRAY),
    _good("mode_i_wide.tif", "32-bit integer TIFF, 0..65535", _tiff_of(SIXTEEN_BITS.astype(np.int32)), GRAY),
    _good("mode_f.tif", "float TIFF, 0..255", _tiff_of(EIGHT_BITS.astype(np.float32)), GRAY),
    _good("mode_cmyk.jpg", "CMYK JPEG, inverted as Adobe does", _encode(RGB.convert("CMYK"), "JPEG", quality=95)),
    _good("mode_no_ink.tif", "CMYK TIFF without ink", _encode(Image.new("CMYK", RGB.size), "TIFF"), WHITE),
    _good("mode_ycbcr.tif", "YCbCr TIFF", _encode(RGB.convert("YCbCr"), "TIFF")),
    _good("mode_lab.tif", "LAB TIFF", _encode(LAB, "TIFF")),
    # many frames: the first counts
    _good("frames_gif.gif", "GIF of 3 frames", _animated("GIF")),
    _good("frames_apng.png", "PNG of 3 frames", _animated("PNG")),
    _good("frames_webp.webp", "WebP of 3 frames", _animated("WEBP", lossless=True)),
    _good("frames_tiff.tif", "TIFF of 3 pages", _animated("TIFF")),
    _good("frames_mpo.jpg", "JPEG with 2 more behind it (MPO)", _animated("MPO", quality=95)),
    # other formats, wrong names
    _good("format_bmp.bmp", "BMP", BMP),
    _good(
        "format_bmp_top.bmp",
        "BMP of negative height: top row first",
        _bmp(80, -60, _picture()[:, :, ::-1].tobytes()),
    ),
    _good("format_ppm.ppm", "PPM", _encode(RGB, "PPM")),
    _good("format_jp2.jp2", "JPEG 2000", _encode(RGB, "JPEG2000")),
    _good("format_avif.avif", "AVIF", _encode(RGB, "AVIF", quality=95)),
    _good("1592.jpg", "a GIF named .jpg", GIF),
    _good("1722.jpg", "a PNG named .jpg", PNG),
    _good("4616.png", "a JPEG named .png", JPEG),
    # metadata
    _good(
        "exif_rotated.jpg",
        "EXIF orientation 6, which is ignored",
        _encode(RGB, "JPEG", quality=95, exif=_exif(6)),
    ),
    _good(
        "exif_tiff.tif",
        "TIFF of orientation 6, which Pillow turns",
        _encode(RGB, "TIFF", exif=_exif(6)),
        TURNED,
    ),
    _good("exif_damaged.jpg", "EXIF that points nowhere", _encode(RGB, "JPEG", quality=95, exif=BROKEN_EXIF)),
    _good("exif_garbage.jpg", "EXIF of random bytes", _encode(RGB, "JPEG", quality=95, exif=b"Exif\0\0rubbish")),
    _good(
        "icc_garbage.jpg",
        "colour profile of random bytes",
        _encode(RGB, "JPEG", quality=95, icc_profile=b"rubbish"),
    ),
    _good("progressive.jpg", "progressive JPEG", _encode(RGB, "JPEG", quality=95, progressive=True)),
    _good("padded.jpg", "whole JPEG with 4096 zeros behind its end", JPEG + bytes(4096)),
    _good(
        "trailer.jpg",
        "whole JPEG with a phone's trailer behind its end, zeros last",
        JPEG + b"\0\0\0\x18ftypmp42\0\0\0\0isommp42\0\0\x08\0free" + bytes(2040),
    ),
    _good("text_behind.jpg", "whole JPEG with text behind its end", JPEG + b"SEFT not zeros"),
    _good(
        "restarts.jpg",
        "JPEG with restart markers",
        _encode(RGB, "JPEG", quality=95, restart_marker_rows=1),
    ),
    _good("mode_i16_white.tif", "16-bit gray TIFF whose 0 is white", _tiff_samples(65535 - SIXTEEN_BITS, 16, 0), GRAY),
    _good("mode_i12.tif", "12-bit gray TIFF", _tiff_samples(EIGHT_BITS.astype(int) * 4095 // 255, 12, 1), GRAY),
    _good("mode_p_tiff.tif", "palette TIFF", _encode(PALETTE, "TIFF")),
    _good("no_iend.png", "PNG without its last chunk: all pixels are there", PNG[:-12]),
    _good("crc_idat.png", "PNG with a wrong checksum behind its pixels, which nothing reads", _flip(PNG, -13)),
    _good(
        "hole.jpg",
        "JPEG with zeros in its middle: nobody can tell",
        JPEG[:HOLE] + bytes(HOLE) + JPEG[2 * HOLE :],
        None,
    ),
    _good("1x1.png", "one pixel", _encode(RGB.crop((0, 0, 1, 1)), "PNG"), RGB.crop((0, 0, 1, 1))),
    # names
    _good("with spaces 'and' \"quotes\".jpg", "spaces and quotes in the name", JPEG),
    _good("new\nline.jpg", "a line break in the name", JPEG),
    _good("a\x1b]0;owned\x07\x1b[2J.jpg", "codes in the name that a terminal obeys", JPEG),
    _good(os.fsdecode("ünïcödé 写真 🐈.jpg".encode()), "a name in UTF-8", JPEG),
    _good("-rf.jpg", "a name like a flag", JPEG),
    _good("dots.in.name.jpg", "dots in the name: the id keeps all but the last", JPEG),
    _good("no_suffix", "no suffix", JPEG),
    _good("l" * 251 + ".jpg", "the longest name a Linux folder holds", JPEG),
)

BAD: tuple[Case, ...] = (
    # cut off, damaged
    _bad("empty.jpg", "no bytes", b"", "empty file"),
    _bad("cut.jpg", "half a JPEG", _half(JPEG), "truncated"),
    _bad("4617.jpg", "JPEG without its last two bytes", JPEG[:-2], "truncated"),
    _bad("cut_header.jpg", "100 bytes of a JPEG", JPEG[:100], "truncated"),
    _bad("magic_only.jpg", "2 bytes of a JPEG", JPEG[:2], "truncated"),
    _bad("zero_tail.jpg", "half a JPEG, then zeros", _half(JPEG) + bytes(len(JPEG) // 2), "truncated JPEG"),
    _bad("end_after_half.jpg", "half a JPEG and an end marker", _half(JPEG) + b"\xff\xd9", "truncated JPEG"),
    _bad(
        "end_after_half_progressive.jpg",
        "half a progressive JPEG and an end marker",
        _half(_encode(RGB, "JPEG", quality=95, progressive=True)) + b"\xff\xd9",
        "truncated",
    ),
    _bad("end_early.jpg", "JPEG that lacks 2 bytes before its end marker", JPEG[:-4] + b"\xff\xd9", "truncated JPEG"),
    _bad("ends_early.png", "PNG with half its rows, well compressed", _png_of_half(), "truncated PNG"),
    _bad("signed.tif", "8-bit TIFF with signed samples", _tiff_samples(EIGHT_BITS // 2, 8, 1, 2), "signed 8 bits"),
    _bad("cut.png.png", "half a PNG", _half(PNG), "truncated"),
    _bad("damaged.png", "a flipped byte in the pixels of a PNG", _flip(PNG, len(PNG) // 2), "damaged"),
    _bad("crc_ihdr.png", "PNG with a wrong checksum behind its header", _flip(PNG, 29), "PNG file whose header"),
    _bad("cut_gif.gif", "half a GIF", _half(GIF), "truncated"),
    _bad(
        "no_frames.gif",
        "GIF that ends after its header",
        b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";",
        "GIF file",
    ),
    _bad("cut_webp.webp", "half a WebP", _half(WEBP), "damaged"),
    _bad("cut_avif.avif", "half an AVIF", _half(_encode(RGB, "AVIF")), "AVIF file whose header"),
    _bad("cut_jp2.jp2", "half a JPEG 2000", _half(_encode(RGB, "JPEG2000")), "damaged"),
    _bad("cut_tiff.tif", "half a TIFF, whose directory is at its end", _half(TIFF), "TIFF file whose header"),
    _bad("damaged_tiff.tif", "LZW TIFF with zeros for pixels", TIFF[:9] + bytes(4000) + TIFF[4009:], "damaged"),
    _bad("cut_ppm.ppm", "half a PPM", _half(_encode(RGB, "PPM")), "truncated"),
    # sizes
    _bad("zero_sized.png", "PNG 0 pixels wide", _png(0, 10), "PNG file whose header"),
    _bad("zero_sized_ppm.ppm", "PPM 0 pixels wide", b"P6 0 10 255\n", "PPM file whose header"),
    _bad("bomb.png", "a whole PNG of 179 million black pixels in 22 kB", _bomb(), "178,956,970"),
    _bad("bomb_header.png", "PNG that claims 60000 x 60000", _png(60_000, 60_000), "178,956,970"),
    _bad("bomb_gif.gif", "GIF that claims 65535 x 65535", GIF[:6] + b"\xff" * 4 + GIF[10:], "178,956,970"),
    _bad("bomb_bmp.bmp", "BMP that claims 2 billion pixels a side", _bmp(2**31 - 1, 2**31 - 1), "178,956,970"),
    _bad("bomb_tiff.tif", "TIFF that claims 4 billion pixels a side", _tiff(*HUGE_TAGS), "178,956,970"),
    _bad("bomb_text.png", "PNG with a comment of 64 MB in 64 kB", _png(8, 8, b"x\0\0" + ZEROS), "too large"),
    _bad("big_claim.bmp", "BMP that claims 100 million pixels and has none", _bmp(10_000, 10_000), "truncated"),
    # tags, values
    _bad("tags.tif", "TIFF with an impossible count of bits", _tiff(*ABSURD_TAGS), "TIFF file whose header"),
    _bad(
        "negative.tif",
        "integer TIFF with values below 0",
        _tiff_of(EIGHT_BITS.astype(np.int32) - 300),
        "expected 0..255",
    ),
    _bad(
        "nan.tif",
        "float TIFF with a NaN",
        _tiff_of(np.where(EIGHT_BITS > 99, 9.0, np.nan).astype(np.float32)),
        "nan",
    ),
    _bad(
        "unit.tif",
        "float TIFF, 0..1: no telling what is white",
        _tiff_of((EIGHT_BITS / 255).astype(np.float32)),
        "of 0..1",
    ),
    # not images
    _bad("text.jpg", "plain text", "what a photograph, née hier\n".encode(), "a text file"),
    _bad("html.jpg", "a web server's error page", HTML, "an HTML page"),
    _bad("svg.png", "SVG", b"<?xml version='1.0'?>\n" + SVG, "an SVG drawing"),
    _bad("pdf.jpg", "PDF", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document"),
    _bad("eps.jpg", "EPS, which Ghostscript would run", _encode(RGB, "EPS"), "EPS"),
    _bad("json.jpg", "a server's error message", json.dumps({"error": "quota"}).encode(), "JSON"),
    _bad(
        "lfs.jpg",
        "Git LFS pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "git lfs pull",
    ),
    _bad("zip.jpg", "ZIP archive with a JPEG in it", _zip(), "a ZIP archive"),
    _bad("gzip.jpg", "gzipped JPEG", gzip.compress(JPEG), "a gzip archive"),
    _bad("ico.jpg", "ICO icon", _encode(RGB, "ICO"), "an ICO icon"),
    _bad("psd.jpg", "head of a Photoshop document", b"8BPS\0\1" + bytes(50), "Photoshop"),
    _bad("heic.jpg", "head of a HEIC photograph", b"\0\0\0\x18ftypheic" + bytes(50), "heic"),
    _bad("zeros.jpg", "10,000 zeros: disk space without a file", bytes(10_000), "zeros"),
    _bad("random.jpg", "random bytes", b"\xde\xad\xbe\xef" * 300, "unknown content"),
    Case("sparse.webp", "a WebP and 2 GB of nothing behind it", _sparse, "decode", "2,147,483,648 bytes"),
    # not files
    Case("link_nowhere.jpg", "link to no file", lambda p: p.symlink_to("nowhere"), "decode", "No such file"),
    Case("link_to_itself.jpg", "link to itself", lambda p: p.symlink_to(p.name), "decode", "symbolic links"),
    Case("link_to_folder.jpg", "link to a folder", lambda p: p.symlink_to("."), "list", "a folder"),
    Case("folder.jpg", "a folder", Path.mkdir, "list", "a folder"),
    Case("pipe.jpg", "a named pipe, nobody writing: opening must not wait", os.mkfifo, "decode", "a named pipe"),
    Case("socket.jpg", "a socket", _socket, "decode", "cannot be read"),
    Case(os.fsdecode(b"latin_\xe9.jpg"), "a name that is not UTF-8", _write(JPEG), "list", "not UTF-8"),
    # shapes
    Case("1x5000.png", "5000 x 1", _write(_encode(Image.new("RGB", (5000, 1)), "PNG")), "resize", "too narrow"),
)

CASES: tuple[Case, ...] = GOOD + ODD + BAD


def write(folder: Path, cases: Iterable[Case] = CASES) -> None:
    """All files into an existing, empty folder."""
    for case in cases:
        case.make(folder / case.name)
