"""What was found of one pair of files, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from feature_extraction.compare import quantiles
from feature_extraction.images.address import shown
from feature_extraction.names import counted, printable

from .evidence import MOST_LISTED, Evidence, Findings
from .files import Pair
from .remote import Traffic
from .verdict import Verdict

if TYPE_CHECKING:  # it needs torch
    from .explain import Explanation

SHARES: Final = (0.5, 0.9, 0.99, 1.0)
"""Of the images, for which the worst difference is printed."""
TITLES: Final = {"features": "features apart", "boxes": "pixels apart", "matched": "boxes found again"}


@dataclass(frozen=True)
class Result:
    """One pair, compared."""

    pair: Pair
    found: Findings
    verdict: Verdict
    explanation: Explanation | None = None
    traffic: Traffic | None = None
    error: str = ""
    """Why it could not be compared."""
    interrupted: bool = False
    """Whether its images were being recomputed when the user ended that."""

    @property
    def ok(self) -> bool:
        return self.verdict.ok


def text_of(result: Result, worst: int) -> str:
    """Several lines: how it stands, the ladder, quantiles, the worst images, what is wrong."""
    pair, found, verdict = result.pair, result.found, result.verdict
    if result.error:
        return f"{pair.name}: WRONG: {result.error}"
    word = "ok" if verdict.ok else "WRONG"
    lines = [f"{pair.name}: {word}, {counted(len(found.evidence))} compared with {shown(pair.published)}"]
    lines += [f"    {level!s:18}{count:8}" for level, count in found.levels.items() if count]
    for name, title in TITLES.items():
        if values := quantiles(found.differences, name, SHARES):
            lines.append(f"    {title}: " + ", ".join(f"{share:.0%} {value:.2g}" for share, value in values))
    lines += _worst(found.worst_first[:worst])
    lines += [f"    {problem}" for problem in verdict.problems[:MOST_LISTED]]
    if len(verdict.problems) > MOST_LISTED:
        lines.append(f"    and {len(verdict.problems) - MOST_LISTED} more")
    if result.explanation is not None:
        lines += _tried(result.explanation)
    if result.traffic is not None:
        lines.append(f"    read {result.traffic.bytes / 1e6:.1f} MB in {result.traffic.requests:,} requests")
    return "\n".join([*lines, f"    Verdict: {verdict.sentence}"])


def _worst(images: Sequence[Evidence]) -> list[str]:
    if not images:
        return []
    rows = [("worst images", "", "features", "found again", "correlation")]
    rows += [
        (printable(e.id), str(e.level), _figure(e.difference.features), _figure(e.difference.matched),
         _figure(e.correlation))
        for e in images
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows]  # fmt: skip


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _tried(explanation: Explanation) -> list[str]:
    before = explanation.baseline.total or 1.0
    lines = [f"    recomputed {', '.join(map(printable, explanation.ids))}; ways tried: {explanation.rows}; the best:"]
    return [*lines, *(f"      {t.total / before:7.1%} left  {t.hypothesis.says}" for t in explanation.tried)]


# --- JSON ------------------------------------------------------------------------------------------------------


def json_of(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One object per pair; numbers that are not finite as texts."""
    return [_pair_json(result) for result in results]


def _pair_json(result: Result) -> dict[str, Any]:
    found, verdict = result.found, result.verdict
    return {
        "ours": printable(result.pair.ours),
        "published": shown(result.pair.published),
        "ok": verdict.ok,
        "verdict": verdict.sentence,
        "causes": [cause.name for cause in verdict.causes],
        "recomputed": verdict.recomputed,
        "problems": list(verdict.problems),
        "faults": {what: [printable(name) for name in ids] for what, ids in found.faults.items()},
        "compared": len(found.evidence),
        "levels": {str(level): count for level, count in found.levels.items()},
        "quantiles": {
            name: {f"{share:g}": _number(value) for share, value in quantiles(found.differences, name, SHARES)}
            for name in TITLES
        },
        "differing": [_image_json(e) for e in found.worst_first],
        "hypotheses": _hypotheses_json(result.explanation),
        "traffic": vars(result.traffic) if result.traffic is not None else None,
    }


def _image_json(e: Evidence) -> dict[str, Any]:
    return {
        "id": printable(e.id),
        "level": str(e.level),
        **{name: _number(getattr(e.difference, name)) for name in TITLES},
        "correlation": _number(e.correlation),
    }


def _hypotheses_json(explanation: Explanation | None) -> list[dict[str, Any]]:
    if explanation is None:
        return []
    return [
        {
            "says": t.hypothesis.says,
            "cause": t.hypothesis.cause.name if t.hypothesis.cause is not None else None,
            "left": [_number(outcome.left) for outcome in t.outcomes],
            "levels": [str(outcome.level) for outcome in t.outcomes],
            "roundings": vars(t.roundings) if t.roundings is not None else None,
        }
        for t in (explanation.baseline, *explanation.tried)
    ]


def _number(value: float | None) -> float | str | None:
    return value if value is None or abs(value) < float("inf") else str(value)
