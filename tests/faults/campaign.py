"""The fault campaign: system calls fail and processes are killed, one after the other, and what is left is looked at.

    python -m tests.faults.campaign --faults 1000
    python -m tests.faults.campaign --scenario extract-fresh --only pwrite:ENOSPC:7

Prints a Markdown table; each finding above it with the flags that repeat it. Exit code 1 if there was any.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.helpers.file_server import serving

from . import shim
from .careless import CARELESS
from .scenarios import SCENARIOS, Contents, served
from .shim import BEFALLS, LASTING, Fault

ROOT: Final = Path(__file__).resolve().parents[2]
GOOD: Final = ("refused in one line", "went on", "killed")
ALL: Final = {**SCENARIOS, **CARELESS}
BAD: Final = ("wrong", "crashed", "traceback", "not recovered")
REPLACEMENTS: Final = 20
"""How many faults in a row may miss (another thread was quicker, so that there is no k-th call) before it is said."""


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    code: int
    """Exit code; minus the signal that ended it."""
    output: str
    struck: bool
    counts: Mapping[str, int]


class Worker:
    """A process that runs programs under faults (worker.py), and the folder that they run in."""

    def __init__(self, place: Path, library: Path, base_url: str) -> None:
        self.folder, self._notes, self._base_url = place / "folder", place / "notes", base_url
        self._notes.mkdir(parents=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.worker"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, scenario: str, step: str | int = "run", fault: Fault | None = None) -> Ended:
        """Run one program of a scenario in the folder, as it is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {
            **{"scenario": scenario, "step": step, "fault": str(fault) if fault else None},
            **{"folder": str(self.folder), "notes": str(self._notes), "base_url": self._base_url},
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=120)


@dataclass
class Prepared:
    """A scenario with what an undisturbed run of it needs and gives."""

    name: str
    template: Path
    start: Contents
    """What lies at the final paths before."""
    right: Contents
    """What has to lie there in the end."""
    counts: Mapping[str, int]
    """Calls of each kind in an undisturbed run."""


@dataclass(frozen=True)
class Finding:
    """What came of one fault."""

    scenario: str
    fault: Fault
    verdict: str
    why: str = ""

    def __str__(self) -> str:
        return f"{self.verdict}: --scenario {self.scenario} --only {self.fault}: {self.why}"


@dataclass
class Campaign:
    """Faults over all scenarios. ``say`` hears findings as they come."""

    folder: Path
    seed: int
    say: Callable[[str], None] = print
    tally: dict[str, Counter[str]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def run(self, names: Sequence[str], faults: int, *, jobs: int, only: Fault | None = None) -> None:
        """Try so many faults, spread over the scenarios by their weights; or one."""
        library = shim.build(self.folder)
        with ExitStack() as stack:
            server = stack.enter_context(serving())
            server.files.update(served())
            workers = [Worker(self.folder / f"worker-{n}", library, server.url("")) for n in range(jobs)]
            for worker in workers:
                stack.callback(worker.close)
            quotas = shared_out(faults, {name: ALL[name].weight for name in names})
            for name, quota in quotas.items():
                prepared = prepare(workers[0], name, self.folder / "templates" / name)
                self.calls[name] = sum(prepared.counts.values())
                self.tally[name] = Counter()
                draws = iter([only]) if only else drawn(prepared.counts, random.Random(f"{self.seed} {name}"))
                self._try_all(prepared, draws, 1 if only else quota, workers)

    def _try_all(self, prepared: Prepared, draws: Iterator[Fault], quota: int, workers: Sequence[Worker]) -> None:
        tickets = iter(range(quota))

        def work(worker: Worker) -> None:
            while True:
                with self._guard:
                    if next(tickets, None) is None:
                        return
                self._try_until_struck(prepared, draws, worker)

        with ThreadPoolExecutor(len(workers)) as pool:
            list(pool.map(work, workers))

    def _try_until_struck(self, prepared: Prepared, draws: Iterator[Fault], worker: Worker) -> None:
        for _ in range(REPLACEMENTS):
            with self._guard:
                fault = next(draws, None)
            if fault is None:
                return
            finding, struck = judge(worker, prepared, fault)
            with self._guard:
                self.tally[prepared.name][finding.verdict if struck or finding.verdict in BAD else "missed"] += 1
                if finding.verdict in BAD:
                    self.findings.append(finding)
                    self.say(str(finding))
            if struck:
                return

    def table(self) -> str:
        """The figures in Markdown."""
        lines = [
            f"| scenario | its calls | faults | {' | '.join((*GOOD, *BAD))} |",
            f"|---|{'---:|' * (2 + len(GOOD) + len(BAD))}",
        ]
        total: Counter[str] = Counter()
        for name, found in self.tally.items():
            total += found
            lines.append(self._row(name, f"{self.calls[name]:,}", found))
        return "\n".join([*lines, self._row("all", "", total)])

    @staticmethod
    def _row(name: str, calls: str, found: Mapping[str, int]) -> str:
        figures = [found.get(verdict, 0) for verdict in (*GOOD, *BAD)]
        return f"| {name} | {calls} | {sum(figures):,} | {' | '.join(f'{figure:,}' for figure in figures)} |"


def shared_out(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Whole parts of a total, by weight, that add up to it."""
    ends = [round(total * end / sum(weights.values())) for end in itertools.accumulate(weights.values())]
    return {name: end - begin for name, begin, end in zip(weights, [0, *ends], ends, strict=False)}


def drawn(counts: Mapping[str, int], rng: random.Random) -> Iterator[Fault]:
    """Faults without end, no two alike as long as there are others: every kind of call and error in turn, anywhere in
    the run."""
    pairs = [(call, what) for call, errors in BEFALLS.items() for what in errors if counts.get(call)]
    tried: set[Fault] = set()
    while True:
        rng.shuffle(pairs)
        for call, what in pairs:
            for _ in range(20):
                fault = Fault(call, what, rng.randint(1, counts[call]), what in LASTING and rng.random() < 0.5)
                if fault not in tried:
                    break
            tried.add(fault)
            yield fault


def prepare(worker: Worker, name: str, template: Path) -> Prepared:
    """Make the folder that a scenario starts from, and see what an undisturbed run makes of it."""
    scenario = ALL[name]
    fresh(worker.folder)
    for step, (_, fault) in enumerate(scenario.before):
        ended = worker.run(name, step)
        if ended.code != (-signal.SIGKILL if fault else 0):
            raise SystemExit(f"{name}: what goes before it ended with {ended.code}: {ended.output}")
    shutil.copytree(worker.folder, template, symlinks=True)
    start = scenario.final(worker.folder)
    ended = worker.run(name)
    if ended.code:
        raise SystemExit(f"{name}: it ends with {ended.code} without any fault: {ended.output}")
    return Prepared(name, template, start, scenario.final(worker.folder), ended.counts)


def fresh(folder: Path, template: Path | None = None) -> None:
    """Empty a folder, or fill it as ``template`` is."""
    shutil.rmtree(folder, ignore_errors=True)
    if template is None:
        folder.mkdir(parents=True)
    else:
        shutil.copytree(template, folder, symlinks=True)


def judge(worker: Worker, prepared: Prepared, fault: Fault) -> tuple[Finding, bool]:
    """Run the scenario under a fault, then again without; what came of it, and whether the fault struck."""
    fresh(worker.folder, prepared.template)
    final = ALL[prepared.name].final
    ended = worker.run(prepared.name, fault=fault)
    verdict, why = verdict_on(ended, fault, final(worker.folder), prepared)
    if verdict in GOOD:
        again = worker.run(prepared.name, "again")
        left = final(worker.folder)
        if again.code or left != prepared.right:
            why = (
                f"the next run ended with {again.code} ({last_line(again.output)}); {differences(left, prepared.right)}"
            )
            verdict = "not recovered"
    return Finding(prepared.name, fault, verdict, why), ended.struck


def verdict_on(ended: Ended, fault: Fault, left: Contents, prepared: Prepared) -> tuple[str, str]:
    """What a run under a fault came to, and why where it is bad."""
    if "Traceback (most recent call last)" in ended.output:
        return "traceback", last_line(ended.output)
    killed = fault.what == "KILL" and ended.struck
    if ended.code < 0 and not (killed and ended.code == -signal.SIGKILL):
        return "crashed", f"ended by {signal.Signals(-ended.code).name}"
    wrong = [p for p, found in left.items() if found not in (prepared.start.get(p), prepared.right.get(p))]
    if wrong:
        return "wrong", f"at {', '.join(wrong)}: {', '.join(left[p] for p in wrong)}"
    if ended.code == 0 and left != prepared.right:
        return "wrong", f"exit code 0, but {differences(left, prepared.right)}"
    if ended.code > 0 and not ended.output.strip():
        return "wrong", f"exit code {ended.code} without a word"
    return ("killed" if killed else "refused in one line" if ended.code else "went on"), ""


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def differences(found: Contents, expected: Contents) -> str:
    """Which final paths are not as they should be."""
    different = sorted(p for p in found.keys() | expected.keys() if found.get(p) != expected.get(p))
    return f"not right: {', '.join(different)}" if different else "all files are right"


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=1000, metavar="N", help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="decides which (%(default)s)")
    parser.add_argument(
        "--scenario", choices=SCENARIOS, action="append", help="may be given several times; all without"
    )
    parser.add_argument("--only", type=Fault.parse, metavar="CALL:WHAT:K[:lasting]", help="this one fault")
    parser.add_argument("--jobs", type=int, default=2, help="workers at once (%(default)s)")
    return parser.parse_args(argv)


def heading(seed: int, seconds: float) -> str:
    return f"seed {seed}, {seconds:.0f} s, {os.cpu_count()} cores, Python {platform.python_version()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign that the command line asks for."""
    args = arguments(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        campaign = Campaign(Path(folder).resolve(), args.seed)
        campaign.run(args.scenario or list(SCENARIOS), args.faults, jobs=1 if args.only else args.jobs, only=args.only)
    print(f"{heading(args.seed, time.monotonic() - began)}\n\n{campaign.table()}")
    return 1 if campaign.findings else 0


if __name__ == "__main__":
    sys.exit(main())
