"""What the host's side can feed a card: the extraction with everything real but the network, which answers at once.

    python -m scripts.dev.bench_host [--images 300] [--workers 1 2 4] [--batch_size 16] [--device cuda] [--folder DIR]

Workload: JPEGs of 640 x 480 pixels, quality 90 (made up; ``--folder`` takes photographs of one's own), by the path of
the command: planned, read, hashed, decoded, resized, (locked and) handed to the device, and features of the published
size written to a journal that is synced. Metrics: images per second, and seconds of processor time an image, which
other programs on the machine disturb less. From these the table: cores that feed one card, and what eight need of the
disk.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from feature_extraction import machine
from feature_extraction.batching import windows
from feature_extraction.config import SPECS, Boxes, Grid, Spec
from feature_extraction.detector.build import Detector, choose_device
from feature_extraction.errors import ImageError
from feature_extraction.extract import Extraction, Target
from feature_extraction.features import Arrays, NetworkInput, computation_of
from feature_extraction.images.listing import list_images
from feature_extraction.progress import Progress
from feature_extraction.recipe import FEATURE_DIM, GRID_SIZE, NUM_BOXES
from feature_extraction.storage.output import Output
from feature_extraction.terminal import run_main

from ..gpu_test.bench import made_up_picture

RATES: Final = (20, 50, 150, 400)
"""Images per second and card that are asked about: float32, boxes in bfloat16, TF32, grids in bfloat16."""
CARDS: Final = 8


STORED: Final[dict[str, dict[str, tuple[tuple[int, ...], type]]]] = {
    Grid.name: {"features": ((GRID_SIZE, GRID_SIZE, FEATURE_DIM), np.float32)},
    Boxes.name: {
        "features": ((NUM_BOXES, FEATURE_DIM), np.float32), "boxes": ((NUM_BOXES, 4), np.float32),
        "obj_id": ((NUM_BOXES,), np.int64), "img_w": ((), np.int64), "img_h": ((), np.int64),
    },
}  # fmt: skip
"""Shape and type of an image's arrays, by kind."""


class NoNetwork:
    """A kind of features whose network costs nothing; all else is that kind's own."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        real = computation_of(spec)
        self.network_size, self.network_input, self.input_key = real.network_size, real.network_input, real.input_key

    def features(self, detector: Detector, images: Tensor, batch: Sequence[NetworkInput]) -> list[Arrays | ImageError]:
        return [
            {name: np.zeros(shape, dtype) for name, (shape, dtype) in STORED[self.spec.name].items()} for _ in batch
        ]


@dataclass(frozen=True)
class Rate:
    """One run."""

    images: int
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of processor time, of all threads."""
    stages: dict[str, float]
    """Seconds by stage, of all threads."""
    written: int
    """Bytes an image."""


def measure(folder: Path, scratch: Path, spec: Spec, workers: int, batch_size: int, device: torch.device) -> Rate:
    """Every image of ``folder`` once."""
    images = list_images(folder, "*.jpg", True).images
    extraction = Extraction(
        detector=cast(Detector, SimpleNamespace(device=device)), decode="proper", batch_size=batch_size,
        workers=workers,
    )  # fmt: skip
    mine = list(windows(images, batch_size, 0, 1))
    path = scratch / f"{spec.name}_{workers}.h5"
    with closing(Output(path, {"bench": spec.name}, {}, 0, 1)) as output:
        with closing(Progress(len(images), path.stem)) as progress:
            wall, cpu = time.perf_counter(), time.process_time()
            target = Target(computation=NoNetwork(spec), output=output, todo={image.id for image in images})
            extraction.run(mine, [target], progress, threading.Event())
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        written = sum(file.stat().st_size for file in Path(f"{path}.work").iterdir()) // len(images)
    return Rate(len(images), wall, cpu, dict(progress.clock.seconds), written)


def make_pictures(folder: Path, number: int) -> None:
    picture = made_up_picture()
    for i in range(number):
        Image.fromarray(np.roll(picture, 7 * i, 1)).save(folder / f"{i}.jpg", "JPEG", quality=90)


def line(kind: str, workers: int, rate: Rate) -> str:
    stages = ", ".join(f"{name} {1e3 * seconds / rate.images:.2f}" for name, seconds in rate.stages.items())
    return f"| {kind} | {workers} | {rate.images / rate.wall:.0f} | {1e3 * rate.cpu / rate.images:.2f} | {stages} |"


def cores_for_cards(rates: dict[str, Rate]) -> str:
    """The table of what one card and eight need, from the least processor time an image."""
    lines = ["| images/s a card | " + " | ".join(f"{k}: cores a card, disk of {CARDS} cards" for k in rates) + " |"]
    lines.append("|---" * (1 + len(rates)) + "|")
    for wanted in RATES:
        cells = [
            f"{wanted * rate.cpu / rate.images:.2f}, {CARDS * wanted * rate.written / 1e6:,.0f} MB/s"
            for rate in rates.values()
        ]
        lines.append(f"| {wanted} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="how many are made (%(default)s)")
    parser.add_argument("--folder", type=Path, help="own photographs, *.jpg, instead")
    parser.add_argument("--workers", type=int, nargs="+", default=sorted({1, machine.threads()}))
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default="cpu", help="where the inputs go: cpu, cuda or auto (%(default)s)")
    args = parser.parse_args()
    device = choose_device(args.device)
    best: dict[str, Rate] = {}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = args.folder or scratch / "pictures"
        if not args.folder:
            folder.mkdir()
            make_pictures(folder, args.images)
        print(f"{device}, {machine.usable_cpus():g} processors, batch {args.batch_size}")
        print(
            "| kind | decoding threads | images/s | processor ms an image | stages, ms an image |\n" + "|---" * 5 + "|"
        )
        for kind, spec in SPECS.items():
            for workers in args.workers:
                rate = measure(folder, scratch, spec(), workers, args.batch_size, device)
                print(line(kind, workers, rate), flush=True)
                best[kind] = min(best.get(kind, rate), rate, key=lambda r: r.cpu / r.images)
    print(f"\n{cores_for_cards(best)}")
    return 0


if __name__ == "__main__":
    run_main(main)
