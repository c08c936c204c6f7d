"""Several feature files, one after the other: one that fails does not keep the others from being made, and a table at
the end says what became of each. Standard library only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from feature_extraction import catalog
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING, EXIT_SOME_FAILED
from feature_extraction.errors import KitError
from feature_extraction.terminal import signals_to

from .checks import last_error
from .jobs import Command, Launcher
from .settings import CHECKOUT

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LAST_LINES: Final = 40
"""Of what a job prints on its error output, kept to find the reason of its end."""


@dataclass(frozen=True)
class Ending:
    """What became of one file."""

    made: bool
    text: str


def run_all(here: Launcher, found: Mapping[str, Callable[[], Command]]) -> int:
    """Run every command and print the table. 0: every file is there, though images of it may have failed; 1: one is
    missing; 130 or 143: stopped."""
    endings: dict[str, Ending] = {}
    stopped_by: list[int] = []
    for name, command in found.items():
        if stopped_by:
            endings[name] = Ending(False, "missing: not begun")
            continue
        print(f"\n== {name} ({len(endings) + 1} of {len(found)})", flush=True)
        try:
            endings[name] = _run(here, name, command(), stopped_by)
        except KitError as error:
            print(f"launch: {error}", file=sys.stderr, flush=True)
            endings[name] = Ending(False, f"missing: {error}")
    print("\n" + table(here, endings), flush=True)
    if stopped_by:
        return 128 + stopped_by[0]
    return EXIT_ALL if all(e.made for e in endings.values()) else EXIT_NOTHING


def table(here: Launcher, endings: Mapping[str, Ending]) -> str:
    """One line for each file: its path below the data folder, and its state."""
    files = {f.name: f for f in catalog.feature_files()}
    rows = [(str(files[name].path(Path())), ending.text) for name, ending in endings.items()]
    width = max(len(path) for path, _ in rows)
    made = sum(e.made for e in endings.values())
    lines = [f"{path:<{width}}  {text}" for path, text in rows]
    return "\n".join([*lines, f"{made} of {len(rows)} files made, in {here.settings.datasets}"])


def _run(here: Launcher, name: str, command: Command, stopped_by: list[int]) -> Ending:
    if command.says:
        print(command.says, flush=True)
    begun = time.time()
    code, said = run(command, stopped_by)
    file = next(f for f in catalog.feature_files() if f.name == name)
    output = file.path(here.settings.datasets)
    return ending(code, said, output, begun, stopped=bool(stopped_by))


def ending(code: int, said: str, output: Path, begun: float, *, stopped: bool) -> Ending:
    """What an exit code means for the file. torchrun knows one code for every failure: what the job left tells more."""
    report = output.with_name(output.name.removesuffix(".h5") + ".report.json")
    fresh = report.is_file() and report.stat().st_mtime >= begun - 2 and output.is_file()
    if code == EXIT_ALL:
        return Ending(True, "made")
    if code == EXIT_SOME_FAILED or (code == EXIT_NOTHING and fresh and not stopped):
        return Ending(True, f"made, {failed_images(report)} failed images: {report.name}")
    if stopped:
        return Ending(False, "missing: stopped; the same command goes on")
    why = said or f"exit code {code}"
    return Ending(False, f"an earlier file is there, this run failed: {why}" if output.is_file() else f"missing: {why}")


def failed_images(report: Path) -> str:
    try:
        return f"{len(json.loads(report.read_text(encoding='utf-8'))['failed']):,}"
    except (OSError, ValueError, KeyError, TypeError):
        return "some"


def run(command: Command, stopped_by: list[int]) -> tuple[int, str]:
    """(exit code, reason as it was printed) of a command. Signals that end go on to it, and are noted."""
    process = subprocess.Popen(
        list(command.argv),
        cwd=CHECKOUT / command.folder,
        env={**os.environ, **command.environment},
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C reaches it once, through the handler below
    )
    assert process.stderr is not None  # as asked for
    last: deque[str] = deque(maxlen=LAST_LINES)
    reader = threading.Thread(target=_pass_on, args=(process.stderr, last), daemon=True)
    reader.start()

    def stop(number: int, _frame: object) -> None:
        stopped_by.append(number)
        process.send_signal(number)

    with signals_to(stop, *FORWARDED):
        code = process.wait()
    reader.join(timeout=5)
    return code, last_error(list(last))


def _pass_on(stream: IO[bytes], last: deque[str]) -> None:
    """Copy a job's error output to ours, and keep its last lines."""
    for line in stream:
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
        last.append(line.decode(errors="replace"))
