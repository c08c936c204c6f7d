"""A command at its terminal. Where nobody reads what it prints any more (``| head``), it ends without a word, as other
Unix tools do; a package that is missing is one line, a Ctrl-C one word; a signal that its caller ignores (``nohup``) it
ignores too. Standard library only.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn

from .config import EXIT_NOTHING, EXIT_USAGE
from .errors import UsageError
from .places import CHECKOUT, IS_CHECKOUT

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
EXIT_UNREAD: Final = 128 + signal.SIGPIPE
"""What a shell says of a program that SIGPIPE ended. The signal itself stays ignored: it would also kill where a server
closes its connection."""
OURS: Final = ("feature_extraction", "kmeans", "scripts")
PACKAGES: Final = {
    "cv2": "opencv-python-headless", "faiss": "faiss-cpu", "PIL": "pillow", "skimage": "scikit-image", "yaml": "PyYAML"
}  # fmt: skip
"""What is imported -> what pip calls it, where these differ."""


def exit_code_of(error: Exception) -> int:
    """Of a command that ends with this error: ``EXIT_USAGE`` where the command line is wrong, wherever that is seen."""
    return EXIT_USAGE if isinstance(error, UsageError) else EXIT_NOTHING


def run_main(main: Callable[[], int]) -> NoReturn:
    """Run a command as the last act of its process, which exits with what it returns."""
    _open_what_is_closed()
    sys.stdout, sys.stderr = _ending_unread(sys.stdout), _ending_unread(sys.stderr)
    try:
        code = main()
    except ImportError as error:
        if (told := lacking(error)) is None:
            raise
        print(told, file=sys.stderr)
        code = EXIT_NOTHING
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    sys.exit(code)


def lacking(error: ImportError) -> str | None:
    """One line about a package that is missing or cannot be loaded, and what to do; None: it is one of our own."""
    name = (error.name or "").partition(".")[0]
    if name in OURS:
        return None
    what = f"has no {name}" if isinstance(error, ModuleNotFoundError) else f"cannot load {name}: {error}"
    way_out = f"pip install {PACKAGES.get(name, name)}"
    if IS_CHECKOUT:
        way_out = f"`make setup` installs all into {CHECKOUT / '.venv'}; then start it with .venv/bin/python instead"
    return f"error: this Python ({sys.executable}) {what}; {way_out}"


def tell_lacking(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """``sys.excepthook`` of a program whose packages are imported before it says anything itself."""
    told = lacking(error) if isinstance(error, ImportError) else None
    if told is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(told, file=sys.stderr)


@contextmanager
def signals_to(handler: Callable[[int, FrameType | None], None], *numbers: int) -> Iterator[None]:
    """Handle these signals, but for those that are ignored already: SIGHUP by ``nohup``, SIGINT in a shell script's
    background."""
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _open_what_is_closed() -> None:
    """Standard streams that the caller has closed (``>&-``) lead nowhere. Left closed, they could not be flushed, and
    the next files opened, journals of features, would get their numbers, which libraries print to."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the stream's own
            os.set_inheritable(number, True)
            stream = os.fdopen(number, mode, encoding="utf-8")
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


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
    """The stream, watched, and without an end for letters that its locale lacks; as it is where it is none of the
    system's (closed, or a program's own)."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    return _Output(
        stream.buffer, encoding=stream.encoding, errors="backslashreplace", line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )  # fmt: skip
