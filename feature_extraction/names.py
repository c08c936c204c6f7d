"""Names from outside (files, ids, settings) as they may be shown: no control characters, whatever the locale.

Standard library only.
"""

from __future__ import annotations

import json
import os
import unicodedata
from typing import Final

_JOINERS: Final = "\u200c\u200d"
"""Formatting characters that words and emoji are written with; the others turn or hide text."""
_HIDDEN: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of Unicode: control, formatting, surrogates, line and paragraph separators."""


def printable(name: str | bytes | os.PathLike[str]) -> str:
    r"""``name`` in one line that moves nothing on a terminal and can be encoded as UTF-8.

    Bytes that are not UTF-8 and control characters are written ``\xNN`` (``\uNNNN`` above 255). A path or bytes are
    read as UTF-8, as Linux desktops and HDF5 keys are, not by the locale; text is taken as it is, but for the
    surrogates that Python puts in place of bytes.
    """
    if isinstance(name, str):
        if name.isprintable():
            return name
        try:
            encoded = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a pair of UTF-16: no byte of a file name
            encoded = name.encode("utf-8", "backslashreplace")
    else:
        encoded = os.fsencode(name)
    text = encoded.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(map(_shown, text))


def counted(images: int) -> str:
    """``1 image``, ``82,783 images``."""
    return "1 image" if images == 1 else f"{images:,} images"


def json_printable(text: str) -> str:
    """JSON text of the same meaning that moves nothing on a terminal: what ``printable`` would hide is written as an
    escape of JSON's own, so that names read back are the names."""
    return "".join(char if char == "\n" or not _is_hidden(char) else json.dumps(char)[1:-1] for char in text)


def _is_hidden(char: str) -> bool:
    return not char.isprintable() and unicodedata.category(char) in _HIDDEN and char not in _JOINERS


def _shown(char: str) -> str:
    if not _is_hidden(char):
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
