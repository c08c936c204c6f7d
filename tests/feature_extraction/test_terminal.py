"""Where nobody reads what a command prints any more, it ends without a word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from helpers.common import ROOT

from feature_extraction.terminal import EXIT_UNREAD


def unread(*arguments: str, stream: str = "stdout") -> tuple[int, str]:
    """Exit code and what the other stream says, of a command whose one stream is a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: write}
    try:
        done = subprocess.run([sys.executable, *arguments], check=False, cwd=ROOT, text=True, timeout=120, **streams)
    finally:
        os.close(write)
    return done.returncode, (done.stderr if stream == "stdout" else done.stdout)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "scripts.launch", "--list"),
        ("-m", "scripts.launch", "--dry-run", "extract-all"),
        ("-m", "scripts.download", "--help"),
        ("-m", "feature_extraction", "--help"),
        ("-c", "from feature_extraction.commands import console; console()", "--help"),
        ("feature_extraction/coco_extract_grid_feature.py", "--help"),
        ("kmeans/run_kmeans.py", "--help"),
    ],
    ids=" ".join,
)
def test_a_closed_pipe_ends_a_command_quietly(arguments: tuple[str, ...]) -> None:
    assert unread(*arguments) == (EXIT_UNREAD, "")


def test_make_help_may_be_cut_off() -> None:
    done = subprocess.run(
        ["bash", "-c", "make --no-print-directory help | true; exit ${PIPESTATUS[0]}"],
        check=False, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_that_nobody_reads_ends_it_too() -> None:
    assert unread("-m", "scripts.launch", "nothing", stream="stderr") == (EXIT_UNREAD, "")


def test_what_it_held_is_let_go_of() -> None:
    program = (
        "import sys\n"
        "from feature_extraction.terminal import run_main\n"
        "def main():\n"
        "    try:\n"
        "        print('x' * 100_000)\n"
        "    except Exception:\n"
        "        print('taken for an error', file=sys.stderr)\n"
        "    finally:\n"
        "        print('let go', file=sys.stderr)\n"
        "run_main(main)\n"
    )
    assert unread("-c", program) == (EXIT_UNREAD, "let go\n")


@pytest.mark.parametrize(("code", "said"), [("main = lambda: print('a') or 3", 3), ("main = lambda: sys.exit(2)", 2)])
def test_otherwise_the_exit_code_is_the_commands(code: str, said: int) -> None:
    program = f"import sys\nfrom feature_extraction.terminal import run_main\n{code}\nrun_main(main)"
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert done.returncode == said
