"""Each of the twelve causes, provoked on purpose, is named by the verdict; with images and from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import defects
from helpers.confusion import Stage
from numpy.typing import NDArray

from scripts.verify import recompute
from scripts.verify.causes import Cause
from scripts.verify.files import Pair
from scripts.verify.options import Options
from scripts.verify.run import verify

KINDS = {
    Cause.RGB: "grid", Cause.SCALE: "boxes", Cause.RESIZE: "grid", Cause.PADDING: "grid", Cause.PRECISION: "grid",
    Cause.EXIF: "boxes", Cause.DECODER: "grid", Cause.NMS: "boxes", Cause.CLIP: "boxes", Cause.FC7: "grid",
    Cause.CHECKPOINT: "grid", Cause.OTHER_IMAGE: "boxes",
}  # fmt: skip
"""In which kind of features each is provoked here; ``python -m helpers.confusion`` does both."""
CERTAIN = {Cause.PADDING, Cause.EXIF, Cause.DECODER, Cause.NMS, Cause.CLIP, Cause.OTHER_IMAGE}
"""Those that the two files show without an image."""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[Stage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recompute, "MOST_IMAGES", 2)
        yield Stage(tmp_path_factory.mktemp("stage"), tiny_checkpoint)


@pytest.mark.parametrize("cause", Cause, ids=lambda c: c.name)
def test_a_cause_is_recognised_by_recomputing(stage: Stage, cause: Cause) -> None:
    result = stage.verdict(cause, KINDS[cause], explain=True)
    assert result.verdict.causes == (cause,), result.verdict.sentence
    assert result.verdict.recomputed
    assert cause.value in result.verdict.sentence


@pytest.mark.parametrize("cause", Cause, ids=lambda c: c.name)
def test_the_files_alone_leave_it_open_or_say_it_and_never_name_another(stage: Stage, cause: Cause) -> None:
    verdict = stage.verdict(cause, KINDS[cause], explain=False).verdict
    assert cause in verdict.causes, verdict.sentence
    assert not verdict.recomputed
    if cause in CERTAIN:
        assert verdict.causes == (cause,)
    else:
        assert "--explain" in verdict.sentence


@pytest.mark.parametrize(("precision", "kind"), [
    ("bfloat16", "grid"), ("float16", "grid"), ("bfloat16", "boxes"), ("float16", "boxes"),
])  # fmt: skip
def test_half_precision_is_told_from_the_roundings(stage: Stage, precision: str, kind: str) -> None:
    """Near-ties fall otherwise in every computation of low precision: of boxes most of the difference is left, of the
    rows that are in both the roundings are the same."""
    verdict = stage.judged(kind, stage.made(precision, kind, precision=precision)).verdict
    assert verdict.causes == (Cause.PRECISION,), verdict.sentence
    assert f'"{precision}" makes the same roundings in 2 images recomputed' in verdict.sentence


def test_roundings_of_another_program_are_told_by_their_size(stage: Stage) -> None:
    """It has not folded its batch norms, so that other weights are rounded. A decoder that moves few pixels makes
    differences of that size as well."""
    verdict = stage.judged("grid", stage.made("unfolded", "grid", model=defects.as_unfolded)).verdict
    assert verdict.causes == (Cause.PRECISION, Cause.DECODER), verdict.sentence
    assert "the difference is as large as what TF32 rounds off, with other roundings" in verdict.sentence


def test_roundings_do_not_explain_what_is_no_rounding(stage: Stage) -> None:
    """Pixels of a decoder that nobody knows: as small as half precision, and nothing is in common."""
    verdict = stage.judged("grid", stage.made("noisy", "grid", decode=noisy)).verdict
    assert verdict.causes != (Cause.PRECISION,), verdict.sentence


def noisy(path: Path) -> NDArray[np.uint8]:
    pixels = defects.rgb_of(path).astype(np.int64)
    return (pixels + np.random.default_rng(0).integers(-1, 2, pixels.shape)).clip(0, 255).astype(np.uint8)


def test_with_another_checkpoint_recomputing_says_nothing(stage: Stage) -> None:
    verdict = stage.judged("boxes", stage.made("fc7", "boxes", model=defects.of_fc7), stage.another()).verdict
    assert not verdict.recomputed
    assert "name those that it was made of (--checkpoint_dir, --explain IMAGES)" in verdict.sentence
    assert verdict.causes == (Cause.FC7,), "the files speak for themselves"


@pytest.mark.parametrize("kind", ["grid", "boxes"])
def test_the_right_features_have_no_cause(stage: Stage, kind: str) -> None:
    """Computed by other lines, with other last bits."""
    result = stage.verdict(None, kind, explain=True)
    assert result.ok
    assert result.verdict.causes == ()
    assert result.explanation is None, "nothing is recomputed where nothing differs"


def test_if_ours_is_the_odd_one_the_verdict_says_so(stage: Stage) -> None:
    right = stage.published(None, "grid")
    wrong = stage.published(Cause.RGB, "grid")
    options = Options(explain=True, images=stage.folder / "images", checkpoint_dir=stage.checkpoint, device="cpu")
    result = verify(Pair(wrong, str(right)), options)
    assert not result.ok
    assert "ours are not" in result.verdict.sentence
