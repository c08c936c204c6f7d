"""Many images through the Python API: their order, their batches, what is held, and those that cannot be used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.common import photograph
from numpy.typing import NDArray
from PIL import Image

from feature_extraction import FeatureExtractor, ImageError, UsageError, draw, draw_words
from feature_extraction.batching import WINDOW
from feature_extraction.compare import compare_rows, out_of_tolerance
from feature_extraction.machine import decoding_threads
from feature_extraction.tolerance import BATCHED

SIDE = 64
GRID = {"imsize": SIDE}
"""Settings of a quick grid."""


@pytest.fixture(scope="module")
def extractor(tiny_checkpoint: Path) -> FeatureExtractor:
    return FeatureExtractor(tiny_checkpoint, device="cpu", names=["cup", "spoon"])


@pytest.fixture(scope="module")
def photographs() -> list[NDArray[np.uint8]]:
    """Of three network sizes, mixed."""
    coffee, chelsea = photograph("coffee"), photograph("chelsea")
    return [coffee, chelsea, coffee[::-1], coffee[:, :300], chelsea[::-1], coffee[:, ::-1]]


def plain(number: int) -> NDArray[np.uint8]:
    return np.full((SIDE, SIDE, 3), number, np.uint8)


def test_batches_change_no_number_and_no_order(
    extractor: FeatureExtractor, photographs: list[NDArray[np.uint8]]
) -> None:
    for kind in ("grid", "boxes"):
        alone = getattr(extractor, kind)(photographs)
        together = list(getattr(extractor, f"iter_{kind}")(iter(photographs), batch_size=3))
        assert len(together) == len(photographs)
        pairs = [(_arrays(a), _arrays(b)) for a, b in zip(together, alone, strict=True)]
        assert out_of_tolerance([compare_rows(found, expected) for found, expected in pairs], BATCHED) == []
        for number, (found, _) in enumerate(pairs):  # no two of them are alike
            others = [compare_rows(found, e).features for n, (_, e) in enumerate(pairs) if n != number]
            assert min(o for o in others if o is not None) > 100 * BATCHED.features


def _arrays(found: Any) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(value) for name, value in asdict(found).items() if name != "names"}


@pytest.mark.parametrize("batch_size", [1, 2])
def test_images_are_taken_as_they_are_needed(extractor: FeatureExtractor, batch_size: int) -> None:
    taken = 0

    def endless() -> Iterator[NDArray[np.uint8]]:
        nonlocal taken
        while True:
            yield plain(taken % 256)
            taken += 1

    ahead = 2 * decoding_threads() + 2 * WINDOW * batch_size
    stream = extractor.iter_grid(endless(), batch_size=batch_size, **GRID)
    assert taken == 0  # nothing before the first is asked for
    for number in range(3):
        next(stream)
        assert taken <= number + ahead
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_an_error_stands_in_its_place(extractor: FeatureExtractor, tmp_path: Path) -> None:
    empty = tmp_path / "a\x1bb.jpg"
    empty.write_bytes(b"")
    images = [plain(0), empty, plain(200), np.zeros((4, 4, 3)), plain(0)]
    found = list(extractor.iter_grid(images, batch_size=2, on_error="yield", **GRID))
    told = [str(f) if isinstance(f, ImageError) else "" for f in found]
    assert [bool(t) for t in told] == [False, True, False, True, False]
    assert told[1] == f"image 1 ({tmp_path}/a\\x1bb.jpg): empty file (0 bytes)"
    assert told[3].startswith("image 3: array of shape (4, 4, 3), float64")
    np.testing.assert_allclose(found[0].features, found[4].features, rtol=1e-4, atol=1e-6)


def test_an_error_is_raised_where_its_image_is_reached(extractor: FeatureExtractor, tmp_path: Path) -> None:
    stream = extractor.iter_grid([plain(0), plain(1), tmp_path / "none.jpg", plain(2)], batch_size=2, **GRID)
    assert next(stream).features.shape == next(stream).features.shape
    with pytest.raises(ImageError, match=r"image 2 \(.*none\.jpg\): ") as raised:
        next(stream)
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")], raised.traceback


@pytest.mark.parametrize("wrong", [None, 3, b"a.jpg"], ids=repr)
def test_what_can_be_no_image_is_the_callers_mistake(extractor: FeatureExtractor, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"image 1 is of type {type(wrong).__name__}: expected a path"):
        list(extractor.iter_grid([plain(0), wrong], on_error="yield", **GRID))


def test_an_error_of_the_iterable_is_the_users(extractor: FeatureExtractor) -> None:
    def broken() -> Iterator[NDArray[np.uint8]]:
        yield plain(0)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(extractor.iter_grid(broken(), **GRID))


def test_one_pil_image_twice_is_read_by_one_thread_at_a_time(extractor: FeatureExtractor, tmp_path: Path) -> None:
    Image.fromarray(photograph("coffee")).save(tmp_path / "a.png")
    (expected,) = extractor.grid(tmp_path / "a.png", **GRID)
    with Image.open(tmp_path / "a.png") as lazy:
        for found in extractor.iter_grid([lazy] * 8, batch_size=4, **GRID):
            np.testing.assert_allclose(found.features, expected.features, rtol=1e-4, atol=1e-6)


def test_a_path_alone_is_one_image(extractor: FeatureExtractor, tmp_path: Path) -> None:
    Image.fromarray(plain(9)).save(tmp_path / "a.png")
    assert len(list(extractor.iter_grid(str(tmp_path / "a.png"), **GRID))) == 1
    assert extractor.grid([], **GRID) == []


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"batch_size": 1.5}, {"on_error": "ignore"}, {"num_boxes": -1}, {"num_boxes": "36"}]
)
def test_wrong_settings_are_refused_at_once(extractor: FeatureExtractor, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}.*expected"):
        extractor.iter_boxes([], **wrong)


@pytest.mark.parametrize("wrong", [{"grid_size": 0}, {"imsize": 33}, {"imsize": 0}])
def test_wrong_grids_are_refused_at_once(extractor: FeatureExtractor, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}.*expected"):
        extractor.iter_grid([], **wrong)


def test_progress_is_shown_only_if_it_is_asked_for(
    extractor: FeatureExtractor, capsys: pytest.CaptureFixture[str]
) -> None:
    extractor.grid([plain(0)] * 2, **GRID)
    assert capsys.readouterr() == ("", "")
    extractor.grid([plain(0)] * 2, progress=True, **GRID)
    assert "2/2" in capsys.readouterr().err
    list(extractor.iter_grid(iter([plain(0)] * 2), progress=True, **GRID))
    assert "2img" in capsys.readouterr().err


def test_classes_have_names_where_they_are_known(
    extractor: FeatureExtractor, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (found,) = extractor.boxes(photograph("coffee"), 3)
    assert found.names == tuple(("cup", "spoon")[c] if c < 2 else "" for c in found.obj_id.tolist())
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in tiny_checkpoint.iterdir():
        (folder / file.name).symlink_to(file)
    assert FeatureExtractor(folder, device="cpu").boxes(photograph("coffee"), 1)[0].names is None
    (folder / "objects_vocab.txt").write_text("\n".join(f"thing {i},other" for i in range(1600)))
    beside = FeatureExtractor(folder, device="cpu")
    (found,) = beside.boxes(photograph("coffee"), 3)
    assert found.names == tuple(f"thing {c}" for c in found.obj_id.tolist())
    by_name = FeatureExtractor(tiny_checkpoint, device="cpu", names=folder / "objects_vocab.txt")
    assert by_name.boxes(photograph("coffee"), 3)[0].names == found.names
    with pytest.raises(UsageError, match="No such file"):
        FeatureExtractor(tiny_checkpoint, device="cpu", names=tmp_path / "none.txt")


def test_pictures_are_drawn_of_paths_images_and_arrays(extractor: FeatureExtractor, tmp_path: Path) -> None:
    array = photograph("coffee")
    path = tmp_path / "coffee.png"
    Image.fromarray(array).save(path)
    (found,) = extractor.boxes(array, 5)
    for picture in (draw, draw_words):
        drawn = [picture(i, found if picture is draw else [[0, 1], [2, 3]]) for i in (array, Image.open(path), path)]
        assert drawn[0].size == (array.shape[1], array.shape[0])
        assert all(d.tobytes() == drawn[0].tobytes() for d in drawn)
