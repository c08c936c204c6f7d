"""``make setup``: a Python environment with the pinned versions, and where the installation is.

    python3 -m scripts.launch.setup .venv

One line for each package instead of pip's own pages; everything that pip says is in FOLDER/setup.log.
Standard library only.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import IO, Final

from feature_extraction.terminal import run_main

from .checks import last_error
from .settings import CHECKOUT

LAST_LINES: Final = 15
"""Of pip's output, shown when it fails."""


class Progress:
    """pip's lines -> one line for each package, and one for each download that takes a while."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.seen: set[str] = set()

    def line(self, said: str) -> str | None:
        """What to show for one line of pip's; None: nothing."""
        # a package of an index, or a wheel that lies in a folder
        if package := re.match(r"Collecting ([\w.-]+)|Processing \S*?([\w.]+)-[^/ ]+\.whl", said):
            name = (package[1] or package[2]).lower().replace("_", "-")
            if name in self.seen:
                return None
            self.seen.add(name)
            return f"setup: package {len(self.seen)} of at most {max(self.total, len(self.seen))}: {name}"
        if download := re.search(r"Downloading (?:\S*/)?([\w.]+-[\w.]+)\S* \((\d+(?:\.\d+)? [MG]B)\)", said):
            return f"setup:     downloading {download[1]}, {download[2]}"
        if said.startswith("Installing collected packages"):
            return "setup: installing them, which takes a minute"
        return None


def install(command: Sequence[str], progress: Progress, log: IO[str]) -> list[str]:
    """Run pip; empty, or the last lines of what it said when it failed."""
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    assert process.stdout is not None  # as asked for
    said: list[str] = []
    for line in process.stdout:
        log.write(line)
        said.append(line.rstrip())
        if shown := progress.line(line.strip()):
            print(shown, flush=True)
    return said[-LAST_LINES:] or ["pip said nothing"] if process.wait() else []


def main(argv: Sequence[str] | None = None) -> int:
    folder = CHECKOUT / (sys.argv[1:] if argv is None else argv)[0]
    print(f"setup: a Python {sys.version_info[0]}.{sys.version_info[1]} environment in {folder}", flush=True)
    if find_spec("ensurepip") is None:  # Debian and Ubuntu keep it in a package of its own
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        print(
            f"setup: {sys.executable} has no ensurepip: apt-get install {package}, or PYTHON=another", file=sys.stderr
        )
        return 1
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        why = last_error((made.stderr or made.stdout).splitlines()) or "it said nothing"
        print(f"setup: {sys.executable} makes no environment: {why}: mend that, or PYTHON=another", file=sys.stderr)
        return 1
    constraints = CHECKOUT / "constraints.txt"
    total = sum(1 for line in constraints.read_text(encoding="utf-8").splitlines() if "==" in line)
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off"]
    command += ["--constraint", str(constraints), "--editable", ".[dev]"]
    with open(folder / "setup.log", "w", encoding="utf-8") as log:
        failed = install(command, Progress(total), log)
    if failed:
        print("\n".join(failed), file=sys.stderr)
        print(f"setup: pip failed; all it said: {folder / 'setup.log'}. `make setup` goes on", file=sys.stderr)
        return 1
    print("next: make demo (everything on a few photographs), or make download download-images")
    return 0


if __name__ == "__main__":
    run_main(main)
