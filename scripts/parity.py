"""Both engines on the same images, in the gpu image, where the original detector is compiled.

    python -m scripts.parity --images FOLDER --checkpoint_dir FOLDER [--count 20] [--device cuda]

Prints, per image and kind of features, the largest differences and the seconds of each engine. The tolerance is
what another correct float32 order of evaluation needs (tests/data): the same classes in the same order, boxes to 1e-2
pixel, features to 2e-4 of the largest.
Exit codes: 0 within it; 1 one is beyond it, or nothing could be compared; 2 usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feature_extraction.arguments import Parser
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING, PRECISIONS
from feature_extraction.errors import KitError
from feature_extraction.names import printable
from feature_extraction.terminal import exit_code_of, run_main

SUFFIXES: Final = (".jpg", ".jpeg", ".png")


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
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the native engine (%(default)s)")
    parser.add_argument("--feature_bound", type=float, help="difference, of the image's largest feature (as above)")
    parser.add_argument("--box_bound", type=float, help="pixels (as above)")
    return parser.parse_args(argv)


def compared_engines(args: argparse.Namespace, images: Sequence[Path]) -> tuple[int, int]:
    """(compared, out of tolerance) of these images. Raises KitError."""
    import torch

    from feature_extraction.detector.build import choose_device, device_name, load_detector
    from feature_extraction.detector.files import find_checkpoint
    from feature_extraction.tolerance import SAME_NETWORK, Tolerance

    from .engines import compare_engines

    device = choose_device(args.device)
    files = find_checkpoint(args.checkpoint_dir)
    reference = load_detector(files, engine="reference", device=device, precision="float32")
    native = load_detector(files, engine="native", device=device, precision=args.precision)
    print(f"{len(images)} images on {device_name(device)}, PyTorch {torch.__version__}, native in {args.precision}")
    features = SAME_NETWORK.features if args.feature_bound is None else args.feature_bound
    boxes = SAME_NETWORK.boxes if args.box_bound is None else args.box_bound
    return compare_engines(reference, native, images, Tolerance(features=features, boxes=boxes))


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    images = chosen(args.images, args.count)
    if not images:
        print(f"error: no {', '.join(SUFFIXES)} files below {printable(args.images)}", file=sys.stderr)
        return EXIT_NOTHING
    try:
        compared, wrong = compared_engines(args, images)
    except (KitError, ValueError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return exit_code_of(error)
    return EXIT_NOTHING if wrong or not compared else EXIT_ALL


if __name__ == "__main__":
    run_main(main)
