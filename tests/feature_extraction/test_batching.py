"""Which images share a batch: decided by the list alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_extraction.batching import (
    Chunk,
    Item,
    Looked,
    Pass,
    lacking,
    look_ahead,
    of_one_size,
    plan_batches,
    read_ahead,
    windows,
)
from feature_extraction.errors import ImageError
from feature_extraction.features import NetworkInput
from feature_extraction.images.listing import ImageFile
from feature_extraction.progress import Clock

IMAGES = [ImageFile(f"{i:03}", Path(f"/{i:03}.jpg")) for i in range(50)]


def size_of(height: int, width: int) -> int:
    assert width == 7
    if height == 14:
        raise ImageError("too narrow")
    return height % 3


def ids(chunk: Chunk) -> list[str]:
    return [image.id for image, _ in chunk.images]


def look(image: ImageFile) -> Looked:
    """Heights are numbers of images; one has no header."""
    return Looked(image, ImageError("no header") if image.id == "013" else (int(image.id), 7))


def plan(
    passes: list[Pass], batch_size: int, index: int = 0, count: int = 1, skip: Callable[[int], None] = lambda _: None
) -> list[Chunk]:
    looked = look_ahead(lacking(windows(IMAGES, batch_size, index, count), passes, skip), look, 3)
    return list(plan_batches(looked, passes, batch_size, skip))


def batches(todo: set[str], batch_size: int, index: int = 0, count: int = 1) -> list[tuple[str, ...]]:
    planned = plan([Pass(todo, size_of)], batch_size, index, count)
    return [tuple(image.id for image in batch) for chunk in planned for _, batch in chunk.batches]


@given(st.sets(st.sampled_from([i.id for i in IMAGES]), min_size=1), st.integers(1, 5), st.integers(1, 4))
def test_what_is_done_and_how_many_processes_changes_no_batch(todo: set[str], batch_size: int, count: int) -> None:
    everything = batches({i.id for i in IMAGES}, batch_size)
    found = [batch for index in range(count) for batch in batches(todo, batch_size, index, count)]
    assert set(found) <= set(everything)
    assert {i for batch in found for i in batch} >= todo
    assert len(found) == len(set(found))


def test_a_batch_has_one_size_and_one_that_cannot_be_read_is_alone() -> None:
    for batch in batches({i.id for i in IMAGES}, 4):
        assert len(batch) <= 4
        assert batch in (("013",), ("014",)) or len({int(i) % 3 for i in batch if i not in ("013", "014")}) == 1
        assert len(batch) == 1 or not {"013", "014"} & set(batch)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_what_was_passed_over_is_counted(batch_size: int) -> None:
    skipped: list[int] = []
    planned = plan([Pass({"003", "007", "049"}, size_of)], batch_size, skip=skipped.append)
    found = [image_id for chunk in planned for image_id in ids(chunk)]
    assert set(found) >= {"003", "007", "049"}
    assert sum(skipped) + len(found) == 50


def test_an_image_is_looked_at_once_and_only_where_company_is_looked_for() -> None:
    seen: list[str] = []

    def counted(image: ImageFile) -> Looked:
        seen.append(image.id)
        return look(image)

    list(look_ahead(windows(IMAGES, 1, 0, 1), counted, 2))
    assert seen == []
    passes = [Pass({"000", "049"}, size_of), Pass({"001"}, lambda height, _: height % 2)]
    looked = look_ahead(lacking(windows(IMAGES, 2, 0, 1), passes, lambda _: None), counted, 2)
    list(plan_batches(looked, passes, 2, lambda _: None))
    assert sorted(seen) == [i.id for i in [*IMAGES[:16], *IMAGES[48:]]], "the first window and the last, once"


def test_of_the_next_window_no_more_is_looked_at_than_there_is() -> None:
    """Fetched images wait in memory: one window ahead, not all."""
    seen: list[str] = []

    def counted(image: ImageFile) -> Looked:
        seen.append(image.id)
        return look(image)

    looked = look_ahead(windows(IMAGES, 1, 0, 1), counted, 2)
    next(looked)
    looked.close()
    looked = look_ahead(windows(IMAGES, 2, 0, 1), counted, 2)
    next(looked)
    looked.close()
    assert 16 <= len(seen) <= 32


TODO = st.sets(st.sampled_from([i.id for i in IMAGES]))


@given(TODO, TODO, st.integers(1, 5))
def test_each_of_two_passes_has_the_batches_that_it_has_alone_and_an_image_is_in_one_chunk(
    first: set[str], second: set[str], batch_size: int
) -> None:
    def other_size(height: int, _: int) -> int:
        return height % 4

    passes = [Pass(first, size_of), Pass(second, other_size)]
    chunks = plan(passes, batch_size)
    read = [image_id for chunk in chunks for image_id in ids(chunk)]
    assert len(read) == len(set(read)), "an image is read once"
    for number, one in enumerate(passes):
        alone = [c.batches[0][1] for c in plan([one], batch_size)]
        together = [batch for chunk in chunks for n, batch in chunk.batches if n == number]
        assert sorted(together, key=str) == sorted(alone, key=str)
        for chunk in chunks:
            for image, needed in chunk.images:
                assert (number in needed) == any(n == number and image in batch for n, batch in chunk.batches)


def test_what_both_passes_passed_over_is_counted_once() -> None:
    passes = [Pass({"001"}, size_of), Pass({"001", "004"}, size_of)]
    skipped: list[int] = []
    chunks = plan(passes, 1, skip=skipped.append)
    assert [(ids(c), [n for n, _ in c.batches]) for c in chunks] == [(["001"], [0, 1]), (["004"], [1])]
    assert sum(skipped) == 48


def pixels(height: int) -> NetworkInput:
    return NetworkInput(np.zeros((height, 32, 3), np.float32), 1.0, height, 32)


def test_what_was_decoded_decides_the_size() -> None:
    items = [
        Item(IMAGES[i], outcome) for i, outcome in enumerate((pixels(32), pixels(64), ImageError("x"), pixels(32)))
    ]
    assert [[item.image.id for item, _ in group] for group in of_one_size(items)] == [["000", "003"], ["001"]]


def test_images_come_in_order_and_loading_stays_a_little_ahead() -> None:
    started: list[str] = []

    def load(image: ImageFile) -> Item:
        started.append(image.id)
        return Item(image, pixels(32))

    reader = read_ahead([[image] for image in IMAGES], load, 2, Clock(), threading.Event())
    first = next(reader)
    assert [item.image.id for item in first] == ["000"]
    assert len(started) <= 6
    assert [items[0].image.id for items in reader] == [i.id for i in IMAGES[1:]]


def test_stopping_ends_the_reader() -> None:
    stopping = threading.Event()
    reader = read_ahead([[i] for i in IMAGES], lambda i: Item(i, pixels(32)), 2, Clock(), stopping)
    next(reader)
    stopping.set()
    assert list(reader) == []


def test_an_error_of_loading_that_is_no_image_error_is_not_swallowed() -> None:
    def load(image: ImageFile) -> Item:
        raise MemoryError("no")

    with pytest.raises(MemoryError):
        list(read_ahead([[IMAGES[0]]], load, 2, Clock(), threading.Event()))
