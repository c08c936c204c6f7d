"""Features go to the disk in a thread of its own, behind the detector."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import cast

from .batching import Item
from .features import Arrays
from .images.listed import ListedImage
from .progress import Clock
from .storage.output import Output
from .storage.source import Source

DEPTH = 64
"""Images that may wait to be written: 100 MB of boxes."""


class Writer:
    """Appends features to the output; what was put is on the disk when the block is left."""

    def __init__(self, output: Output, clock: Clock, depth: int = DEPTH) -> None:
        self._output, self._clock = output, clock
        self._queue: queue.Queue[Item[ListedImage] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="write", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def put(self, item: Item[ListedImage]) -> None:
        """Hand over one image with its features. Raises what went wrong in the thread (a full disk, say)."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _work(self) -> None:
        ended = False
        while not ended:
            waiting = [self._queue.get()]
            while not self._queue.empty():
                waiting.append(self._queue.get())
            ended = None in waiting
            if self._error is not None:
                continue  # keep emptying the queue, so that nobody waits on it
            try:
                with self._clock("write"):
                    self._write([item for item in waiting if item is not None])
            except BaseException as error:
                self._error = error

    def _write(self, items: Sequence[Item[ListedImage]]) -> None:
        for item in items:
            self._output.add(item.image.id, cast(Arrays, item.outcome), cast(Source, item.source))
        self._output.sync()  # once for everything that was waiting
