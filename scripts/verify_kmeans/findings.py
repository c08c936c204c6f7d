"""What a comparison of two vocabularies found, as a document: the JSON beside our centroids, which the report reads.

``SCHEMA`` names its form. Words are numbers from 0, distances L2, cells (image id, place in the image, squared L2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from feature_extraction.errors import VocabularyError
from feature_extraction.names import json_printable
from feature_extraction.places import to_type
from feature_extraction.storage import bounded, files
from kmeans import results
from kmeans.comparison import Comparison, Side, cells_of
from kmeans.vectors import FeatureFile

SCHEMA: Final = 1
SHOWN: Final = 12
"""Pairs that are farthest apart, and words without a partner of either side, that are listed with their cells."""
QUANTILES: Final = (0.5, 0.9, 0.99, 1.0)
ROUNDING: Final = 1e-3
"""Of the distance of a row to its word: words that are nearer to their partners differ by rounding."""


def document(found: Comparison, file: FeatureFile, target: str) -> dict[str, Any]:
    """What was found on the rows of ``file``, which the k-means calls ``target``; without the two sides' own names."""
    matching = found.matching
    matched = matching.matched
    distances = matching.distance[matched].astype(np.float64)
    farthest = matched[np.argsort(-distances, kind="stable")][:SHOWN]
    return {
        "schema": SCHEMA,
        "ours": _side(found.ours),
        "theirs": _side(found.theirs),
        "rows": {"file": str(file.path.resolve()), "target": target, "images": found.images, "rows": found.rows},
        "excess": found.excess,
        "matched": len(matched),
        "same_numbers": found.same_numbers,
        "share": found.share,
        "radius": found.radius,
        "mean_distance": float(distances.sum() / max(1, len(matched))),
        "least_mean_distance": matching.least_mean,
        "quantiles": {str(q): float(np.quantile(distances, q)) for q in QUANTILES},
        "partner": matching.partner.tolist(),
        "distance": [float(d) if np.isfinite(d) else None for d in matching.distance],
        "common": found.common.tolist(),
        "farthest": [_pair(found, word, file, target) for word in farthest.tolist()],
        "alone_ours": _alone(found.ours, np.flatnonzero(matching.partner < 0), file, target),
        "alone_theirs": _alone(found.theirs, matching.without(len(found.theirs.sizes)), file, target),
    }


def _side(side: Side) -> dict[str, Any]:
    return {"words": len(side.sizes), "used": side.used, "objective": side.objective}


def _pair(found: Comparison, word: int, file: FeatureFile, target: str) -> dict[str, Any]:
    partner = int(found.matching.partner[word])
    return {
        "distance": float(found.matching.distance[word]),
        "common": int(found.common[word]),
        "ours": _word(found.ours, word, file, target),
        "theirs": _word(found.theirs, partner, file, target),
    }


def _word(side: Side, word: int, file: FeatureFile, target: str) -> dict[str, Any]:
    cells = [[c.image_id, c.cell, c.distance] for c in cells_of(side, word, file, target)]
    return {"word": word, "rows": int(side.sizes[word]), "cells": cells}


def _alone(side: Side, words: Any, file: FeatureFile, target: str) -> dict[str, Any]:
    """Words without a partner: their number, and the largest of them."""
    largest = words[np.argsort(-side.sizes[words], kind="stable")][:SHOWN]
    return {"count": len(words), "largest": [_word(side, w, file, target) for w in largest.tolist()]}


def verdict(found: dict[str, Any], objective: float, share: float) -> tuple[bool, str]:
    """Whether the two are as near as is asked for, and what is to be said of them in a sentence.

    ``objective``: how far the objectives may be apart, in parts of theirs; ``share``: least share of rows in matched
    words."""
    excess, radius = found["excess"], found["radius"]
    words = found["ours"]["words"], found["theirs"]["words"]
    whole, numbered = found["matched"] == max(words), found["same_numbers"] == max(words)
    farthest = found["quantiles"]["1.0"]
    if whole and farthest <= ROUNDING * radius:
        kind = "the same vocabulary" if farthest == 0 else "the same vocabulary but for rounding"
        other = ", but under other numbers: weights that were trained with one do not fit the other"
        return found["share"] >= share, kind + ("" if numbered else other)
    said = f"{found['share']:.1%} of the rows are in matched words"
    if excess > objective:
        return False, f"ours describes these rows worse, its objective is {excess:.2%} larger; {said}"
    if excess < -objective:
        return False, (
            f"theirs describes these rows worse, our objective is {-excess:.2%} smaller: it was made of other features "
            f"({to_type('verify')} compares those) or of fewer rows; {said}"
        )
    return found["share"] >= share, (
        f"other words, and objectives {abs(excess):.2%} apart; {said}; weights that were trained with one vocabulary "
        "do not fit the other"
    )


def save(path: Path, found: dict[str, Any]) -> None:
    """Raises OSError."""
    files.atomic_write(path, json_printable(results.json_text(found)))


def load(path: Path) -> dict[str, Any]:
    """What ``save`` wrote: the parts that the report shows are checked. Raises VocabularyError; FileNotFoundError."""
    try:
        found = bounded.read_json(path)
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ValueError(f"no document of schema {SCHEMA}")
        for side in ("ours", "theirs"):
            _require(found[side], {"words": int, "centroids_sha256": str, "path": str, "origin": dict})
        _require(found, {"verdict": str, "share": float | int, "matched": int, "radius": float | int})
        _require(found["rows"], {"target": str, "images": int, "rows": int})
        for pair in found["farthest"]:
            _require(pair, {"distance": float | int, "common": int})
        words = [pair[side] for pair in found["farthest"] for side in ("ours", "theirs")]
        alone = [found["alone_ours"], found["alone_theirs"]]
        for word in words + [word for some in alone for word in some["largest"]]:
            _require(word, {"word": int, "rows": int, "cells": list})
            if any([type(part) for part in cell] != [str, int, float] for cell in word["cells"]):
                raise ValueError("a cell that is none")
        for some in alone:
            _require(some, {"count": int})
        return found
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise VocabularyError(
            f"{path} is not what {to_type('verify-kmeans')} writes ({reason}): run it again"
        ) from None


def _require(part: Any, types: dict[str, Any]) -> None:
    for name, kind in types.items():
        value = part[name]
        if isinstance(value, bool) or not isinstance(value, kind):
            raise ValueError(f"{name} is {type(value).__name__}")
