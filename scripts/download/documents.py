"""Whether a file is one JSON document from its first byte to its last, in bounded memory. Standard library only.

The largest that is downloaded is a list of 180 MB, which takes gigabytes as Python objects: a list is read element by
element, each of a bounded length; anything else has to be small.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, TextIO

BLOCK: Final = 1 << 20
LONGEST: Final = 32 << 20
"""Characters of one element of a list, or of a document that is none."""
SPACE: Final = " \t\n\r"
OF_NUMBERS: Final = "0123456789.eE+-"


def not_a_document(path: Path) -> str | None:
    """Why the file is no JSON document, in a few words without its contents; None if it is one. Raises OSError."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = _Text(file)
            if text.next() == "[":
                text.skip()
                _read_list(text)
            else:
                text.value()
            if text.next():
                return f"something follows at character {text.at:,}"
    except UnicodeDecodeError as error:
        return f"it is no UTF-8 ({error.reason})"
    except (ValueError, RecursionError) as error:
        return " ".join(str(error).split()) or "nested too deep"
    return None


def _read_list(text: _Text) -> None:
    """All elements of a list whose bracket has been read, and the bracket that closes it."""
    if text.next() == "]":
        text.skip()
        return
    while True:
        text.value()
        mark = text.next()
        if mark not in (",", "]"):
            raise ValueError(f"a comma is missing at character {text.at:,}" if mark else "its end is missing")
        text.skip()
        if mark == "]":
            return


class _Text:
    """A file of which a window is held."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._window, self._from = "", 0
        self._whole = False
        """Whether the window reaches to the end of the file."""
        self._decode = json.JSONDecoder().raw_decode
        self.at = 0
        """Character of the file that comes next."""

    def next(self) -> str:
        """The next character that is no space, which stays; "" at the end."""
        while True:
            for position in range(self.at - self._from, len(self._window)):
                if self._window[position] not in SPACE:
                    self.at = self._from + position
                    return self._window[position]
            self.at = self._from + len(self._window)
            if not self._more():
                return ""

    def skip(self) -> None:
        self.at += 1

    def value(self) -> None:
        """Read one value. Raises ValueError if there is none, or a longer one than is read."""
        self.next()
        while True:
            try:
                _, end = self._decode(self._window, self.at - self._from)
                if self._whole or self._window[end : end + 1] not in OF_NUMBERS:  # which go on behind the window
                    self.at = self._from + end
                    return
            except ValueError:
                if self._whole:
                    raise ValueError(f"no value at character {self.at:,}, or its end is missing") from None
            if len(self._window) - (self.at - self._from) > LONGEST:
                raise ValueError(f"what begins at character {self.at:,} is no value of at most {LONGEST:,} characters")
            self._more()

    def _more(self) -> bool:
        """Let go of what has been read, and read as much again as is held; False at the end of the file."""
        self._window, self._from = self._window[self.at - self._from :], self.at
        read = self._file.read(max(BLOCK, len(self._window)))
        self._window += read
        self._whole = not read
        return bool(read)
