"""Fails system calls, and kills, in every program of this kit, and looks at what is left.

    python -m tests.faults.campaign [--faults 1000] [--seed 0] [--only WORD] [--keep]        (make test-faults)

One fault at a time: a program is run from a prepared state with a shim (shim.c) that lets one system call on its files
fail with EIO, ENOSPC, EDQUOT or EINTR, fall short, fail from there on, or be the process's last. Then

- nothing wrong lies where users look: each file is what it was before, or what an undisturbed run makes of it;
- the exit code is not 0, or the result is right; there is no traceback, no crash, no hang;
- the same command again ends right, with the same bits, and leaves nothing behind.

Prints a table; exit code 0 if all of this held. Needs gcc (Linux). The seed draws the faults: a run can be repeated.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

SHORT, KILL = -1, -2
ERRORS = {
    "open": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR),
    "write": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR, SHORT, SHORT),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR),
    "rename": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "unlink": (errno.EIO,),
    "ftruncate": (errno.EIO, errno.ENOSPC, errno.EINTR),
    "read": (errno.EIO, errno.EINTR, SHORT, SHORT),
    "mmap": (errno.EIO, errno.ENOMEM),
    "close": (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EINTR),
    "mkdir": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
}
SECONDS = 60
"""After which a program hangs."""


@dataclass(frozen=True)
class Fault:
    call: str
    k: int
    what: int
    sticky: bool

    def __str__(self) -> str:
        what = {SHORT: "short", KILL: "killed"}.get(self.what) or errno.errorcode[self.what]
        return f"{self.call} {self.k} {what}{' from there on' if self.sticky else ''}"


@dataclass
class Row:
    """What became of one scenario's faults."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def build_shim(folder: Path) -> Path:
    library = folder / "shim.so"
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("shim.c"), "-ldl", "-lpthread"],
        check=True,
    )
    return library


class Campaign:
    """A forked child runs the program, with everything loaded already; it ends as a program ends, exit handlers of the
    libraries included. The parent looks at what it left."""

    def __init__(self, work: Path, seed: int) -> None:
        from . import scenarios

        self.scenarios = scenarios
        self.work, self.case, self.log = work, work / "case", work / "log"
        self.shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self.shim.fault_count.restype = ctypes.c_long
        self.chance = random.Random(seed)
        self.rows: dict[str, Row] = {}

    # --- one scenario -------------------------------------------------------------------------------------

    def learn(self, scenario: object) -> None:
        """The states before and after, and how many calls there are of each kind."""
        s = self.scenario = scenario
        s.load()
        self.template = self.work / "template"
        shutil.rmtree(self.template, ignore_errors=True)
        shutil.rmtree(self.case, ignore_errors=True)
        self.case.mkdir()
        self._quietly(lambda: s.prepare(self.case))
        shutil.copytree(self.case, self.template, symlinks=True)
        self.before = s.state(self.case)
        code, _ = self.program(s.run, Fault("any", 0, 0, False), counts=True)
        assert code == 0, self.log.read_text()
        lines = (self.work / "counts").read_text().splitlines()
        self.calls = {name: int(count) for name, count in (line.split() for line in lines)}
        code, _ = self.program(s.recover, None)  # of two shares, the other
        self.after = s.state(self.case)
        assert code == 0, self.log.read_text()
        assert self.after, s.name
        assert not s.left_over(self.case), (s.name, s.left_over(self.case))
        self.rows.setdefault(s.name, Row())

    def draw(self) -> Fault:
        call = self.chance.choice([name for name, count in self.calls.items() if count])
        what = self.chance.choice([*ERRORS[call], KILL])
        sticky = what in (errno.EIO, errno.ENOSPC, errno.EDQUOT) and self.chance.random() < 0.3
        return Fault(call, self.chance.randint(1, self.calls[call]), what, sticky)

    def one(self) -> None:
        s, fault = self.scenario, self.draw()
        row = self.rows[s.name]
        self.scenarios.copy(self.template, self.case)
        (self.work / "fired").unlink(missing_ok=True)
        code, said = self.program(s.run, fault)
        row.counts["faults"] += 1
        problems = []
        if not (self.work / "fired").exists():
            row.counts["not reached"] += 1
        if code == -signal.SIGKILL and fault.what == KILL:
            row.counts["killed"] += 1
        elif code < 0:
            problems.append("hang" if code == -signal.SIGALRM else f"crash {-code}")
        else:
            row.counts["exit 0" if code == 0 else "said"] += 1
        if "Traceback" in said:
            problems.append("traceback")
        try:
            found = s.state(self.case)
        except Exception as error:
            found, problems = {"?": str(error)}, [*problems, "wrong"]
        if any(value not in (self.before.get(name), self.after.get(name)) for name, value in found.items()):
            problems.append("wrong")
        if any(name not in found for name in self.before if name in self.after):
            problems.append("wrong")  # what was there is gone
        if code == 0 and found != self.after and s.name != "two shares, the first":
            problems.append("wrong")
        problems += self._recovered()
        for problem in dict.fromkeys(problems):
            row.counts[problem.split()[0]] += 1
            row.wrong.append(f"{s.name}: {fault}: {problem}: {' '.join(said.split())[-400:]}")

    def _recovered(self) -> list[str]:
        s = self.scenario
        for time_ in range(2):
            code, said = self.program(s.recover, None)
            if code == 0:
                break
            if not time_ and "again" in said:  # it said so itself: damage is found by reading, and computed again then
                self.rows[s.name].counts["twice"] += 1
        state = s.state(self.case) if code == 0 else {}
        if code or state != self.after:
            return [f"not recovered (exit {code}, {said[-300:]})"]
        return [f"left over {s.left_over(self.case)}"] if s.left_over(self.case) else []

    # --- processes -----------------------------------------------------------------------------------------

    def program(self, run: object, fault: Fault | None, counts: bool = False) -> tuple[int, str]:
        """Exit code (negative: the signal) and what the program printed."""
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            self._be(run, fault, counts)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), self.log.read_text(errors="replace")

    def _be(self, run: object, fault: Fault | None, counts: bool) -> NoReturn:
        from feature_extraction.errors import KitError

        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.alarm(SECONDS)
        if fault is not None:
            settings = (str(self.case), fault.call, fault.k, fault.what, int(fault.sticky), str(self.work / "fired"))
            if fault.k:
                os.environ["FAULT"] = "|".join(map(str, settings))  # for programs that it starts
            self.shim.fault_arm(*(s.encode() if isinstance(s, str) else ctypes.c_long(s) for s in settings))
        try:
            code = run(self.case)
        except KitError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 1
        if counts:
            (self.work / "counts").write_text("".join(f"{n} {self.shim.fault_count(n.encode())}\n" for n in ERRORS))
        sys.exit(code)  # by way of the interpreter's and the libraries' own end

    def _quietly(self, act: object) -> None:
        pid = os.fork()
        if not pid:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            act()
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"preparing {self.scenario.name}"

    def table(self) -> str:
        columns = ["faults", "exit 0", "said", "killed", "not reached", "twice", "wrong", "crash", "hang", "traceback", "left", "not"]  # fmt: skip # noqa: E501
        titles = ["faults", "ended right", "ended with a message", "killed", "not reached", "needed two runs", "wrong",
                  "crashed", "hung", "traceback", "left something", "not recovered"]  # fmt: skip
        lines = ["| program | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
        total: Counter[str] = Counter()
        for name, row in self.rows.items():
            lines.append(f"| {name} | " + " | ".join(str(row.counts[c]) for c in columns) + " |")
            total += row.counts
        lines.append("| **all** | " + " | ".join(f"**{total[c]}**" for c in columns) + " |")
        return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice (%(default)s)")
    parser.add_argument("--only", default="", metavar="WORD", help="of scenarios whose name holds it")
    parser.add_argument("--folder", type=Path, help="where to work (in memory, where there is /dev/shm)")
    args = parser.parse_args(argv)
    if shutil.which("gcc") is None:
        print("needs gcc, which builds the shim that fails system calls")
        return 2
    if "FAULT_WORK" not in os.environ:  # once more, with the shim loaded
        shared = Path("/dev/shm")
        work = Path(tempfile.mkdtemp(prefix="faults-", dir=args.folder or (shared if shared.is_dir() else None)))
        root = str(Path(__file__).resolve().parents[2])
        also = {"FAULT_WORK": str(work), "LD_PRELOAD": str(build_shim(work)), "OMP_NUM_THREADS": "1"}
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            return subprocess.run(
                [sys.executable, "-m", "tests.faults.campaign", *(sys.argv[1:] if argv is None else argv)],
                env={**os.environ, **also, "PYTHONPATH": paths}, check=False,
            ).returncode  # fmt: skip
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return campaign(args)


def campaign(args: argparse.Namespace) -> int:
    runs = Campaign(Path(os.environ["FAULT_WORK"]), args.seed)
    chosen = [s for s in runs.scenarios.SCENARIOS if args.only in s.name]
    of_all = sum(s.weight for s in chosen)
    begin = time.monotonic()
    for scenario in chosen:
        runs.learn(scenario)
        for _ in range(max(1, round(args.faults * scenario.weight / of_all))):
            runs.one()
        print(
            f"{time.monotonic() - begin:6.0f} s  {scenario.name}: {dict(runs.rows[scenario.name].counts)}", flush=True
        )
    print(runs.table())
    wrong = [line for row in runs.rows.values() for line in row.wrong]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
