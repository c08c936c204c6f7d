"""The verdict: a sentence with the likely cause, and whether the two files agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from feature_extraction.compare import out_of_tolerance
from feature_extraction.names import counted
from feature_extraction.tolerance import Level, Tolerance

from .causes import Cause
from .evidence import Findings
from .pattern import Suspicion, suspect

if TYPE_CHECKING:  # it needs torch
    from .explain import Explanation, Tried

ASK_EXPLAIN: Final = "--explain recomputes some images and says which."
OTHER_SOURCES: Final = (
    "our own file is not what this checkpoint and these images give, name those that it was made of (--checkpoint_dir, "
    "--explain IMAGES)"
)
SAME_KIND: Final = "Compare files of the same data set, split and settings."


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


def judge(found: Findings, explanation: Explanation | None, tolerance: Tolerance, why_not: str = "") -> Verdict:
    """The verdict on one pair. ``why_not``: why nothing was recomputed, although it was asked for."""
    if not found.evidence:
        problems = tuple(found.problems) or ("neither file holds an image",)
        return Verdict(False, f"No image could be compared: {'; '.join(problems[:2])}. {SAME_KIND}", problems=problems)
    problems = (*found.problems, *out_of_tolerance(found.differences, tolerance))
    suspicion = suspect(found)
    if suspicion is None:
        return Verdict(not problems, _alike(found, problems), problems=problems)
    told = explanation is not None and not explanation.says_nothing
    if explanation is not None and told:
        causes, why = _explained(found, suspicion, explanation)
    else:
        causes, why = _suspected(suspicion, why_not or (OTHER_SOURCES if explanation is not None else ""))
    ok = not problems and causes != (Cause.OTHER_IMAGE,)
    return Verdict(ok, f"{_levels(found)}. {why}", causes, told, problems)


def _alike(found: Findings, problems: Sequence[str]) -> str:
    if not problems:
        return f"Ours are the published features ({_levels(found)})."
    return f"The images that could be compared are alike ({_levels(found)}), but {'; '.join(problems[:2])}."


def _levels(found: Findings) -> str:
    levels = [f"{count:,} {level}" for level, count in found.levels.items() if count]
    return f"{counted(len(found.evidence))}: " + ", ".join(levels)


def _suspected(suspicion: Suspicion, why_not: str) -> tuple[tuple[Cause, ...], str]:
    causes = suspicion.causes
    nothing = f" Recomputing says nothing: {why_not}." if why_not else ""
    if len(causes) == 1:
        return causes, f"The published features probably {causes[0].value}: {suspicion.because}.{nothing}"
    either = "; or ".join(cause.value for cause in causes)
    because = suspicion.because[0].upper() + suspicion.because[1:]
    return causes, f"{because}. The published features {either}.{nothing or f' {ASK_EXPLAIN}'}"


def _explained(found: Findings, suspicion: Suspicion, explanation: Explanation) -> tuple[tuple[Cause, ...], str]:
    recomputed = f"{counted(len(explanation.ids))} recomputed"
    if explanation.published_is_right:
        are = f"are what this checkpoint and these images give ({explanation.baseline.exact} of {recomputed})"
        if explanation.own[0] <= Level.ROUNDING:
            return (), f"The features of both files {are}, to float32 rounding."
        return (), (
            f"The published features {are}, ours are not: they were made of other images, weights or settings; extract "
            "them again."
        )
    best = explanation.best
    if best is not None and best.hypothesis.cause is not None:
        named = best.hypothesis.cause
        said = f'The published features {named.value}: "{best.hypothesis.says}" {_leaves(best, explanation)}.'
        return (named,), said + _own(explanation)
    cause, as_large = _by_exclusion(found, suspicion), explanation.as_large
    none = f"None of {explanation.rows} known ways of computing them explains the {recomputed}"
    if as_large is not None and Cause.PRECISION in suspicion.causes:
        causes = (Cause.PRECISION, Cause.DECODER)
        either = "; or ".join(c.value for c in causes)
        size = f"the difference is as large as what {as_large.hypothesis.says} rounds off, with other roundings"
        return causes, f"The published features probably {either}: {size}. {none}.{_own(explanation)}"
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
    if best.has_same_roundings and best.roundings is not None:
        return f"makes the same roundings in {counted(images)} recomputed (correlation {best.roundings.alike:.2f})"
    if best.exact == images:
        return f"gives the numbers of {counted(images)} recomputed to float32 rounding"
    left = best.total / explanation.baseline.total
    return f"leaves {left:.0%} of the difference of {counted(images)} recomputed"


def _own(explanation: Explanation) -> str:
    if max(explanation.own) <= Level.ROUNDING:
        return ""
    return " Our own file is not what this checkpoint and these images give in float32 either."
