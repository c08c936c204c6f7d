"""Programs of this kit, started many times: one process that has loaded PyTorch and all the rest forks for each.

A start takes 0.1 s instead of 3. Each is a process of its own, with its own memory, files, locks and signals; the only
difference to ``python SCRIPT`` is that modules are loaded already.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from helpers.common import ROOT

LOADED = (
    "torch", "feature_extraction.cli", "feature_extraction.series", "feature_extraction.pipeline",
    "feature_extraction.provenance", "feature_extraction.images.preprocess", "PIL.TiffImagePlugin",
)  # fmt: skip


class Forked:
    """A program that was started; as far as the tests need it, like ``subprocess.Popen``."""

    def __init__(self, forks: Forks, pid: int, printed: Path) -> None:
        self._forks, self.pid, self._printed = forks, pid, printed
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.ask({"ended": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float = 600) -> tuple[str, None]:
        """What it printed, on either stream."""
        self.wait(timeout)
        return self._printed.read_text(), None


class Forks:
    """The process that forks, until ``close``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, list[Forked]()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.forking"],
            cwd=ROOT / "feature_extraction",
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *words: object, cwd: Path = ROOT / "feature_extraction") -> Forked:
        """``python WORDS`` in ``cwd``: a script or ``-m MODULE``, and its arguments."""
        printed = self._folder / f"{len(self._started)}.txt"
        pid = self.ask({"start": [str(word) for word in words], "cwd": str(cwd), "printed": str(printed)})
        self._started.append(Forked(self, pid, printed))
        return self._started[-1]

    def ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it, and every program left over."""
        for program in self._started:
            program.kill()
            program.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def main() -> None:
    for module in LOADED:
        import_module(module)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(_ended(request["ended"]) if "ended" in request else _start(**request)), flush=True)


def _ended(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _start(start: list[str], cwd: str, printed: str) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(_run(start, cwd, printed))
    return pid


def _run(words: list[str], cwd: str, printed: str) -> int:
    """The child, up to its exit code."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.chdir(cwd)
    code = 0
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
