#!/usr/bin/env python3
"""Both engines on the same images: ``make parity``, in the gpu image, where the original detector is compiled.

    python -m scripts.parity --images FOLDER --checkpoint_dir FOLDER [--count 20] [--device cuda]

Prints, per image and kind, the largest differences and the seconds of each engine; exits 1 if one is beyond its
bound. The bounds are what another correct float32 order of evaluation needs (tests/data): the same classes in the
same order, boxes to 1e-2 pixel, features to 2e-4 of the largest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch

from feature_extraction import recipe
from feature_extraction.catalog import KINDS
from feature_extraction.detector import build as engines
from feature_extraction.errors import CheckpointError, DeviceError, ImageError
from feature_extraction.extract import Arrays, Task, compute, prepare
from feature_extraction.progress import Clock

ROOT: Final = Path(__file__).resolve().parents[1]

SUFFIXES: Final = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Bounds:
    features: float = 2e-4
    """Of the largest absolute feature of the image."""
    boxes: float = 1e-2
    """Pixels of the original image."""


def differences(reference: Arrays, native: Arrays) -> dict[str, float]:
    """How far the native engine's arrays are from the reference's; ``ids`` counts boxes of another class."""
    if any(reference[k].shape != native[k].shape for k in reference):
        raise ValueError(f"shapes differ: {[(k, reference[k].shape, native[k].shape) for k in reference]}")
    largest = float(np.abs(reference["features"]).max())
    found = {"features": float(np.abs(reference["features"] - native["features"]).max()) / (largest or 1.0)}
    if "boxes" in reference:
        found["boxes"] = float(np.abs(reference["boxes"] - native["boxes"]).max())
        found["ids"] = float((reference["obj_id"] != native["obj_id"]).sum())
    return found


def beyond(found: dict[str, float], bounds: Bounds) -> list[str]:
    """The names of what is out of bounds; a NaN is."""
    limits = {"features": bounds.features, "boxes": bounds.boxes, "ids": 0.0}
    return [name for name, value in found.items() if not value <= limits[name]]


def timed(engine: engines.Engine, source: Path, task: Task) -> tuple[Arrays, float]:
    """One image's arrays and the seconds the detector took. Raises ImageError."""
    item = prepare(source, source.stem, task)
    start = time.perf_counter()
    (result,) = compute(engine, [item], task, Clock())
    if isinstance(result, ImageError):
        raise result
    return result, time.perf_counter() - start  # compute() ends with its results on the CPU


def compare(
    reference: engines.Engine, native: engines.Engine, images: Sequence[Path], bounds: Bounds
) -> tuple[int, int]:
    """Compare every image in both kinds, printing a line each; (compared, out of bounds)."""
    compared = wrong = 0
    seconds = {"reference": 0.0, "native": 0.0}
    for number, path in enumerate(images):
        for kind in KINDS:
            task = Task(kind, recipe.GRID_SIZE, recipe.NUM_BOXES, None, False, "proper", 1)
            try:
                expected, of_reference = timed(reference, path, task)
                found, of_native = timed(native, path, task)
            except ImageError as error:
                print(f"{path.name} {kind}: passed over: {error}")
                continue
            if number:  # the first image pays for warming up
                seconds["reference"] += of_reference
                seconds["native"] += of_native
            apart = differences(expected, found)
            bad = beyond(apart, bounds)
            compared, wrong = compared + 1, wrong + bool(bad)
            print(
                f"{path.name} {kind}: "
                + ", ".join(f"{name} {value:.2g}" for name, value in apart.items())
                + f"; reference {of_reference:.3f} s, native {of_native:.3f} s"
                + (f"  OUT OF BOUNDS: {', '.join(bad)}" if bad else ""),
                flush=True,
            )
    print(
        f"{compared - wrong} of {compared} within bounds (features {bounds.features:g} of the largest, boxes "
        f"{bounds.boxes:g} pixel, same classes); after the first image: "
        + ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    )
    return compared, wrong


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of images, searched recursively")
    parser.add_argument("--checkpoint_dir", type=Path, default=ROOT / "feature_extraction" / "mask_rcnn_ckpt")
    parser.add_argument("--count", type=int, default=20, help="images, evenly spread (%(default)s)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32", help="of the native engine (%(default)s)")
    parser.add_argument("--feature_bound", type=float, default=Bounds.features)
    parser.add_argument("--box_bound", type=float, default=Bounds.boxes)
    args = parser.parse_args(argv)
    images = sorted(p for p in args.images.rglob("*") if p.suffix.lower() in SUFFIXES)
    images = images[:: max(1, len(images) // max(1, args.count))][: args.count]
    if not images:
        print(f"parity: no {', '.join(SUFFIXES)} files below {args.images}", file=sys.stderr)
        return 1
    try:
        device = engines.choose_device(args.device)
        files = engines.find_checkpoint(args.checkpoint_dir)
        reference = engines.load(files, "reference", device, "float32")
        native = engines.load(files, "native", device, args.precision)
        if args.precision == "float32":
            engines.prepare_arithmetic(device, "float32")
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        print(f"{len(images)} images on {name}, PyTorch {torch.__version__}, native in {args.precision}")
        compared, wrong = compare(reference, native, images, Bounds(args.feature_bound, args.box_bound))
    except (CheckpointError, DeviceError, ImportError, ValueError) as error:
        print(f"parity: {error}", file=sys.stderr)
        return 1
    return 1 if wrong or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
