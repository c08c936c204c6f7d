"""What ``--images`` may name: a path, an address (s3://bucket/name), a tar, a series of tars. Standard library only."""

from __future__ import annotations

import math
import os
import re
from itertools import product
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from ..errors import UsageError
from ..names import printable

TAR_SUFFIX: Final = ".tar"
MAX_TARS: Final = 1_000_000
_COMPRESSED: Final = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)\Z", re.IGNORECASE)
_BRACES: Final = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{},]*(?:,[^{},]*)+))\}")
_ADDRESS: Final = re.compile(r"\s*[a-z][a-z0-9+.:-]*://", re.IGNORECASE)
"""Chains ("simplecache::s3://") too, which are refused, and what was pasted with blanks before it."""
_ADDRESS_IN_TEXT: Final = re.compile(r"[a-z][a-z0-9+.:-]*://[^\s'\"<>]+", re.IGNORECASE)
_USER: Final = re.compile(r"[^/?#]*@|[^/?#@]*:(?!\d*(?:[/?#]|\Z)).*?@", re.DOTALL)
"""User name and password; the second way: with a / in the password, as AWS's keys have, where no port can be meant."""

Origin = str | Path
"""What ``--images`` names; an address is a str: a Path would lose one of its slashes."""


def is_address(source: Origin) -> bool:
    """Whether ``source`` is something like ``s3://bucket/name``."""
    return _ADDRESS.match(str(source)) is not None


def is_tar(source: Origin) -> bool:
    """Whether images lie inside ``source``, by its name. Raises UsageError for a compressed one."""
    if not is_address(source) and os.path.isdir(source):
        return False
    name = file_name(str(source)) if is_address(source) else str(source)
    if _COMPRESSED.search(name):
        raise UsageError(
            f"{shown(source)}: compressed, so its members cannot be read where they lie: decompress it first (to .tar)"
        )
    return name.lower().endswith(TAR_SUFFIX)


def scheme_of(address: str) -> str:
    """What stands before ``://``, in small letters."""
    return address.partition("://")[0].strip().lower()


def is_web(address: str) -> bool:
    """Whether ``address`` is a URL; what stands behind its ? and # is no part of a name there."""
    return scheme_of(address) in ("http", "https")


def file_name(address: str) -> str:
    """The last part of its path; where it has none ("memory://x.tar"), the place."""
    place, path = _place_and_path(address)
    name = (path or place).rpartition("/")[2]
    return unquote(name, errors="surrogateescape") if is_web(address) else name


def shown(source: Origin) -> str:
    """``source`` as messages and files call it: an address without what may be secret."""
    if not is_address(source):
        return printable(source)
    address = str(source)
    return printable(f"{scheme_of(address)}://{''.join(_place_and_path(address))}")


def without_secrets(text: str) -> str:
    """Others' words, printable, with the addresses in them as ``shown``: stores and servers repeat them in errors."""
    return printable(_ADDRESS_IN_TEXT.sub(lambda found: shown(found[0]), " ".join(text.split())))


def _place_and_path(address: str) -> tuple[str, str]:
    """("bucket", "/key") of an address, without user name, password, query and fragment."""
    behind = address.strip().partition("://")[2]
    behind = behind[found.end() :] if (found := _USER.match(behind)) else behind
    end = re.search(r"[?#]" if is_web(address) else r"\?[^/?]*=", behind)
    place, slash, path = behind[: end.start() if end else None].partition("/")
    return place, slash + path


def expand(source: Origin) -> list[Origin]:
    """``cc3m/{00000..00331}.tar`` -> the 332 tars, ``{a,b}/0.tar`` -> two; anything else as it is.

    Raises UsageError where the braces name too many, or what are no tars."""
    text = str(source)
    if not _BRACES.search(text) or os.path.lexists(text):
        return [source]
    literals: list[str] = []
    choices: list[list[str]] = []
    end = 0
    for braces in _BRACES.finditer(text):
        literals.append(text[end : braces.start()])
        choices.append(_choices(*braces.groups()))
        end = braces.end()
    if math.prod(map(len, choices)) > MAX_TARS:
        raise UsageError(f"--images {shown(source)}: names more than {MAX_TARS:,} tars")
    between = [*literals, text[end:]]
    names = ["".join(a + b for a, b in zip(between, (*chosen, ""), strict=True)) for chosen in product(*choices)]
    tars: list[Origin] = [name if is_address(name) else Path(name) for name in names]
    if not all(map(is_tar, tars)):
        raise UsageError(f"--images {shown(source)}: a series is one of tars; expected names that end in .tar")
    return tars


def _choices(first: str | None, last: str | None, words: str | None) -> list[str]:
    if words is not None or first is None or last is None:
        return (words or "").split(",")
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    if not int(first) <= int(last) < 10**12 or int(last) - int(first) >= MAX_TARS:
        raise UsageError(f"{{{first}..{last}}}: expected an ascending range of at most {MAX_TARS:,} numbers")
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
