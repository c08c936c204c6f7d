"""The verdict: a sentence with the likely cause, and whether the two files agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from feature_extraction.compare import Level, Tolerance, out_of_tolerance

from .causes import Cause
from .evidence import Findings
from .pattern import Suspicion, suspect

if TYPE_CHECKING:  # it needs torch
    from .explain import Explanation, Tried

ASK_EXPLAIN: Final = "--explain recomputes some images and says which"


@dataclass(frozen=True)
class Verdict:
    """What is said of one pair of files."""

    ok: bool
    sentence: str
    causes: tuple[Cause, ...] = ()
    """Empty: nothing differs, or nothing known explains it. Several: the files alone do not tell them apart."""
    recomputed: bool = False
    """Whether the cause follows from images computed again; else from the two files alone."""
    problems: tuple[str, ...] = ()
    """All that is wrong, in words."""


def judge(found: Findings, explanation: Explanation | None, tolerance: Tolerance) -> Verdict:
    """The verdict on one pair."""
    problems = (*found.problems, *out_of_tolerance(found.differences, tolerance))
    counted = _counted(found)
    suspicion = suspect(found)
    if suspicion is None:
        same = "Ours are the published features: " if found.evidence else ""
        return Verdict(not problems, f"{same}{counted}.", problems=problems)
    causes, why = _explained(found, suspicion, explanation) if explanation is not None else _suspected(suspicion)
    ok = not problems and causes != (Cause.OTHER_IMAGE,)
    return Verdict(ok, f"{counted}. {why}", causes, explanation is not None, problems)


def _counted(found: Findings) -> str:
    if not found.evidence:
        return "No image could be compared"
    levels = [f"{count} {level}" for level, count in found.levels.items() if count]
    return f"{len(found.evidence)} images: " + ", ".join(levels)


def _suspected(suspicion: Suspicion) -> tuple[tuple[Cause, ...], str]:
    causes = suspicion.causes
    if len(causes) == 1:
        return causes, f"The published features probably {causes[0].value}: {suspicion.because}."
    either = "; or ".join(cause.value for cause in causes)
    return causes, f"{suspicion.because.capitalize()}: the published features {either}. {ASK_EXPLAIN}."


def _explained(found: Findings, suspicion: Suspicion, explanation: Explanation) -> tuple[tuple[Cause, ...], str]:
    recomputed = f"{len(explanation.ids)} recomputed images"
    if explanation.ours_is_to_blame:
        return (), (
            f"The published features are what this checkpoint and these images give ({recomputed}), ours are not: "
            "they were made of other images, weights or settings; extract them again."
        )
    best = explanation.best
    if best is not None and best.hypothesis.cause is not None:
        named = best.hypothesis.cause
        said = f'The published features {named.value}: "{best.hypothesis.says}" {_leaves(best, explanation)}.'
        return (named,), said + _own(explanation)
    cause = _by_exclusion(found, suspicion)
    none = f"None of {explanation.rows} known ways of computing them explains the {recomputed}"
    if cause is None:
        return (), f"{none}. From the files: {suspicion.because}.{_own(explanation)}"
    return (cause,), f"The published features {cause.value}: {suspicion.because}. {none}.{_own(explanation)}"


def _by_exclusion(found: Findings, suspicion: Suspicion) -> Cause | None:
    """What recomputing cannot show: other weights, other images; and what the files show by themselves."""
    if len(suspicion.causes) == 1:
        return suspicion.causes[0]
    if Cause.CHECKPOINT in suspicion.causes or Cause.OTHER_IMAGE in suspicion.causes:
        return suspicion.causes[0]  # the others of that rule would have been explained
    return None


def _leaves(best: Tried, explanation: Explanation) -> str:
    images = len(explanation.ids)
    exact = sum(level <= Level.ROUNDING for level in best.levels)
    if exact == images:
        return f"gives the numbers of {exact} of {images} recomputed images to float32 rounding"
    left = best.total / explanation.baseline.total
    return f"leaves {left:.0%} of the difference of {images} recomputed images"


def _own(explanation: Explanation) -> str:
    if max(explanation.own) <= Level.ROUNDING:
        return ""
    return " Our own file is not what this checkpoint and these images give in float32 either."
