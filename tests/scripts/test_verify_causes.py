"""Each of the twelve causes, provoked on purpose, is named by the verdict; with images and from the files alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.confusion import Stage

from scripts.verify import recompute
from scripts.verify.__main__ import Options, verify
from scripts.verify.causes import Cause
from scripts.verify.files import Pair

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
