"""The pairs of files, one after the other: compared, explained, printed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import h5py

from feature_extraction.config import EXIT_ALL, EXIT_NOTHING
from feature_extraction.errors import KitError
from feature_extraction.images.address import shown
from feature_extraction.names import json_printable, printable
from feature_extraction.storage import store
from feature_extraction.storage.files import atomic_write

from .evidence import Findings
from .files import ERRORS, Pair, alone, compare_files, opened, pairs, told
from .options import Options
from .report import Result, json_of, text_of
from .verdict import Verdict, judge

if TYPE_CHECKING:  # it needs torch
    from .explain import Explanation

INTERRUPTED: Final = "it was interrupted"
EXIT_INTERRUPTED: Final = 130


def verify(pair: Pair, options: Options) -> Result:
    """Compare one pair of files."""
    try:
        with store.open_features(pair.ours) as ours, opened(pair.published) as theirs:
            found = compare_files(ours, theirs, options.sample, options.tolerance)
            explanation, why_not = explained(ours, theirs.file, found, options)
            verdict = judge(found, explanation, options.tolerance, why_not)
            return Result(pair, found, verdict, explanation, theirs.traffic, interrupted=why_not == INTERRUPTED)
    except (KitError, *ERRORS) as error:
        reason = told(error)
        return Result(pair, Findings(), Verdict(False, f"Not compared: {reason}", problems=(reason,)), error=reason)


def explained(ours: h5py.File, theirs: h5py.File, found: Findings, options: Options) -> tuple[Explanation | None, str]:
    """What recomputing says, or None and why it was wanted and not done: the verdict of the files alone is not lost."""
    if not options.explain or not found.differing:
        return None, ""
    from .recompute import recompute  # it imports torch

    try:
        return recompute(ours, theirs, found, options, complain), ""
    except (KitError, *ERRORS) as error:
        return None, told(error)
    except KeyboardInterrupt:
        return None, INTERRUPTED


def complain(text: str) -> None:
    print(f"verify: {text}", file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> int:
    """Compare and print. Raises KitError where nothing can be compared or recomputed from the start."""
    options = Options(
        tolerance=args.tolerance,
        sample=args.sample,
        explain=args.explain is not None,
        images=Path(args.explain) if args.explain else None,
        checkpoint_dir=args.checkpoint_dir,
        device=args.device,
    )
    found = pairs(args.ours, args.published)
    if options.explain:
        from .recompute import check  # it imports torch

        check(options)
    if lacking := alone(args.ours, found):
        complain(f"not compared, {shown(args.published)} has no published file for {', '.join(lacking)}")
    results: list[Result] = []
    for pair in found:
        results.append(verify(pair, options))
        print(text_of(results[-1], args.worst), flush=True)
        if results[-1].interrupted:
            return EXIT_INTERRUPTED
    if len(results) > 1:
        print(f"{sum(result.ok for result in results)} of {len(results)} files are within the tolerances")
    if args.json is not None:
        try:
            atomic_write(args.json, json_printable(json.dumps(json_of(results), indent=2, allow_nan=False)) + "\n")
        except OSError as error:
            complain(f"{printable(args.json)} cannot be written: {error.strerror}")
            return EXIT_NOTHING
    return EXIT_ALL if all(result.ok for result in results) else EXIT_NOTHING
