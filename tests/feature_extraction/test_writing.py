"""The thread that stores: all of it is on the disk when the block is left, and what goes wrong there is raised here."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from feature_extraction.batching import Item
from feature_extraction.images.listing import ImageFile
from feature_extraction.progress import Clock
from feature_extraction.storage.output import Output
from feature_extraction.writing import Writer


class Noted:
    """Stands for the output: what was done to it, in order."""

    def __init__(self, fail_at: str = "") -> None:
        self.done: list[str] = []
        self.fail_at = fail_at
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def add(self, image_id: str, *_: object) -> None:
        self.may_go_on.wait(60)
        if image_id == self.fail_at:
            raise OSError(28, "No space left on device")
        self.done.append(image_id)

    def sync(self) -> None:
        self.done.append("sync")


def item(number: int) -> Item[Any]:
    return Item(ImageFile(str(number), Path(f"/{number}.jpg")), {"features": np.zeros(3)})


def writer(output: Noted, depth: int = 64) -> Writer:
    return Writer(cast(Output, output), Clock(), depth)


def test_everything_is_stored_in_order_and_synced_behind_the_last() -> None:
    output = Noted()
    with writer(output) as writing:
        for number in range(9):
            writing.put(item(number))
    assert [word for word in output.done if word != "sync"] == [str(n) for n in range(9)]
    assert output.done[-1] == "sync"


def test_what_waits_together_is_synced_once() -> None:
    output = Noted()
    output.may_go_on.clear()
    with writer(output) as writing:
        for number in range(9):
            writing.put(item(number))
        output.may_go_on.set()
    assert output.done.count("sync") <= 3  # the first alone or not, the others, the end


@pytest.mark.parametrize("fail_at", ["0", "5", "8"])
def test_an_error_is_raised_here_and_nobody_waits_for_ever(fail_at: str) -> None:
    output = Noted(fail_at)

    def store() -> None:
        with writer(output, depth=2) as writing:
            for number in range(9):
                writing.put(item(number))

    with pytest.raises(OSError, match="No space left"):
        store()
    assert [word for word in output.done if word != "sync"] == [str(n) for n in range(int(fail_at))]


def test_an_error_of_the_block_is_the_one_that_is_raised_and_what_was_put_is_stored() -> None:
    output = Noted()

    def store() -> None:
        with writer(output) as writing:
            writing.put(item(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store()
    assert output.done in (["0", "sync"], ["0", "sync", "sync"])
