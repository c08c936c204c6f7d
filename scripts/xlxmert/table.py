"""The table as it is printed: every path, then every program. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from feature_extraction.names import printable

from .place import Found

MOST_WIDE: Final = 60
"""Characters of the column of paths; longer ones push what follows aside."""
MOST_STEPS: Final = 4
"""So many of the things to do are named for one program."""


def table(found: Sequence[Found], checkout: str) -> Iterator[str]:
    """One line for each path. ``checkout``: what stands for the folder of the program that reads."""
    cells = [
        (one.state, readers_of(one), ("" if one.row.below == "datasets" else f"{checkout}/") + one.row.path, one.note)
        for one in found
    ]
    heads = ("", "read by", "path", "")
    widths = [max(len(row[column]) for row in [heads, *cells]) for column in range(2)]
    widest = min(MOST_WIDE, max((len(row[2]) for row in cells if row[3]), default=0))
    for state, readers, path, note in [heads, *cells]:
        left = f"{state:{widths[0]}}  {readers:{widths[1]}}  "
        yield printable((left + (f"{path:{widest}}  {note}" if note else path)).rstrip())


def readers_of(found: Found) -> str:
    """``vqa, pretraining-grid``: a program that reads a path with grids and with boxes is named once."""
    readers = list(found.row.readers)
    both = {name.removesuffix("-grid") for name in readers if name.removesuffix("-grid") + "-boxes" in readers}
    names = [name.rpartition("-")[0] if name.rpartition("-")[0] in both else name for name in readers]
    return ", ".join(dict.fromkeys(names))


def summary(found: Sequence[Found], programs: Sequence[str]) -> Iterator[str]:
    """One line for each program: whether all that it reads is there, and what is to be done."""
    width = max(map(len, programs))
    for program in programs:
        reads = [one for one in found if program in one.row.readers]
        lacking = [one for one in reads if not one.there]
        steps = list(dict.fromkeys("this without --check" if one.state == "to make" else one.note for one in lacking))
        more = f"; {len(steps) - MOST_STEPS} more" if len(steps) > MOST_STEPS else ""
        todo = f": {'; '.join(steps[:MOST_STEPS])}{more}" if lacking else ""
        yield printable(f"{program:{width}}  {len(reads) - len(lacking)} of {len(reads)} there{todo}")
