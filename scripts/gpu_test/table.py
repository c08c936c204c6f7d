"""Rows of what was tried, under a time budget: one Markdown table and one JSON file, rewritten after every row."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

PASS: Final = "pass"
FAIL: Final = "fail"
NOT_RUN: Final = "not run"


class NotRun(Exception):
    """A row that cannot be had here; the message says why."""


@dataclass(frozen=True)
class Finding:
    """What a row found."""

    text: str
    """For people, one line."""
    wrong: tuple[str, ...] = ()
    """What is out of bounds; the row fails where there is anything."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """For programs."""


@dataclass(frozen=True)
class Row:
    name: str
    result: str
    text: str
    seconds: float
    data: Mapping[str, Any] = field(default_factory=dict)


class Table:
    """Runs rows and keeps what they found; an error in one of them is a row that failed, never the end."""

    def __init__(self, folder: Path, title: str, minutes: float) -> None:
        self.folder, self.title = folder, title
        self.rows: list[Row] = []
        self._end = time.monotonic() + 60 * minutes
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def seconds_left(self) -> float:
        return self._end - time.monotonic()

    def run(self, name: str, work: Callable[[], Finding], least: float = 0) -> None:
        """Run one row, unless fewer than ``least`` seconds of the budget are left."""
        if self.seconds_left < least:
            left = max(0, self.seconds_left)
            self._add(Row(name, NOT_RUN, f"the time budget is spent: {left:.0f} s left, {least:.0f} s needed", 0))
            return
        print(f"... {name}", flush=True)
        start = time.monotonic()
        try:
            found = work()
            result, text, data = (FAIL if found.wrong else PASS), found.text, dict(found.data)
            if found.wrong:
                text = f"{'; '.join(found.wrong)}. {text}"
        except NotRun as reason:
            result, text, data = NOT_RUN, str(reason), {}
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = " ".join(str(error).split())[:300]
            result = FAIL
            text = f"{type(error).__name__}: {message} ({Path(where.filename).name}:{where.lineno})"
            data = {"traceback": traceback.format_exc()}
        self._add(Row(name, result, text, round(time.monotonic() - start, 1), data))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print(f"{row.result.upper():8s} {row.name} ({row.seconds:.1f} s): {row.text}", flush=True)
        self.write()

    @property
    def failed(self) -> list[str]:
        return [row.name for row in self.rows if row.result == FAIL]

    def markdown(self) -> str:
        counts = ", ".join(f"{sum(row.result == r for row in self.rows)} {r}" for r in (PASS, FAIL, NOT_RUN))
        lines = [f"{self.title}", "", f"{counts}.", "", "| row | result | what was found |", "|---|---|---|"]
        lines += [f"| {row.name} | {row.result} | {row.text.replace('|', '/')} |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def write(self) -> None:
        """table.md and results.json, as far as the rows are."""
        (self.folder / "table.md").write_text(self.markdown(), encoding="utf-8")
        document = {"title": self.title, "rows": [asdict(row) for row in self.rows]}
        (self.folder / "results.json").write_text(json.dumps(document, indent=1, default=float), encoding="utf-8")
