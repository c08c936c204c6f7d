"""What images are called in an export, and which names cannot be used: an id is a name from outside.

Every id is looked at before anything is written, so that none can leave OUT, break a line or hide another image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ..errors import StoreError, UsageError, reason
from ..names import printable
from ..storage import guard
from ..storage.bounded import read_bytes
from .spec import Keys

LONGEST_FILE_NAME: Final = 255
"""Bytes, of the usual file systems."""
MOST_LIST: Final = 1 << 28
"""Bytes of a list of ids."""
NUMBER: Final = re.compile(r"(?:.*_)?([0-9]{1,18})", re.S)
"""An id that is a number, or whose last part behind a "_" is one."""


def read_ids(path: Path) -> list[str]:
    """The ids in a list, one a line, empty lines aside. Raises UsageError where it cannot be read, or one is twice."""
    try:
        lines = read_bytes(path, MOST_LIST).decode("utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}, the list of ids, cannot be read: {_why_no_list(error)}") from error
    ids = [line for line in (line.removesuffix("\r") for line in lines) if line]
    seen: set[str] = set()
    for image_id in ids:
        if image_id in seen:
            raise UsageError(f"{path} names {guard.shown(image_id)} twice: name every image once")
        seen.add(image_id)
    if not ids:
        raise UsageError(f"{path} names no image: one id a line")
    return ids


def _why_no_list(error: OSError | ValueError) -> str:
    return "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else printable(reason(error))


def keys_of(ids: Sequence[str], rule: Keys) -> list[str]:
    """What each image is called. Raises StoreError where an id has no number, or two have the same."""
    if rule == "id":
        return list(ids)
    found: dict[str, str] = {}
    for image_id in ids:
        number = NUMBER.fullmatch(image_id)
        if number is None:
            raise StoreError(f"image {guard.shown(image_id)} does not end with a number behind a '_': use --keys id")
        key = str(int(number[1]))
        if key in found:
            raise StoreError(
                f"images {guard.shown(found[key])} and {guard.shown(image_id)} have one number, {key}: use --keys id"
            )
        found[key] = image_id
    return list(found)


def refuse_unfit(keys: Sequence[str], why_unfit: Callable[[str], str], form: str) -> None:
    """Raise StoreError where ``why_unfit`` gives a reason for a name."""
    unfit = [(key, why) for key in keys if (why := why_unfit(key))]
    if unfit:
        more = f" ({len(unfit) - 1:,} more like it)" if len(unfit) > 1 else ""
        raise StoreError(
            f"image {guard.shown(unfit[0][0])}{more} cannot be written as {form}: {unfit[0][1]}. Take another format, "
            "or leave it out (--ids); nothing was written"
        )


def why_no_file(key: str, ending: str) -> str:
    """Why ``key`` cannot be the beginning of a file's name in OUT; empty if it can."""
    if "/" in key or "\0" in key or key in ("", ".", ".."):
        return "it is no name of a file"
    if key.startswith("."):
        return "its file would be a hidden one"
    if any(char < " " or char == "\x7f" for char in key):
        return "it holds control characters"
    if len((key + ending).encode()) > LONGEST_FILE_NAME:
        return f"the name of its file would be longer than {LONGEST_FILE_NAME} bytes"
    return ""
