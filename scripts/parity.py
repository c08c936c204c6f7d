"""Both engines on the same images: ``make parity``, in the gpu image, where the original detector is compiled.

    python -m scripts.parity --images FOLDER --checkpoint_dir FOLDER [--count 20] [--device cuda]

Prints, per image and kind of features, the largest differences and the seconds of each engine; exits 1 if one is beyond
its tolerance, which is what another correct float32 order of evaluation needs (tests/data): the same classes in the
same order, boxes to 1e-2 pixel, features to 2e-4 of the largest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import torch

from feature_extraction.arguments import Parser
from feature_extraction.compare import SAME_NETWORK, Difference, Tolerance, compare_rows, out_of_tolerance
from feature_extraction.config import PRECISIONS, SPECS
from feature_extraction.detector.build import Detector, choose_device, device_name, load_detector
from feature_extraction.detector.files import find_checkpoint
from feature_extraction.errors import CheckpointError, DeviceError, ImageError
from feature_extraction.features import Arrays, Computation, NetworkInput, computation_of, compute
from feature_extraction.images.decode import read_image
from feature_extraction.names import printable
from feature_extraction.progress import Clock
from feature_extraction.terminal import run_main

SUFFIXES: Final = (".jpg", ".jpeg", ".png")


@dataclass
class Totals:
    """What all images together showed."""

    compared: int = 0
    wrong: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"reference": 0.0, "native": 0.0})
    """Of each engine, without the first image, which pays for warming up."""


def timed(detector: Detector, computation: Computation, image: NetworkInput) -> tuple[Arrays, float]:
    """One image's arrays and the seconds the detector took. Raises ImageError."""
    start = time.perf_counter()
    (result,) = compute(detector, computation, [image], Clock())
    if isinstance(result, ImageError):
        raise result
    return result, time.perf_counter() - start  # compute() ends with its results on the CPU


def described(apart: Difference) -> str:
    words = {"features": apart.features, "boxes": apart.boxes, "classes": apart.classes}
    return ", ".join(f"{name} {value:.2g}" for name, value in words.items() if value is not None)


def compare_image(
    engines: tuple[Detector, Detector], path: Path, name: str, tolerance: Tolerance, totals: Totals
) -> None:
    """One image, one kind of features: a line, and into the totals."""
    computation = computation_of(SPECS[name]())
    try:
        pixels, _ = read_image(path, "proper")
        image = computation.network_input(pixels)
        (expected, of_reference), (found, of_native) = (timed(engine, computation, image) for engine in engines)
    except ImageError as error:
        print(f"{printable(path.name)} {name}: passed over: {error}")
        return
    if totals.compared >= len(SPECS):
        totals.seconds["reference"] += of_reference
        totals.seconds["native"] += of_native
    apart = compare_rows(found, expected)
    bad = out_of_tolerance([apart], tolerance)
    totals.compared, totals.wrong = totals.compared + 1, totals.wrong + bool(bad)
    print(
        f"{printable(path.name)} {name}: {described(apart)}; reference {of_reference:.3f} s, native {of_native:.3f} s"
        + (f"  OUT OF BOUNDS: {'; '.join(bad)}" if bad else ""),
        flush=True,
    )


def compare_engines(
    reference: Detector, native: Detector, images: Sequence[Path], tolerance: Tolerance
) -> tuple[int, int]:
    """Compare every image in all kinds of features, printing a line each; (compared, out of tolerance)."""
    totals = Totals()
    for path in images:
        for name in SPECS:
            compare_image((reference, native), path, name, tolerance, totals)
    print(
        f"{totals.compared - totals.wrong} of {totals.compared} within bounds (features {tolerance.features:g} of the "
        f"largest, boxes {tolerance.boxes:g} pixel, same classes); after the first image: "
        + ", ".join(f"{name} {value:.2f} s" for name, value in totals.seconds.items())
    )
    return totals.compared, totals.wrong


def chosen(folder: Path, count: int) -> list[Path]:
    """About so many images of a folder, evenly spread."""
    images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return images[:: max(1, len(images) // max(1, count))][:count]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__, prog="python -m scripts.parity")
    parser.add_argument("--images", type=Path, required=True, help="folder of images, searched recursively")
    parser.add_argument(
        "--checkpoint_dir", type=Path, help="folder of the detector's files (./mask_rcnn_ckpt, or the checkout's)"
    )
    parser.add_argument("--count", type=int, default=20, help="images, evenly spread (%(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the native engine (%(default)s)")
    parser.add_argument("--feature_bound", type=float, default=SAME_NETWORK.features)
    parser.add_argument("--box_bound", type=float, default=SAME_NETWORK.boxes)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    images = chosen(args.images, args.count)
    if not images:
        print(f"parity: no {', '.join(SUFFIXES)} files below {printable(args.images)}", file=sys.stderr)
        return 1
    try:
        device = choose_device(args.device)
        files = find_checkpoint(args.checkpoint_dir)
        reference = load_detector(files, engine="reference", device=device, precision="float32")
        native = load_detector(files, engine="native", device=device, precision=args.precision)
        print(f"{len(images)} images on {device_name(device)}, PyTorch {torch.__version__}, native in {args.precision}")
        tolerance = Tolerance(features=args.feature_bound, boxes=args.box_bound)
        compared, wrong = compare_engines(reference, native, images, tolerance)
    except (CheckpointError, DeviceError, ImportError, ValueError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    run_main(main)
