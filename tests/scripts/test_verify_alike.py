"""No false alarm: batch sizes, threads, processors and swapped near-ties are equal or float32 rounding."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import h5py
import pytest
from helpers.common import ROOT, finish, photograph
from PIL import Image

from feature_extraction import cli
from feature_extraction.tolerance import Level
from scripts.verify.files import Pair
from scripts.verify.options import Options
from scripts.verify.report import Result
from scripts.verify.run import verify

KINDS = ("grid", "boxes")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two by two of one size, so that batches hold several."""
    folder = tmp_path_factory.mktemp("images")
    for name in ("chelsea_tall", "coffee_strip"):
        pixels = photograph(name)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        Image.fromarray(pixels[:, ::-1]).save(folder / f"{name}_mirrored.png")
    return folder


def words(images: Path, checkpoint: Path, output: Path, kind: str, *more: str) -> list[str]:
    there = ["--images", images, "--output", output, "--kind", kind, "--checkpoint_dir", checkpoint, "--device", "cpu"]
    return [*map(str, there), *more]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, images: Path, tiny_checkpoint: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ours")
    for kind in KINDS:
        assert cli.main(words(images, tiny_checkpoint, folder / f"{kind}.h5", kind, "--threads", "1")) == 0
    return {kind: folder / f"{kind}.h5" for kind in KINDS}


def assert_alike(result: Result) -> None:
    assert result.ok, result.verdict.sentence
    assert len(result.found.evidence) == 4
    assert all(e.level <= Level.ROUNDING for e in result.found.evidence), result.found.levels
    assert result.verdict.causes == ()


@pytest.mark.parametrize(("kind", "batch", "threads"), list(product(KINDS, (1, 2, 4), (1, 2))))
def test_batches_and_threads(
    tmp_path: Path, images: Path, tiny_checkpoint: Path, ours: dict[str, Path], kind: str, batch: int, threads: int
) -> None:
    output = tmp_path / "again.h5"
    more = ["--batch_size", str(batch), "--threads", str(threads)]
    assert cli.main(words(images, tiny_checkpoint, output, kind, *more)) == 0
    result = verify(Pair(ours[kind], str(output)), Options())
    assert_alike(result)
    if (batch, threads) == (1, 1):
        assert result.found.levels[Level.EQUAL] == 4, "the same run twice gives the same bits"


@pytest.mark.parametrize("isa", ["AVX2", "SSE41"])
def test_processors(
    tmp_path: Path, images: Path, tiny_checkpoint: Path, ours: dict[str, Path], command: Callable[..., object], isa: str
) -> None:
    for kind in KINDS:
        output = tmp_path / f"{kind}.h5"
        arguments = words(images, tiny_checkpoint, output, kind)
        code, said = finish(command("-m", "feature_extraction", *arguments, cwd=ROOT, ONEDNN_MAX_CPU_ISA=isa))
        assert code == 0, said
        assert_alike(verify(Pair(ours[kind], str(output)), Options()))


@pytest.mark.parametrize("rows", [[0, 1], [10, 12], [34, 35], [3, 4, 5]], ids=str)
def test_swapped_near_ties(tmp_path: Path, ours: dict[str, Path], rows: list[int]) -> None:
    output = tmp_path / "swapped.h5"
    output.write_bytes(ours["boxes"].read_bytes())
    with h5py.File(output, "r+") as file:
        for group in file.values():
            for name in ("features", "boxes", "obj_id"):
                array = group[name][()]
                array[rows] = array[rows[1:] + rows[:1]]
                group[name][...] = array
    assert_alike(verify(Pair(ours["boxes"], str(output)), Options()))


def test_another_last_box(tmp_path: Path, ours: dict[str, Path]) -> None:
    """It nearly tied with the one behind it; in the middle of the list it would be no near-tie."""
    for row, alike in ((35, True), (20, False)):
        output = tmp_path / f"{row}.h5"
        output.write_bytes(ours["boxes"].read_bytes())
        with h5py.File(output, "r+") as file:
            for group in file.values():
                boxes = group["boxes"][()]
                boxes[row] = [1, 1, 3, 3]
                group["boxes"][...] = boxes
        levels = {e.level for e in verify(Pair(ours["boxes"], str(output)), Options()).found.evidence}
        assert (levels == {Level.ROUNDING}) == alike
