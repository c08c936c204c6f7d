"""Which images share a batch: decided by the list alone."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_extraction.batching import Item, of_one_size, plan_batches, read_ahead, windows
from feature_extraction.errors import ImageError
from feature_extraction.features import NetworkInput
from feature_extraction.images.listing import ImageFile
from feature_extraction.progress import Progress

IMAGES = [ImageFile(f"{i:03}", Path(f"/{i:03}.jpg")) for i in range(50)]


def size_of(image: ImageFile) -> int:
    if image.id == "013":
        raise ImageError("no header")
    return int(image.id) % 3


def batches(todo: set[str], batch_size: int, index: int = 0, count: int = 1) -> list[tuple[str, ...]]:
    planned = plan_batches(windows(IMAGES, batch_size, index, count), todo, batch_size, size_of)
    return [tuple(image.id for image in batch) for batch, _ in planned]


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
        assert batch == ("013",) or ("013" not in batch and len({int(i) % 3 for i in batch}) == 1)


def test_what_was_passed_over_is_counted() -> None:
    planned = list(plan_batches(windows(IMAGES, 1, 0, 1), {"003", "007"}, 1, size_of))
    assert [(batch[0].id, skipped) for batch, skipped in planned] == [("003", 3), ("007", 3)]


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

    plan = [([image], 0) for image in IMAGES]
    reader = read_ahead(plan, load, 2, Progress(50, "x"), threading.Event())
    first = next(reader)
    assert [item.image.id for item in first] == ["000"]
    assert len(started) <= 6
    assert [items[0].image.id for items in reader] == [i.id for i in IMAGES[1:]]


def test_stopping_ends_the_reader() -> None:
    stopping = threading.Event()
    reader = read_ahead([([i], 0) for i in IMAGES], lambda i: Item(i, pixels(32)), 2, Progress(50, "x"), stopping)
    next(reader)
    stopping.set()
    assert list(reader) == []


def test_an_error_of_loading_that_is_no_image_error_is_not_swallowed() -> None:
    def load(image: ImageFile) -> Item:
        raise MemoryError("no")

    with pytest.raises(MemoryError):
        list(read_ahead([([IMAGES[0]], 0)], load, 2, Progress(1, "x"), threading.Event()))
