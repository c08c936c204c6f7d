"""Command lines that answer a mistake in one line, with the nearest right word. Standard library only."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from .config import EXIT_USAGE
from .errors import UsageError


def meant(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant, if there is one."""
    close = difflib.get_close_matches(word.lower(), [k.lower() for k in known], 1, 0.5)
    return next((k for k in known if close and k.lower() == close[0]), None)


def nearest(word: str, known: Sequence[str]) -> str:
    """The end of a message: the known words, and the one that was probably meant."""
    close = meant(word, known)
    return f"known: {', '.join(known)}" + (f"; did you mean {close!r}?" if close else "")


def nearest_of_many(word: str, known: Sequence[str], listed: str) -> str:
    """The same where the known words are too many for a line: ``listed`` says where they stand."""
    close = meant(word, known)
    return f"did you mean {close!r}?" if close else listed


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    called: ClassVar[str] = ""
    """What the user has typed to come here, where that is not the module's own name: ``xlxmert-features check``. It
    takes the place of ``prog``, in the examples too."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        if self.called:
            texts = {key: settings[key] for key in ("description", "epilog") if settings.get(key)}
            settings |= {key: text.replace(settings["prog"], self.called) for key, text in texts.items()}
            settings["prog"] = self.called
        super().__init__(allow_abbrev=settings.pop("allow_abbrev", True), **settings)

    def error(self, message: str) -> NoReturn:
        """Print the mistake, the nearest right word and where to read more; exit with 2."""
        choice = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message, re.S)
        if choice:
            known = [word.strip("' ") for word in choice[2].split(",")]
            message = f"{message[: choice.start()]}no {choice[1]!r}; {nearest(choice[1], known)}"
        unknown = re.fullmatch(r"unrecognized arguments: (\S+).*", message, re.S)
        if unknown and unknown[1].startswith("-"):
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            close = meant(unknown[1].partition("=")[0], flags)
            message = f"no flag {unknown[1]}" + (f"; did you mean {close}?" if close else "")
        elif unknown:  # a shell makes several words of one
            message = (
                f"unexpected {unknown[1]}: values stand after their flags; quote a name with blanks, and a series "
                "('cc3m/{00000..00331}.tar')"
            )
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def typed(command: str) -> str:
    """What is typed for another command about feature files, in the way that this one was called."""
    program = Parser.called.partition(" ")[0] or "python -m feature_extraction"
    return f"{program} {command}"


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def share(text: str) -> tuple[int, int]:
    """``i/n`` -> (i - 1, n)."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form i/n, for example 1/4") from None
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"{text!r}: i counts from 1 to n")
    return index - 1, count


def choose(what: str, word: str, known: Sequence[str]) -> str:
    """``word`` if it is known. Raises UsageError with the nearest right one."""
    if word not in known:
        raise UsageError(f"no {what} {word!r}; {nearest(word, known)}")
    return word
