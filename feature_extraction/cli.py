"""The published flags and ours -> one frozen dataclass -> the run. User errors are printed once, here."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final, get_args

from . import catalog, recipe
from .catalog import DataSet, Kind
from .config import EXIT_NOTHING, ExtractConfig
from .errors import UnknownName, UsageError


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _shard(text: str) -> tuple[int, int]:
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form i/n, for example 1/4") from None
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"{text!r}: i counts from 1 to n")
    return index - 1, count


def _imsize(text: str) -> int:
    value = _positive(text)
    if value % recipe.SIZE_DIVISOR:
        raise argparse.ArgumentTypeError(
            f"{value} is not a multiple of {recipe.SIZE_DIVISOR}, which the pyramid needs; "
            f"nearest: {max(1, round(value / recipe.SIZE_DIVISOR)) * recipe.SIZE_DIVISOR}"
        )
    return value


def _add_common_flags(parser: argparse.ArgumentParser, kinds: Sequence[Kind]) -> None:
    published = parser.add_argument_group("published flags")
    if "grid" in kinds:
        published.add_argument(
            "--grid_size", type=_positive, default=recipe.GRID_SIZE, help="cells per side (%(default)s)"
        )
        published.add_argument("--imsize", type=_imsize, help="resize every image to this many pixels squared (grid)")
        published.add_argument(
            "--im_ratio", choices=["original"], default="original", help="has no effect, as published"
        )
    published.add_argument("--batch_size", type=_positive, default=1, help="images of one size per batch (%(default)s)")
    published.add_argument("--backbone", choices=["maskrcnn"], default="maskrcnn", help="the only one")
    if "boxes" in kinds:
        published.add_argument("--test", action="store_true", help="write to a file name that ends in _test")
    ours = parser.add_argument_group("further flags")
    if "boxes" in kinds:
        ours.add_argument("--num_boxes", type=_positive, default=recipe.NUM_BOXES, help="boxes per image (%(default)s)")
        ours.add_argument("--class_probs", action="store_true", help="store cls_prob (boxes, classes) as well")
    ours.add_argument("--checkpoint_dir", type=Path, default=Path("mask_rcnn_ckpt"), help="its folder (./%(default)s)")
    ours.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    ours.add_argument(
        "--precision", choices=["float32", "tf32", "bfloat16", "float16"], default="float32",
        help="%(default)s is the published arithmetic; the others are faster and drift",
    )  # fmt: skip
    ours.add_argument("--engine", choices=["native", "reference"], default="native", help="(%(default)s)")
    ours.add_argument(
        "--decode", choices=["proper", "as_published"], default="proper", help="palette images (%(default)s)"
    )
    ours.add_argument("--workers", type=int, default=0, help="decoding threads (by the number of cores)")
    ours.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="i/n", help="do the i-th of n shares (job arrays)"
    )
    ours.add_argument("--output", type=Path, help="another .h5 file than the published one")


EPILOG: Final = (
    "Interrupted runs resume with the same command. Several GPUs: torchrun --nproc-per-node N SCRIPT ... "
    "Exit codes: 0 all images, 3 some failed (see the .report.json beside the output), 1 nothing done."
)


def main_for(dataset: str, kind: Kind, argv: Sequence[str] | None = None) -> int:
    """One of the eight published scripts."""
    data = catalog.data_set(dataset)
    parser = argparse.ArgumentParser(
        description=f"Extract {kind} features of {data.title} with the ResNeXt-152 Faster R-CNN.", epilog=EPILOG
    )
    parser.add_argument(
        f"--{data.root_flag}", dest="root", type=Path, default=Path(data.default_root), help="root folder (%(default)s)"
    )
    if data.split_names:
        parser.add_argument("--split", choices=data.split_names, default="valid", help="(%(default)s)")
    _add_common_flags(parser, [kind])
    args = parser.parse_args(argv)
    return execute(_of_data_set(data, kind, args))


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m feature_extraction``: any data set and kind, or any folder of images."""
    parser = argparse.ArgumentParser(
        prog="python -m feature_extraction",
        description="Extract grid or box features of a data set of the catalogue or of any folder of images.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--dataset", choices=list(catalog.DATA_SETS), help="with --root and, where it has some, --split"
    )
    parser.add_argument("--split", help="train, valid or test")
    parser.add_argument("--root", type=Path, help="root folder of the data set (datasets/NAME)")
    parser.add_argument("--images", type=Path, help="any folder of images, searched recursively; with --output")
    parser.add_argument("--kind", choices=get_args(Kind), default="grid", help="(%(default)s)")
    _add_common_flags(parser, catalog.KINDS)
    args = parser.parse_args(argv)
    if (args.dataset is None) == (args.images is None):
        parser.error("give either --dataset NAME or --images DIR --output FILE.h5")
    if args.images is not None:
        if args.output is None or args.split or args.root:
            parser.error("--images DIR goes with --output FILE.h5, not with --split or --root")
        return execute(ExtractConfig(images=args.images, pattern="*", recursive=True, **_shared(args, args.kind)))
    data = catalog.data_set(args.dataset)
    if args.root is None:
        args.root = Path("datasets") / data.folder
    if args.split is None:
        args.split = "valid" if data.split_names else ""
    try:
        return execute(_of_data_set(data, args.kind, args))
    except UnknownName as error:
        parser.error(str(error))


def _shared(args: argparse.Namespace, kind: Kind) -> dict[str, Any]:
    known = {f.name for f in fields(ExtractConfig)} - {"images", "pattern", "recursive", "dataset", "split"}
    values = {name: value for name, value in vars(args).items() if name in known}
    return {**values, "kind": kind}


def _of_data_set(data: DataSet, kind: Kind, args: argparse.Namespace) -> ExtractConfig:
    split = data.split(getattr(args, "split", ""))
    root = args.root.resolve()
    values = _shared(args, kind)
    if values.get("output") is None:
        values["output"] = data.features_file(
            root,
            split,
            kind,
            encoder=args.backbone,
            grid_size=getattr(args, "grid_size", recipe.GRID_SIZE),
            num_boxes=getattr(args, "num_boxes", recipe.NUM_BOXES),
            imsize=getattr(args, "imsize", None),
            test=kind == "boxes" and getattr(args, "test", False),
        )
    return ExtractConfig(
        images=data.images_dir(root, split),
        pattern=data.pattern,
        recursive=data.recursive,
        dataset=data.name,
        split=split.name,
        **values,
    )


def execute(config: ExtractConfig) -> int:
    """Run one extraction; returns the exit code. Errors a user can mend are printed in one paragraph."""
    from torch import OutOfMemoryError

    from .errors import CheckpointError, DeviceError, ImageFolderError, StoreError
    from .pipeline import extract

    stopping = threading.Event()
    stopped_by: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if number in stopped_by:  # the same twice: at once (torchrun sends SIGTERM after a Ctrl-C of its own)
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stopped_by.append(number)
        stopping.set()
        print("\nstopping after the images in flight; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = extract(config, stopping)
        return 128 + stopped_by[0] if stopped_by and code == EXIT_NOTHING else code
    except (CheckpointError, DeviceError, ImageFolderError, StoreError, UsageError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
    except (OutOfMemoryError, MemoryError) as error:
        print(f"error: out of memory ({error}): take a smaller --batch_size or fewer --workers", file=sys.stderr)
    except OSError as error:
        print(
            f"error: {error}. What was computed is kept; mend the cause and run the same command again", file=sys.stderr
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return EXIT_NOTHING
