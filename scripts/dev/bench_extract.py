"""Images per second, per stage, and peak memory of both kinds of features, on any device and precision.

    python -m scripts.dev.bench_extract --checkpoint_dir DIR [--device cuda] [--precision bfloat16] [--batch_size 4]

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
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from PIL import Image

from feature_extraction.config import ExtractConfig
from feature_extraction.detector import build as engines
from feature_extraction.extract import Task, compute, prepare
from feature_extraction.progress import Clock
from feature_extraction.storage.journal import PartWriter


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint_dir", type=Path, default=ExtractConfig.checkpoint_dir)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=list(engines.PRECISIONS), default="float32")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--kind", choices=["grid", "boxes"], action="append", help="both if left out")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = engines.choose_device(args.device)
    files = engines.find_checkpoint(args.checkpoint_dir)
    engine = engines.load(files, "native", device, args.precision)
    encoded = io.BytesIO()
    Image.fromarray(skimage.data.coffee()).save(encoded, "JPEG", quality=95)
    cpu = f"CPU, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu
    setting = f"{args.precision}; batch {args.batch_size}; median of {args.rounds} rounds"
    print(f"{name}; PyTorch {torch.__version__}; {setting}")
    for kind in args.kind or ["grid", "boxes"]:
        task = Task(kind, 8, 36, None, False, "proper", args.batch_size)
        clock = Clock()
        units, seconds = [], []
        with tempfile.TemporaryDirectory() as folder:
            writer = PartWriter(Path(folder), 0, 1)

            def round_(task: Task = task, clock: Clock = clock, writer: PartWriter = writer) -> Any:
                with clock("decode"):
                    inputs = []
                    for i in range(args.batch_size):
                        encoded.seek(0)
                        inputs.append(prepare(Image.open(encoded), str(i), task))
                results = compute(engine, inputs, task, clock)
                with clock("write"):
                    for item, result in zip(inputs, results, strict=True):
                        assert isinstance(result, dict)
                        writer.add(item.id, result)
                    writer.sync()
                return results[0]

            features = round_()["features"]  # warm-up
            clock.seconds.clear()
            for _ in range(args.rounds):
                units.append(unit_seconds(device))
                seconds.append(timed(round_, device) / args.batch_size)
            writer.close()
        unit, each = statistics.median(units), statistics.median(seconds)
        count = args.rounds * args.batch_size
        stages = ", ".join(f"{stage} {1e3 * s / count:.1f} ms" for stage, s in clock.seconds.items())
        speed = f"{1 / each:.3f} images/s, {each:.3f} s an image"
        print(f"{kind}: {speed} = {each / unit:.2f} units of {unit:.3f} s\n    {stages}")
        drift = ""
        if args.precision != "float32" and kind == "grid":
            exact = engines.load(files, "native", device, "float32")
            (expected,) = compute(exact, [prepare(skimage.data.coffee(), "0", task)], task, Clock())
            (found,) = compute(engine, [prepare(skimage.data.coffee(), "0", task)], task, Clock())
            assert isinstance(expected, dict)
            assert isinstance(found, dict)
            worst = np.abs(found["features"] - expected["features"]).max() / np.abs(expected["features"]).max()
            drift = f"; drift from float32: {worst:.1e} of the largest value"
        print(f"    checksum {float(np.abs(features).sum()):.6g}; peak memory {peak_memory(device)}{drift}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
