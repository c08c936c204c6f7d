"""A command at its terminal: where nobody reads what it prints any more (``| head``), it ends without a word, as other
Unix tools do. Standard library only.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

EXIT_UNREAD: Final = 128 + signal.SIGPIPE
"""What a shell says of a program that SIGPIPE ended. The signal itself stays ignored: it would also kill where a server
closes its connection."""


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command as the last act of its process, which exits with what it returns."""
    sys.stdout, sys.stderr = _ending_unread(sys.stdout), _ending_unread(sys.stderr)
    try:
        code = main()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    sys.exit(code)


def take_any_locale() -> None:
    """Let a terminal without the letters of a name show them escaped: that must not end the run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Output(io.TextIOWrapper):
    """A standard stream whose closed pipe ends the program, by an exception that is no Exception: everything on the way
    out lets go of its files and locks, nothing takes it for an error of its own."""

    def write(self, text: str) -> int:
        with _unread(self):
            return super().write(text)

    def flush(self) -> None:
        with _unread(self):
            super().flush()


@contextmanager
def _unread(stream: io.TextIOWrapper) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for what is still in the buffers
        raise SystemExit(EXIT_UNREAD) from None


def _ending_unread(stream: Any) -> Any:
    """The stream, watched; as it is where it is none of the system's (closed, or a program's own)."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return _Output(
        stream.buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )  # fmt: skip
