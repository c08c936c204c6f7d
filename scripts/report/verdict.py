"""What the page says first: how things stand, in words."""

from __future__ import annotations

from typing import Final

from feature_extraction import catalog

from .files import FeatureEntry
from .words import Vocabulary

SPLITS: Final = 4
"""Splits that are named with their counts; more would be no sentence."""


def verdict(entries: list[FeatureEntry], vocabulary: Vocabulary | None) -> list[str]:
    """The clauses of one sentence."""
    published = [e for e in entries if e.row is not None]
    whole = [e for e in published if e.whole]
    clauses = [f"{len(whole)} of {len(catalog.feature_files())} files", *_counts(whole)]
    further = sum(e.whole for e in entries if e.row is None)
    if further:
        clauses.append(f"{further} further {'file' if further == 1 else 'files'}")
    for state in ("unfinished", "damaged"):
        count = sum(e.state == state for e in entries)
        if count:
            clauses.append(f"{count} {'file' if count == 1 else 'files'} {state}")
    if any(e.synthetic for e in entries):
        clauses.append("SYNTHETIC weights")
    if any(e.state != "missing" for e in entries):
        failed = len({(e.title, f["id"] or f["path"]) for e in entries for f in e.failures})
        clauses.append(f"{failed:,} {'image' if failed == 1 else 'images'} failed")
    return [*clauses, _of(vocabulary)]


def is_troubling(clause: str) -> bool:
    """Whether a clause of the verdict tells of something to look after."""
    return clause.endswith("damaged") or (clause.endswith("failed") and not clause.startswith("0 "))


def _counts(whole: list[FeatureEntry]) -> list[str]:
    """Images of each split: of those that are not complete, then how many are."""
    by_split: dict[str, tuple[int, int, str]] = {}
    for entry in whole:
        assert entry.published is not None
        now = (len(entry.ids), entry.published, entry.title)
        by_split[entry.title] = min(now, by_split.get(entry.title, now))
    short = [(n, of, title) for n, of, title in by_split.values() if n < of]
    clauses = [f"{n:,} of {of:,} images of {title}" for n, of, title in short[:SPLITS]]
    if len(short) > SPLITS:
        clauses.append(f"{len(short) - SPLITS} more splits in part")
    complete = [title for n, of, title in by_split.values() if n >= of]
    return clauses + ([f"all images of {', '.join(complete)}"] if complete else [])


def _of(vocabulary: Vocabulary | None) -> str:
    if vocabulary is None:
        return "no vocabulary yet"
    words = f"vocabulary of {vocabulary.k:,} words"
    return f"{words}, {vocabulary.used:,} used" if vocabulary.targets else f"{words}, no images assigned to it yet"


def warnings_of(entries: list[FeatureEntry], vocabulary: Vocabulary | None) -> list[str]:
    """What a reader should know before trusting the files."""
    told = [f"damaged: {e.why}" for e in entries if e.state == "damaged"]
    told += [e.remark for e in entries if e.remark]
    checkpoints = {str(e.made["checkpoint_sha256"]) for e in entries if e.made.get("checkpoint_sha256")}
    if len(checkpoints) > 1:
        told.append(f"the files were made with {len(checkpoints)} different checkpoints: do not use them together")
    for setting in ("engine", "precision", "decode"):
        values = sorted({str(e.made[setting]) for e in entries if e.made.get(setting)})
        if len(values) > 1:
            told.append(f"the files differ in {setting}: {', '.join(values)}")
    return told + ([] if vocabulary is None else vocabulary.remarks)
