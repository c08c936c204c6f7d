"""One process, or several started by torchrun, behind one small interface.

Sums over ranks are made by rank 0 in rank order, so the same number of ranks always gives the same bits,
whatever the network does. What travels is small beside what is computed (centroids and their sums, 82 MB
each for the paper's vocabulary) and lies in main memory, so gloo carries it, also between machines with GPUs.
"""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Solo:
    """One process: nothing to exchange."""

    rank, size, local_rank = 0, 1, 0

    def sum_to_root(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum over the ranks, in rank order, on rank 0 (elsewhere: ``values``). May change ``values``."""
        return values

    def from_root(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` as rank 0 has them; shape and type must agree on all ranks. May change ``values``."""
        return values

    def to_root(self, part: NDArray[Any], counts: list[int]) -> NDArray[Any] | None:
        """On rank 0 the parts (counts[rank], ...) of all ranks, one after the other; elsewhere None."""
        return part

    def close(self) -> None:
        pass


class Gloo(Solo):
    """The processes that torchrun started, joined by torch.distributed."""

    def __init__(self) -> None:
        import torch
        import torch.distributed

        self._torch, self._dist = torch, torch.distributed
        self._dist.init_process_group("gloo")
        self.rank, self.size = self._dist.get_rank(), self._dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))

    def sum_to_root(self, values: NDArray[Any]) -> NDArray[Any]:
        if self.rank:
            self._dist.send(self._torch.from_numpy(values), 0)
            return values
        other = np.empty_like(values)
        for rank in range(1, self.size):
            self._dist.recv(self._torch.from_numpy(other), rank)
            values += other
        return values

    def from_root(self, values: NDArray[Any]) -> NDArray[Any]:
        self._dist.broadcast(self._torch.from_numpy(values), 0)
        return values

    def to_root(self, part: NDArray[Any], counts: list[int]) -> NDArray[Any] | None:
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


def connect() -> Solo:
    """The ranks of this run, from the environment that torchrun sets."""
    return Gloo() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Solo()


def share(total: int, ranks: Solo, *, multiple: int = 1) -> list[tuple[int, int]]:
    """Cut 0..total into one slice per rank, nearly equal, at multiples of ``multiple``."""
    units = -(-total // multiple)
    cuts = [min(total, units * r // ranks.size * multiple) for r in range(ranks.size + 1)]
    return list(pairwise(cuts))
