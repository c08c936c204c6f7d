"""What a row of the table is: one path that another program reads, and how it comes to be there.

Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

DATASETS: Final = ""
"""As the source of a link: the folder of the data itself."""


@dataclass(frozen=True)
class Link:
    """A relative link to the first of ``sources`` (below the folder of the data) that is there."""

    sources: tuple[str, ...]


@dataclass(frozen=True)
class Copy:
    """A copy of ``source`` (below the folder of the data)."""

    source: str


@dataclass(frozen=True)
class Clipped:
    """A box file made of ``sources``, the first that has an image giving it, with boxes clipped to the image."""

    sources: tuple[str, ...]
    """Below the folder of the data; those that are there are taken."""
    only: str = ""
    """An annotation file below the folder of the data: only the images that it names."""


@dataclass(frozen=True)
class Row:
    """One path that a program reads."""

    path: str
    readers: tuple[str, ...]
    """Which programs read it."""
    get: str
    """What puts it, or what it is made of, there: a command or an address."""
    how: Link | Copy | Clipped | None = None
    """How it is made here; None: it is given."""
    below: Literal["datasets", "checkout"] = "datasets"
    folder: bool = False
    """Whether it is a folder."""


@dataclass(frozen=True)
class Reader:
    """A program that reads our files, and all its paths: those that others are made of first."""

    name: str
    mark: str
    """A folder by which its checkout is recognised."""
    rows: tuple[Row, ...]

    @property
    def programs(self) -> tuple[str, ...]:
        """Its programs, in the order in which the rows name them."""
        return tuple(dict.fromkeys(program for row in self.rows for program in row.readers))


def linked(path: str, sources: str | tuple[str, ...], readers: tuple[str, ...], get: str) -> Row:
    """A row for a link."""
    return Row(path, readers, get, Link((sources,) if isinstance(sources, str) else sources))
