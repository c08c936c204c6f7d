"""How the extraction fares on a machine that others use too: alone, beside busy processes, under half a CPU quota.

    python -m scripts.dev.bench_company [--images 60] [--checkpoint_dir DIR]

Workload: grid features of ``--images`` crops (375 x 500) with the narrow model of the tests (or a given checkpoint), by
the command a user types; metric: images per second as the command reports them (its start is not counted). Beside it:
as many busy single-threaded processes as there are usable processors. Quota: a cgroup with half of them; needs root and
a writable CPU controller, and says so where there is none. ``--waiting active`` lets OpenMP's threads spin.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from feature_extraction import machine, places
from feature_extraction.terminal import run_main

CPU_CONTROLLER: Final = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/cpu,cpuacct"))


def workload(folder: Path, images: int) -> None:
    """Smooth random photographs, all of one size."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(images):
        small = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:05}.jpg", quality=90)


def rate(folder: Path, checkpoint: Path, waiting: str) -> float:
    """Images per second of one run."""
    with tempfile.TemporaryDirectory() as output:
        done = subprocess.run(
            [sys.executable, "-m", "feature_extraction", "--images", str(folder), "--device", "cpu",
             "--checkpoint_dir", str(checkpoint), "--output", f"{output}/f.h5"],
            cwd=places.CHECKOUT, check=True, capture_output=True, text=True,
            env={**os.environ, "OMP_WAIT_POLICY": waiting},
        )  # fmt: skip
    found = re.search(r"\(([\d.]+) images/s\)", done.stdout)
    if found is None:
        raise SystemExit(f"the command reported no rate:\n{done.stdout}{done.stderr}")
    return float(found[1])


@contextmanager
def company(processes: int) -> Iterator[None]:
    """So many processes that do nothing but compute."""
    with ExitStack() as stack:
        for _ in range(processes):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield


@contextmanager
def quota(cpus: float) -> Iterator[None]:
    """This process and its children under a CPU quota. Raises OSError where that cannot be set."""
    root = next((path for path in CPU_CONTROLLER if (path / "cpu.cfs_quota_us").exists()), None)
    if root is None:
        raise OSError("no CPU controller of cgroups v1 is mounted")
    group = root / f"bench_company_{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text(str(int(cpus * 100_000)))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (root / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60, help="(%(default)s)")
    parser.add_argument("--checkpoint_dir", type=Path, help="another model than the narrow one")
    parser.add_argument("--waiting", choices=("passive", "active"), default="passive", help="(%(default)s)")
    args = parser.parse_args()
    cpus = machine.usable_cpus()
    with tempfile.TemporaryDirectory() as folder:
        photographs, checkpoint = Path(folder) / "images", args.checkpoint_dir
        workload(photographs, args.images)
        if checkpoint is None:
            from . import synthetic_checkpoint

            checkpoint = Path(folder) / "checkpoint"
            config = (places.CHECKOUT / "tests/data/tiny/config.yaml").read_text()
            synthetic_checkpoint.write(checkpoint, config)
        alone = rate(photographs, checkpoint, args.waiting)
        with company(round(cpus)):
            beside = rate(photographs, checkpoint, args.waiting)
        print(f"{cpus:g} processors, waiting threads {args.waiting}, {args.images} images")
        slower = f"{alone / beside:.2f} x slower"
        print(f"alone {alone:.2f} images/s; beside {round(cpus)} busy processes {beside:.2f}: {slower}")
        try:
            with quota(cpus / 2):
                bounded = rate(photographs, checkpoint, args.waiting)
            print(f"under a quota of {cpus / 2:g} processors {bounded:.2f} images/s: {alone / bounded:.2f} x slower")
        except OSError as error:
            print(f"under half a quota: not run, {error}")
    return 0


if __name__ == "__main__":
    run_main(main)
