"""The rows that one process trains on, in the order in which faiss drew them: in memory, on a disk, or on a card.

n rows (n, d) float32. Each kind knows how to add up the rows of a cluster where they lie, always in row order and
rounded to float32 after each addition: the order decides the bits.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from .blocks import Blocks, Indices, Rows, Vectors
from .vectors import read_fully

if TYPE_CHECKING:
    from torch import Tensor

LEFT_ON_CARD: Final = 0.8
"""Of a card's free memory that a sample and the work on it may take."""
ROUNDS_PER_ROW: Final = 1 / 20
"""Rounds of ``CardSums`` per row of the sample beyond which the processor adds faster: a round starts four operations,
20 us, while the processor adds a row in 1 us."""


class Sums(Protocol):
    """Adds up the rows of each cluster."""

    def add(self, ids: Indices, block: Any) -> None:
        """Take the next rows (m, d) and the clusters (m,) they belong to."""
        ...

    def result(self) -> Rows:
        """Sums (k, d)."""
        ...


class Sample(Vectors, Protocol):
    """The rows; ``read`` gives tensors where they lie on a card."""

    def sums(self, k: int) -> Sums: ...

    def close(self) -> None: ...


class HostSums:
    """Sums by the processor, row after row.

    At d = 2048 it adds a row per microsecond, two orders of magnitude less than a processor takes to find the row's
    centroid among 10,000.
    """

    def __init__(self, k: int, dim: int) -> None:
        self._sums = np.zeros((k, dim), np.float32)

    def add(self, ids: Indices, block: Rows) -> None:
        add, targets = np.add, list(self._sums)
        for i, row in zip(ids.tolist(), block, strict=True):
            target = targets[i]
            add(target, row, target)

    def result(self) -> Rows:
        return self._sums


class InMemory:
    """A sample that lies in memory as one array (n, d)."""

    buffered = False

    def __init__(self, values: Rows) -> None:
        self.values = values
        self.count, self.dim = values.shape

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        """A view; ``out`` is not used."""
        return self.values[start:stop]

    def sums(self, k: int) -> HostSums:
        return HostSums(k, self.dim)

    def close(self) -> None:
        pass


class Scratch:
    """A sample that lies in a file on disk, row after row: it costs no memory, whatever its size."""

    buffered = True

    def __init__(self, path: Path, count: int, dim: int) -> None:
        self.path, self.count, self.dim = path, count, dim
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    @property
    def whole(self) -> bool:
        """Whether the file has the length that all rows take."""
        return os.fstat(self._fd).st_size == self.count * self.dim * 4

    def place(self, where: Indices, values: Rows) -> None:
        for offset, row in zip((where * self.dim * 4).tolist(), values, strict=True):
            left, at = memoryview(row).cast("B"), offset
            while left:  # a disk that fills up may take a part before it says so
                written = os.pwrite(self._fd, left, at)
                left, at = left[written:], at + written

    def sums(self, k: int) -> HostSums:
        return HostSums(k, self.dim)

    def flush(self) -> None:
        os.fsync(self._fd)

    def read(self, start: int, stop: int, out: Rows) -> Rows:
        read_fully(self._fd, out, start * self.dim * 4, self.path)
        return out

    def close(self) -> None:
        os.close(self._fd)


class OnCard:
    """A sample that lies on a GPU as one tensor (n, d): it is read there in every iteration, and moved once."""

    buffered = False

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.count, self.dim = values.shape

    @classmethod
    def copy_of(cls, sample: Sample, device: str, blocks: Blocks) -> OnCard:
        """The rows of ``sample`` on ``device``; ``sample`` is closed."""
        import torch

        values = torch.empty(sample.count, sample.dim, device=device)
        buffer = (
            np.empty((blocks.rows + blocks.least, sample.dim), np.float32)
            if sample.buffered
            else np.empty((0, sample.dim), np.float32)
        )
        for a, b in blocks.cut(0, sample.count):
            values[a:b] = torch.from_numpy(sample.read(a, b, buffer[: b - a]))
        sample.close()
        return cls(values)

    def read(self, start: int, stop: int, out: Rows) -> Any:
        """A view, as a tensor; ``out`` is not used."""
        return self.values[start:stop]

    def sums(self, k: int) -> CardSums:
        return CardSums(k, self.values)

    def close(self) -> None:
        del self.values


class CardSums:
    """Sums on a card, in the order of ``HostSums``: round j adds the j-th row of every cluster that has one.

    Within a round each cluster gets one row, so the additions are independent and each is rounded as a processor
    rounds it. There are as many rounds as the largest cluster has rows.
    """

    def __init__(self, k: int, values: Tensor) -> None:
        self._k, self._values = k, values
        self._ids: list[Indices] = []

    def add(self, ids: Indices, block: Any) -> None:
        self._ids.append(ids)  # the rows stay where they are

    def result(self) -> Rows:
        import torch

        ids = np.concatenate([np.empty(0, np.int64), *self._ids])
        sizes = np.bincount(ids, minlength=self._k)
        if sizes.max(initial=0) > max(1, ROUNDS_PER_ROW * len(ids)):
            return self._on_host(ids)
        by_size = np.argsort(-sizes, kind="stable")  # the clusters that have a j-th row come first, in every round
        having = np.searchsorted(-sizes[by_size], -np.arange(sizes.max(initial=0)), side="left")
        device = self._values.device
        order = torch.from_numpy(np.argsort(ids, kind="stable")).to(device)
        begin = torch.from_numpy((np.cumsum(sizes) - sizes)[by_size]).to(device)
        sums = torch.zeros(self._k, self._values.shape[1], device=device)
        for j, clusters in enumerate(having.tolist()):
            sums[:clusters] += self._values[order[begin[:clusters] + j]]
        out = np.empty(sums.shape, np.float32)
        out[by_size] = sums.cpu().numpy()
        return out

    def _on_host(self, ids: Indices) -> Rows:
        """The same where one cluster holds so much that its rows, one after the other, would be all the work."""
        sums = HostSums(self._k, self._values.shape[1])
        step = 1 << 14
        for at in range(0, len(ids), step):
            sums.add(ids[at : at + step], self._values[at : at + step].cpu().numpy())
        return sums.result()


def fits_on_card(device: str, sample_bytes: int, work_bytes: int) -> bool:
    """Whether the card has room for a sample and what a search takes."""
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return sample_bytes + work_bytes <= LEFT_ON_CARD * free
