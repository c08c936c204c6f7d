"""Two engines on the same images: how far apart their features are, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feature_extraction.compare import compare_rows, out_of_tolerance
from feature_extraction.config import SPECS
from feature_extraction.detector.build import Detector
from feature_extraction.errors import ImageError
from feature_extraction.features import Arrays, Computation, NetworkInput, computation_of, compute
from feature_extraction.images.decode import read_image
from feature_extraction.names import printable
from feature_extraction.progress import Clock
from feature_extraction.tolerance import Difference, Tolerance


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
