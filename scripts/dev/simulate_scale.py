"""What happens at scale, computed from the planner's own functions: nothing is extracted.

    python -m scripts.dev.simulate_scale [--rate 25.4] [--price 2.5] [--sizes FILE]

Three tables. **One list** (COCO train, 82,783 images): how unevenly n processes end, how full batches are. **A hundred
million images in 10,000 tars**, a file each, every n-th tar a process's: hours, unevenness, what a machine costs that
dies half-way. **A million images**: files, bytes, requests, and hours and money as a function of a measured rate.

An image costs what the pixels of its network input cost. ``--sizes``: lines of WIDTH HEIGHT COUNT; without it a
distribution that resembles COCO's (long side 640, three quarters lying, most 4:3 or 3:2): COCO's own was not at hand.
``--rate``: images per second and card at 800 x 1056 (feature_extraction/README.md has measured ones); ``--price``: of a
card's hour, in any currency.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from feature_extraction.batching import of_network_size, windows
from feature_extraction.config import SPECS, Spec
from feature_extraction.features import computation_of
from feature_extraction.images.listed import ListedImage
from feature_extraction.recipe import FEATURE_DIM, NUM_CLASSES
from feature_extraction.storage.layouts import PUBLISHED
from feature_extraction.terminal import run_main

LIKE_COCO: Final = {
    (640, 480): 30, (640, 427): 20, (640, 426): 7, (640, 428): 4, (640, 425): 4, (640, 424): 2, (640, 360): 4,
    (500, 375): 3, (640, 640): 2, (640, 400): 1, (480, 640): 11, (427, 640): 6, (426, 640): 2, (428, 640): 1,
    (425, 640): 1, (375, 500): 1, (612, 612): 1,
}  # fmt: skip
"""(width, height) -> share in percent."""
LISTED: Final = 82_783
PROCESSES: Final = (1, 8, 64, 256, 1024)
TARS: Final = 10_000
PER_TAR: Final = 10_000
"""Images."""
REFERENCE: Final = 800 * 1056
"""Pixels of the network input that rates are given for."""
PER_MACHINE: Final = 8
"""Cards, and processes."""
BATCH: Final = 16
RATES: Final = (13.4, 25.4, 108.0, 359.0)
"""Measured on a card: boxes and grid in float32 (batch 1), boxes and grid in bfloat16."""


@dataclass(frozen=True)
class Sized:
    """An image as far as the planner is concerned."""

    id: str
    size: tuple[int, int]
    """(H, W), pixels."""


def sizes_of(file: Path | None) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Sizes (H, W) and their shares."""
    counted = {
        (int(w), int(h)): float(n) for w, h, n in (line.split() for line in file.read_text().splitlines())
    } if file else LIKE_COCO  # fmt: skip
    shares = np.array(list(counted.values()), np.float64)
    return [(h, w) for w, h in counted], shares / shares.sum()


def unevenness(loads: Sequence[float]) -> float:
    """By how much the last process ends after the mean one, as a share of the mean."""
    return max(loads) / statistics.fmean(loads) - 1


def one_list(spec: Spec, sizes: list[tuple[int, int]], shares: NDArray[np.float64]) -> Iterator[str]:
    """COCO train, cut as every extraction cuts it."""
    computation = computation_of(spec)
    drawn = np.random.default_rng(0).choice(len(sizes), LISTED, p=shares)
    images = cast(Sequence[ListedImage], [Sized(str(i), sizes[k]) for i, k in enumerate(drawn)])
    network = {size: computation.network_size(*size) for size in sizes}

    def cost(image: ListedImage) -> float:
        height, width = network[cast(Sized, image).size]
        return height * width / REFERENCE

    for count in PROCESSES:
        cells = []
        for batch_size in (1, BATCH):
            loads = [0.0] * count
            for number, window in enumerate(windows(images, batch_size, 0, 1)):  # as windows() deals them out
                loads[number % count] += sum(map(cost, window))
            cells.append(f"{100 * unevenness(loads):.1f} %")
        yield f"| {spec.name} | {count:,} | " + " | ".join(cells) + " |"
    batches = [
        len(batch)
        for window in windows(images, BATCH, 0, 1)
        for batch in of_network_size(window, BATCH, lambda image: network[cast(Sized, image).size])
    ]
    yield f"\n{spec.name}: batches of {BATCH} hold {statistics.fmean(batches):.1f} images"


def many_tars(sizes: list[tuple[int, int]], shares: NDArray[np.float64], rate: float) -> Iterator[str]:
    """Tars of grids: the cost of a tar is the sum of its images'."""
    computation = computation_of(SPECS["grid"]())
    costs = np.array([np.prod(computation.network_size(*size)) for size in sizes]) / REFERENCE
    each = np.random.default_rng(0).multinomial(PER_TAR, shares, TARS) @ costs / rate / 3600
    for count in PROCESSES:
        loads = [float(each[i::count].sum()) for i in range(count)]
        wall, machine = max(loads), min(count, PER_MACHINE)
        rest = wall / 2
        # a static split: the dead machine's tars wait until it is started again; an array's task is put elsewhere
        again = float(each.max()) if count > PER_MACHINE else rest
        yield (
            f"| {count:,} | {wall:,.0f} h | {100 * unevenness(loads):.1f} % | {-(-TARS // count):,} | "
            f"+{rest:,.0f} h | +{again:.1f} h | {machine} images |"
        )


def a_million(price: float) -> Iterator[str]:
    for rate in RATES:
        hours = 1e6 / rate / 3600
        yield f"| {rate:g} | {hours:,.1f} | {hours * price:,.0f} |"


def what_it_leaves() -> Iterator[str]:
    """Files, groups and bytes of a million images, by kind."""
    for kind, spec in SPECS.items():
        size = spec().bytes_per_image(FEATURE_DIM, NUM_CLASSES)
        arrays = len(PUBLISHED[kind])
        yield (
            f"| {kind} | {size * 1e6 / 1e9:,.0f} GB, twice while it is assembled | {1 + arrays} million objects | "
            f"{1e6 / PER_TAR:,.0f} .h5 and as many reports, from tars of {PER_TAR:,} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=25.4, help="images/s a card for the tars (%(default)s)")
    parser.add_argument("--price", type=float, default=2.5, help="of a card's hour (%(default)s, assumed)")
    parser.add_argument("--sizes", type=Path, help="lines of WIDTH HEIGHT COUNT")
    args = parser.parse_args()
    sizes, shares = sizes_of(args.sizes)
    print(f"One list of {LISTED:,} images: how much later than the mean the last process ends\n")
    print(f"| kind | processes | batch 1 | batch {BATCH} |\n|---|---|---|---|")
    for spec in SPECS.values():
        print("\n".join(one_list(spec(), sizes, shares)))
    print(f"\n{TARS:,} tars of {PER_TAR:,} images, grids, {args.rate:g} images/s a card; {PER_MACHINE} a machine\n")
    print("| processes | wall | unevenness | tars each | dies, started again by hand | dies, an array's task | lost |")
    print("|---" * 7 + "|")
    print("\n".join(many_tars(sizes, shares, args.rate)))
    print("\nA million images\n\n| images/s a card | card hours | money |\n|---|---|---|")
    print("\n".join(a_million(args.price)))
    print("\n| kind | bytes | HDF5 objects | files |\n|---|---|---|---|")
    print("\n".join(what_it_leaves()))
    return 0


if __name__ == "__main__":
    run_main(main)
