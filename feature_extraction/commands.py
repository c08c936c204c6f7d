"""``xlxmert-features COMMAND ...``: every command of the kit by one name, its module loaded when it is called."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

from . import __version__
from .arguments import Parser, nearest
from .config import EXIT_USAGE
from .terminal import run_main

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "extract": ("feature_extraction.cli:main", "grid or box features of a data set or of any images"),
    "check": ("feature_extraction.cli:check", "read finished feature files bit by bit"),
    "assemble": ("feature_extraction.cli:assemble", "write a feature file from what its shares have computed"),
    "info": ("feature_extraction.tools_cli:info", "what feature files hold and what made them"),
    "subset": ("feature_extraction.tools_cli:subset", "some images of a feature file"),
    "merge": ("feature_extraction.tools_cli:merge", "several feature files as one"),
    "split": ("feature_extraction.tools_cli:split", "one feature file as several"),
    "repack": ("feature_extraction.tools_cli:repack", "a feature file compressed, or in float16"),
    "export": ("feature_extraction.tools_cli:export", "the layouts of ViLBERT, MMF, LXMERT, fga, WebDataset, ..."),
    "kmeans": ("kmeans.cli:main", "the visual vocabulary, and every image's words"),
    "paper-vocabulary": ("scripts.paper_vocabulary:main", "the paper's centroids, and every image's words by them"),
    "verify-kmeans": ("scripts.verify_kmeans.__main__:main", "own vocabulary against the paper's, or any two"),
    "download": ("scripts.download.__main__:main", "checkpoint, images, published features"),
    "verify": ("scripts.verify.__main__:main", "own feature files against the published ones"),
    "parity": ("scripts.parity:main", "both engines on the same images"),
    "report": ("scripts.report.__main__:main", "one page about all that was made"),
    "xlxmert": ("scripts.xlxmert.__main__:main", "put in place what x-lxmert and VL-T5 read"),
    "demo": ("scripts.demo:main", "everything on a few photographs"),
}
"""Name -> (module:function that takes the arguments and returns the exit code, what it does)."""


def console() -> NoReturn:
    """The console command's process."""
    run_main(main)


def main(argv: Sequence[str] | None = None) -> int:
    """The console command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: xlxmert-features COMMAND ...   (each command has its own --help)\n")
        print("\n".join(f"  {name:16} {what}" for name, (_, what) in COMMANDS.items()))
        return 0 if arguments else EXIT_USAGE
    if arguments[0] == "--version":
        print(f"xlxmert-features {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        known = nearest(arguments[0], list(COMMANDS))
        print(f"xlxmert-features: error: no command {arguments[0]!r}; {known}", file=sys.stderr)
        return EXIT_USAGE
    module, _, function = COMMANDS[arguments[0]][0].partition(":")
    Parser.called = f"xlxmert-features {arguments[0]}"
    try:
        code: int = getattr(import_module(module), function)(arguments[1:])
    finally:
        Parser.called = ""
    return code
