"""One process, or several started by torchrun, behind one small interface.

Sums over processes are made by rank 0 in rank order, so the same number of processes always gives the same bits,
whatever the network does. What travels is small beside what is computed (centroids and their sums, 82 MB
each for the paper's vocabulary) and lies in main memory, so gloo carries it, also between machines with GPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

LONGEST_WAIT: Final = timedelta(days=2)
"""For the slowest process: reading 43 GB from a shared folder, or an iteration on few cores."""


class Communicator(Protocol):
    """What the processes of one run exchange, in the words of MPI; the root is rank 0."""

    rank: int
    size: int
    local_rank: int

    def reduce_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum over the processes, in rank order, on the root (elsewhere: ``values``). May change ``values``."""
        ...

    def broadcast(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` as the root has them; shape and type must agree everywhere. May change ``values``."""
        ...

    def gather(self, part: NDArray[Any], counts: list[int]) -> NDArray[Any] | None:
        """On the root the parts (counts[rank], ...) of all processes, one after the other; elsewhere None."""
        ...


class SingleProcess:
    """One process: nothing to exchange."""

    rank, size, local_rank = 0, 1, 0

    def reduce_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def broadcast(self, values: NDArray[Any]) -> NDArray[Any]:
        return values

    def gather(self, part: NDArray[Any], counts: list[int]) -> NDArray[Any] | None:
        return part


class TorchDistributed:
    """The processes that torchrun started, joined by torch.distributed."""

    def __init__(self) -> None:
        import torch
        import torch.distributed

        self._torch, self._dist = torch, torch.distributed
        self._dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        self.rank, self.size = self._dist.get_rank(), self._dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def reduce_sum(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.rank:
            self._dist.send(self._torch.from_numpy(values), 0)
            return values
        other = np.empty_like(values)
        for rank in range(1, self.size):
            self._dist.recv(self._torch.from_numpy(other), rank)
            values += other
        return values

    def broadcast(self, values: NDArray[Any]) -> NDArray[Any]:
        self._dist.broadcast(self._torch.from_numpy(values), 0)
        return values

    def gather(self, part: NDArray[Any], counts: list[int]) -> NDArray[Any] | None:
        if self.rank:
            if len(part):
                self._dist.send(self._torch.from_numpy(part), 0)
            return None
        parts = [part]
        for rank in range(1, self.size):
            parts.append(np.empty((counts[rank], *part.shape[1:]), part.dtype))
            if counts[rank]:
                self._dist.recv(self._torch.from_numpy(parts[-1]), rank)
        return np.concatenate(parts)

    def close(self) -> None:
        self._dist.destroy_process_group()


@contextmanager
def connected() -> Iterator[Communicator]:
    """The processes of this run, from the environment that torchrun sets."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SingleProcess()
        return
    comm = TorchDistributed()
    try:
        yield comm
    finally:
        comm.close()


def anywhere(comm: Communicator, condition: bool) -> bool:
    """Whether ``condition`` holds in any of the processes: the same answer in all of them."""
    return bool(comm.broadcast(comm.reduce_sum(np.array([condition], np.int64)))[0])


def split_rows(total: int, processes: int, *, multiple: int = 1) -> list[tuple[int, int]]:
    """Cut 0..total into one slice per process, nearly equal, at multiples of ``multiple``."""
    units = -(-total // multiple)
    cuts = [min(total, units * rank // processes * multiple) for rank in range(processes + 1)]
    return list(pairwise(cuts))
