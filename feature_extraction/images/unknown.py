"""What a file is that Pillow cannot open: the reason that its user is given."""

from __future__ import annotations

from typing import BinaryIO, Final

from . import jpeg, tiff

# first bytes, or the type of a RIFF or ISO container -> name; lower case below, compared so
_IMAGE_HEADS: Final = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP": "JPEG 2000",
    b"WEBP": "WebP",
    b"avif": "AVIF",
    b"P5": "PPM",
    b"P6": "PPM",
}
_OTHER_HEADS: Final = {
    b"<!doctype html": "an HTML page, saved under an image's name",
    b"<html": "an HTML page, saved under an image's name",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML document",
    b"%pdf": "a PDF document",
    b"%!ps": "a PostScript (EPS) document; it would be a program to run",
    b"\xc5\xd0\xd3\xc6": "an EPS document; it would be a program to run",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    b"pk\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"8bps": "a Photoshop document",
    b"\0\0\1\0": "an ICO icon",
    b"{": "JSON text",
}


def what_it_is(file: BinaryIO) -> str:
    """The reason why this file is not read."""
    file.seek(0)
    head = file.read(1024)
    if head.startswith((b"II", b"MM")) and (reason := tiff.reason_why_unreadable(file)):
        return reason
    if head.startswith(b"\xff\xd8\xff") and (reason := jpeg.reason_why_unreadable(file)):
        return reason
    return _by_its_head(head)


def _by_its_head(head: bytes) -> str:
    container = head[8:12] if head[:4] == b"RIFF" or head[4:8] == b"ftyp" else b""
    for magic, name in _IMAGE_HEADS.items():
        if magic == container or head.startswith(magic):
            return f"{name} file whose header cannot be read: truncated or damaged"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()  # byte order mark of UTF-8
    if start.startswith(b"<?xml") and b"<svg" in start:
        start = b"<svg"
    for magic, what in _OTHER_HEADS.items():
        if start.startswith(magic) or head.startswith(magic):
            return f"not an image that can be read: {what}"
    if head[257:262] == b"ustar":
        return "not an image that can be read: a tar; name it itself as the source of images"
    if container:
        return f"not an image that can be read: a container of type {container.decode('ascii', 'replace')!r}"
    if not any(head):
        return f"not an image: the first {len(head)} bytes are zeros"
    text = head.decode("utf-8", "replace")
    if text.count("\ufffd") <= 1 and all(c.isprintable() or c.isspace() for c in text):  # 1: cut at the end
        return "not an image: a text file"
    return f"not an image: unknown content, first bytes {head[:8].hex(' ')}"
