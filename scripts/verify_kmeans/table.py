"""A comparison as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

LISTED: Final = 5
"""Pairs and words that are listed; the JSON document has more."""


def table(found: dict[str, Any]) -> str:
    """The document of ``findings`` as lines of two columns of figures."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    ours, theirs, rows = found["ours"], found["theirs"], found["rows"]
    count, radius = max(1, rows["rows"]), found["radius"] or 1.0
    yield _row("", "ours", "theirs")
    yield _row("words", f"{ours['words']:,}", f"{theirs['words']:,}")
    yield _row("used by these rows", f"{ours['used']:,}", f"{theirs['used']:,}")
    mean = [f"{side['objective'] / count:,.6g}" for side in (ours, theirs)]
    yield _row("objective by row", *mean) + f"   ours {found['excess']:+.3%}"
    yield f"{'words matched':<24} {found['matched']:,}, {found['same_numbers']:,} of them with the same number"
    shown = ", ".join(f"{float(q):.0%} {d / radius:.2g}" for q, d in found["quantiles"].items())
    yield f"{'distance of partners':<24} {shown}   (of the distance of a row to its word, {radius:.4g})"
    least = found["least_mean_distance"] / radius
    yield f"{'mean distance':<24} {found['mean_distance'] / radius:.3g}; no one-to-one matching is below {least:.3g}"
    yield (
        f"{'rows in matched words':<24} {found['share']:.2%} of {rows['rows']:,} rows, {rows['images']:,} images of "
        f"{rows['target']}"
    )
    for pair in found["farthest"][:LISTED]:
        if pair["distance"]:
            a, b = pair["ours"], pair["theirs"]
            yield (
                f"{'farthest apart':<24} {a['word']} and {b['word']}: {pair['distance'] / radius:.2g}; "
                f"{a['rows']:,} and {b['rows']:,} rows, {pair['common']:,} in both"
            )
    for side in ("ours", "theirs"):
        alone = found[f"alone_{side}"]
        if alone["count"]:
            some = ", ".join(f"{w['word']} ({w['rows']:,} rows)" for w in alone["largest"][:LISTED])
            more = ", ..." if alone["count"] > LISTED else ""
            yield f"{'without a partner':<24} {alone['count']:,} of {side}: {some}{more}"


def _row(title: str, ours: str, theirs: str) -> str:
    return f"{title:<24} {ours:>12} {theirs:>12}"
