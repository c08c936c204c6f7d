"""The names of the detector's classes: a text file that comes with neither the checkpoint nor the features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .errors import UsageError
from .names import printable

NAMES_FILE: Final = "objects_vocab.txt"
"""The class names of Visual Genome's 1600 classes, as bottom-up-attention calls the file."""
MAX_NAMES_BYTES: Final = 1 << 20

Names = str | os.PathLike[str] | Sequence[str]
"""Names of the classes, or the file that has them."""


def read_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Class names from a text file, one a line, line 0 is class 0 of ``obj_id``; of synonyms (a,b) the first.

    Raises UsageError."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_NAMES_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"names of classes: {printable(path)}: {error.strerror}; expected a text file, a name a line"
        ) from error
    if len(content) > MAX_NAMES_BYTES or b"\0" in content:
        raise UsageError(f"names of classes: {printable(path)} is no text file of a name a line")
    lines = content.decode("utf-8", "replace").rstrip("\n").split("\n")
    return tuple(printable(line.split(",")[0].strip()) for line in lines)


def class_names(names: Names) -> tuple[str, ...]:
    """The names themselves, or those of a file. Raises UsageError."""
    return read_names(names) if isinstance(names, str | os.PathLike) else tuple(names)


def names_in(*folders: Path) -> tuple[str, ...] | None:
    """The class names of the first folder that has a ``NAMES_FILE``; None where none has."""
    found = next((folder / NAMES_FILE for folder in folders if (folder / NAMES_FILE).is_file()), None)
    return None if found is None else read_names(found)
