"""Images per second, per stage, and peak memory of both kinds of features, on any device and precision.

    python -m scripts.dev.bench_extract --checkpoint_dir DIR [--device cuda] [--precision bfloat16] [--batch_size 4]
    python -m scripts.dev.bench_extract --checkpoint_dir DIR --as_published --engine native reference   side by side

Workload: one photograph of 400 x 600 pixels (coffee, of the scikit-image wheel), decoded, resized, computed and
written, again and again. Unit: the time of one 4096 x 4096 float32 torch.mm on the same device in the same run,
TF32 off, measured before every round, so that numbers travel between machines. Accuracy check: against
float32 features of the same photograph, the largest difference over the largest value. Use a quiet machine.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

from feature_extraction.config import ENGINES, PRECISIONS, SPECS, Grid, Spec
from feature_extraction.detector.build import Detector, choose_device, device_name, load_detector
from feature_extraction.detector.files import CheckpointFiles, find_checkpoint
from feature_extraction.features import Arrays, Computation, NetworkInput, computation_of, compute
from feature_extraction.images.decode import decode_image
from feature_extraction.progress import Clock
from feature_extraction.storage.journal_writer import JournalWriter
from feature_extraction.terminal import run_main

from .as_published import as_published


def unit_seconds(device: torch.device) -> float:
    """Seconds of one 4096 x 4096 float32 matrix product."""
    a = torch.ones(4096, 4096, device=device).normal_()
    b = torch.ones(4096, 4096, device=device).normal_()
    torch.mm(a, b)
    return timed(lambda: torch.mm(a, b), device)


def timed(work: Any, device: torch.device) -> float:
    """Seconds of ``work()``, the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> str:
    """Of this process, and of the device where it has memory of its own."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if device.type != "cuda":
        return f"{host:.2f} GB"
    return f"{host:.2f} GB host, {torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB device"


@dataclass(frozen=True)
class Bench:
    """What is measured: one photograph, decoded, computed and written again and again, in batches."""

    detector: Detector
    photograph: bytes
    """A JPEG."""
    batch_size: int
    rounds: int

    def inputs(self, computation: Computation) -> list[NetworkInput]:
        """A batch, decoded and resized."""
        return [
            computation.network_input(decode_image(Image.open(io.BytesIO(self.photograph))))
            for _ in range(self.batch_size)
        ]

    def round(self, computation: Computation, clock: Clock, journal: JournalWriter) -> Arrays:
        """One batch from bytes to disk; the first image's features."""
        with clock("decode"):
            inputs = self.inputs(computation)
        results = compute(self.detector, computation, inputs, clock)
        with clock("write"):
            for number, result in enumerate(results):
                assert isinstance(result, dict), result
                journal.add(str(number), result, None, "benchmark")
            journal.sync()
        first = results[0]
        assert isinstance(first, dict)
        return first

    def run(self, spec: Spec) -> str:
        """The lines to quote for one kind of features."""
        computation, clock, device = computation_of(spec), Clock(), self.detector.device
        units, seconds = [], []
        with tempfile.TemporaryDirectory() as folder, closing(JournalWriter(Path(folder), 0, 1)) as journal:
            features = self.round(computation, Clock(), journal)["features"]  # warm-up
            for _ in range(self.rounds):
                units.append(unit_seconds(device))
                seconds.append(timed(lambda: self.round(computation, clock, journal), device) / self.batch_size)
        unit, each = statistics.median(units), statistics.median(seconds)
        count = self.rounds * self.batch_size
        stages = ", ".join(f"{stage} {1e3 * s / count:.1f} ms" for stage, s in clock.seconds.items())
        return (
            f"{spec.name}: {1 / each:.3f} images/s, {each:.3f} s an image = {each / unit:.2f} units of {unit:.3f} s\n"
            f"    {stages}\n"
            f"    checksum {float(np.abs(features).sum()):.6g}; peak memory {peak_memory(device)}"
        )


def drift(files: CheckpointFiles, detector: Detector, photograph: bytes) -> float:
    """Largest difference of grid features from float32's, relative to the largest value."""
    exact = load_detector(files, engine="native", device=detector.device, precision="float32")
    grid = computation_of(Grid())
    inputs = Bench(detector, photograph, 1, 1).inputs(grid)
    found, expected = (grid_features(one, grid, inputs) for one in (detector, exact))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def grid_features(detector: Detector, computation: Computation, inputs: list[NetworkInput]) -> NDArray[np.float32]:
    """Grid features of one image."""
    (result,) = compute(detector, computation, inputs, Clock())
    assert isinstance(result, dict), result
    return result["features"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_dir", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--kind", choices=list(SPECS), action="append", help="both if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=ENGINES, nargs="+", default=["native"], help="one after the other (native)")
    parser.add_argument("--as_published", action="store_true", help="the native one in the published order of work too")
    args = parser.parse_args()
    device, files = choose_device(args.device), find_checkpoint(args.checkpoint_dir)
    detectors = [load_detector(files, engine=e, device=device, precision=args.precision) for e in args.engine]
    detector = detectors[0]
    if args.as_published:
        if args.precision != "float32":
            parser.error(f"--as_published computes in float32, not in {args.precision}")
        detectors.append(as_published(detector, files))
    encoded = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(encoded, "JPEG", quality=95)
    where = device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    synthetic = "; SYNTHETIC weights" if detector.synthetic else ""
    setting = f"{args.precision}; batch {args.batch_size}; median of {args.rounds} rounds{synthetic}"
    print(f"{where}; PyTorch {torch.__version__}; {setting}")
    for kind in args.kind or SPECS:
        for one in detectors:
            bench = Bench(one, encoded.getvalue(), args.batch_size, args.rounds)
            print(f"{one.name}: {bench.run(SPECS[kind]())}", flush=True)
    if args.precision != "float32":
        moved = drift(files, detector, encoded.getvalue())
        print(f"drift of grid features from float32: {moved:.1e} of the largest value")
    return 0


if __name__ == "__main__":
    run_main(main)
