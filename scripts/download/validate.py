"""What a file of a kind looks like: its first bytes, its end, how large it may be. Standard library only."""

from __future__ import annotations

from pathlib import Path
from typing import Final

HEAD: Final = 16
"""So many first bytes decide."""
MAGIC: Final = {
    ".h5": (b"\x89HDF\r\n\x1a\n",),
    ".zip": (b"PK\x03\x04",),
    ".pth": (b"PK\x03\x04", b"\x80"),  # PyTorch's zip format, or the pickle of its first years
}
"""How files of a kind begin; a proxy's error page, sent with status 200, does not begin so."""
MOST_BYTES: Final = {
    ".yaml": 1 << 20, ".txt": 1 << 20, ".json": 2 * 10**9, ".pth": 8 * 10**9, ".zip": 60 * 10**9, ".h5": 200 * 10**9
}  # fmt: skip
"""Well above what is published (the largest: 1 GB, 21 GB, 78 GB): a server without end does not fill the disk."""
TEXTS: Final = {".yaml": "configuration", ".txt": "list of names"}
"""Texts have no first bytes of their own, but a page, an archive and a program have."""
MOST_OTHER: Final = 10**9


def cap(suffix: str) -> int:
    """The most bytes that a file of a kind may have."""
    return MOST_BYTES.get(suffix, MOST_OTHER)


def announced_too_much(suffix: str, size: int) -> str | None:
    if size > cap(suffix):
        return f"the server announces {size} bytes, a {suffix} file has at most {cap(suffix)} here"
    return None


def not_of_its_kind(suffix: str, head: bytes) -> str | None:
    """Why a file that begins so is none of its kind, or None."""
    starts = MAGIC.get(suffix)
    if starts and not head.startswith(starts):
        return f"it is no {suffix} file, it begins with {head[:HEAD]!r}: an error page, perhaps"
    if suffix in TEXTS and (head.lstrip().startswith(b"<") or b"\0" in head or head.startswith(b"\x1f\x8b")):
        return f"it is no {TEXTS[suffix]}, it begins with {head[:HEAD]!r}: an error page, perhaps"
    if suffix == ".json" and head.lstrip()[:1] not in (b"[", b"{"):
        return f"it is no JSON document, it begins with {head[:HEAD]!r}: an error page, perhaps"
    return None


def is_cut_short(path: Path, suffix: str) -> bool:
    """Whether the end that a whole file of its kind has is missing; a look for servers that announce no length."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(48)
        if suffix == ".h5" and len(head) == 48:
            # the superblock says where the file ends: behind three 8-byte addresses in version 0, two in 2 and 3
            at = 40 if head[8] == 0 else 28 if head[8] in (2, 3) else None
            offsets = head[13] if head[8] == 0 else head[9]
            return at is not None and offsets == 8 and size < int.from_bytes(head[at : at + 8], "little")
        if head.startswith(b"PK\x03\x04"):
            file.seek(max(0, size - (1 << 16) - 22))
            return b"PK\x05\x06" not in file.read()
    return False
