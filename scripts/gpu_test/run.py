"""The rows of ``make gpu-test`` and the order in which they are tried."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import h5py
import numpy as np
import PIL
import torch

from feature_extraction import machine
from feature_extraction.detector.build import choose_device
from feature_extraction.errors import KitError
from feature_extraction.terminal import run_main

from . import assign, exact, speed
from .bench import FULL, KINDS, SMALL, Bench
from .table import Finding, Table

MODELS: Final = ("tiny", "x152")


@dataclass(frozen=True)
class Plan:
    """One row to come."""

    name: str
    work: Callable[[], Finding]
    least: float
    """Seconds that must be left of the budget to begin it, on a GPU."""


def plan(bench: Bench) -> list[Plan]:
    """The rows in order of importance: what the time does not reach is not run."""
    sizes = bench.sizes
    heavy = "x152" if bench.device.type == "cuda" else "tiny"
    rows = [Plan("environment", partial(environment, bench), 0)]
    rows += [Plan(f"synthetic weights, {m}", partial(checkpoint, bench, m), 5) for m in bench.models]
    rows += [Plan(f"golden cases, {m}, float32", partial(exact.golden_cases, bench, m), 10) for m in bench.models]
    rows += [Plan(f"grid path = full path, {m}", partial(exact.grid_is_full, bench, m), 5) for m in bench.models]
    rows += [
        Plan("batch = single images", partial(exact.batches, bench, heavy, 4), 5),
        Plan("two precisions in one process", partial(exact.two_precisions, bench, heavy), 10),
        Plan("engine reference", partial(exact.reference_engine, bench), 15),
    ]
    rows += [Plan(f"matrix rate, {p}", partial(speed.matrix_rate, bench, p), 3) for p in sizes.precisions]
    for precision in sizes.precisions:
        if precision != "float32":
            rows.append(Plan(f"drift, {precision}", partial(exact.drift, bench, precision), 15))
        rows += [Plan(f"speed, {k}, {precision}", partial(speed.speed, bench, k, precision), 12) for k in KINDS]
    rows += [Plan(f"waits of the host, {k}", partial(speed.host_waits, bench, k), 3) for k in KINDS]
    rows += [
        Plan("stages alone", partial(speed.stages, bench), 10),
        Plan("k-means: assignment", partial(assign.assignment, bench), 20),
        Plan("k-means: product by tile", partial(assign.tiles, bench), 3),
    ]
    rows += [Plan(f"kernels, {k}", partial(speed.kernels, bench, k), 8) for k in KINDS]
    number = 96 if bench.device.type == "cuda" else 4
    rows += [
        Plan("command, grid, float32", partial(speed.command, bench, "grid", "float32", 4, number), 40),
        Plan("command, boxes, float32", partial(speed.command, bench, "boxes", "float32", 4, number), 40),
        Plan("command, grid, bfloat16", partial(speed.command, bench, "grid", "bfloat16", 4, number), 40),
    ]
    return rows


def environment(bench: Bench) -> Finding:
    """What the figures belong to."""
    about = {
        "Python": platform.python_version(), "PyTorch": torch.__version__, "CUDA": torch.version.cuda or "none",
        "cuDNN": torch.backends.cudnn.version() or "none", "NumPy": np.__version__, "OpenCV": cv2.__version__,
        "Pillow": PIL.__version__, "h5py": h5py.__version__, "processors": f"{machine.usable_cpus():g}",
        "threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip
    if bench.device.type == "cuda":
        properties = torch.cuda.get_device_properties(bench.device)
        about |= {
            "card": properties.name, "memory": f"{properties.total_memory / 1e9:.0f} GB",
            "multiprocessors": properties.multi_processor_count, "driver": driver(),
        }  # fmt: skip
    return Finding(", ".join(f"{name} {value}" for name, value in about.items()), (), about)


def driver() -> str:
    """The driver's version, as nvidia-smi says."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({type(error).__name__})"
    return done.stdout.split()[0] if done.stdout.split() else "unknown"


def checkpoint(bench: Bench, model: str) -> Finding:
    seconds = bench.make_checkpoint(model)
    size = (bench.scratch / model / "detectron_model.pth").stat().st_size
    return Finding(f"{size / 1e6:.0f} MB of seeded weights made in {seconds:.1f} s", (), {"seconds": seconds})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.gpu_test", description="What a device does with this project's work, in one table."
    )
    parser.add_argument("--device", default="auto", help="auto, cuda, cuda:N or cpu (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("gpu-test"), help="folder of the table (%(default)s)")
    parser.add_argument("--minutes", type=float, default=8, help="rows are not begun after this (%(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="(both)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="rows whose names hold one of these words")
    args = parser.parse_args(argv)
    start = time.monotonic()
    try:
        device = choose_device(args.device)
    except KitError as error:
        print(f"gpu-test: {error}", file=sys.stderr)
        return 1
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    title = f"`make gpu-test`, {time.strftime('%Y-%m-%d')}: {name}, PyTorch {torch.__version__}"
    if cuda:
        title += f", driver {driver()}"
    table = Table(args.out, title, args.minutes)
    print(f"{title}; at most {args.minutes:g} minutes; {args.out}/table.md", flush=True)
    scratch = Path(tempfile.mkdtemp(prefix="gpu-test-"))
    try:
        bench = Bench(device, FULL if cuda else SMALL, scratch, tuple(m for m in MODELS if m in args.models))
        for row in plan(bench):
            chosen = not args.only or any(word in row.name for word in args.only)
            if chosen or row.name.startswith("synthetic weights"):
                table.run(row.name, row.work, row.least if cuda else 0)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        table.write()
    failed = table.failed
    seconds = time.monotonic() - start
    print(f"\n{table.markdown()}\n{seconds:.0f} s; {args.out}/table.md, {args.out}/results.json", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # of the commands that are started from here
    run_main(main)
