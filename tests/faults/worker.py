"""Runs programs, each in a child process of this one, which has the shim and all libraries loaded already.

    python -m tests.faults.worker      with LD_PRELOAD=shim.so

Reads requests, one JSON object a line, on stdin and answers each with one on stdout; ends with its stdin. A forked
child takes a few milliseconds where a new Python, NumPy and HDF5 take half a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from . import shim
from .careless import CARELESS
from .scenarios import SCENARIOS, Program

LONGEST = 60
"""Seconds after which a child that hangs is ended, by SIGALRM."""


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What came of the program ``step`` of a scenario (0, 1, ... before it; "run"; "again") under a fault."""
    program, fault = program_of(request["scenario"], request["step"])
    if request["fault"] is not None:
        fault = shim.Fault.parse(request["fault"])
    warm(request["scenario"])
    notes = Path(request["notes"])
    for name in ("output", "struck", "counts"):
        (notes / name).unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        run(program, Path(request["folder"]), request["base_url"], fault, notes)
    _, status = os.waitpid(child, 0)
    counts = notes / "counts"
    return {
        "code": os.waitstatus_to_exitcode(status),
        "output": (notes / "output").read_text(errors="replace"),
        "struck": (notes / "struck").exists(),
        "counts": json.loads(counts.read_text()) if counts.exists() else {},
    }


def program_of(name: str, step: str | int) -> tuple[Program, shim.Fault | None]:
    scenario = {**SCENARIOS, **CARELESS}[name]
    if isinstance(step, int):
        return scenario.before[step]
    return (scenario.again or scenario.program) if step == "again" else scenario.program, None


def warm(scenario: str) -> None:
    """Load what the scenario's programs load, once for all children."""
    if scenario.startswith("k-means"):
        import_module("kmeans.cli")
        import_module("kmeans.pipeline")
    if scenario.startswith(("download", "unpack")):
        import_module("scripts.download.__main__")


def run(program: Program, folder: Path, base_url: str, fault: shim.Fault | None, notes: Path) -> None:
    """The child: as ``python program`` would run it, to its exit."""
    code = 1
    try:
        with (notes / "output").open("wb", buffering=0) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        signal.alarm(LONGEST)
        shim.configure(folder, notes / "struck", fault)
        code = program(folder, base_url)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        (notes / "counts").write_text(json.dumps(shim.counts()))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
