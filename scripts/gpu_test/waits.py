"""How often the host has to wait for a GPU: values asked for (item, nonzero, cpu, boolean masks) on the way.

With a GPU PyTorch says so itself. Without one the tensors that would lie on it are marked, the mark spreads to every
result, and what asks a marked tensor for a value is counted.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor

from feature_extraction.detector import boxes


class _OnDevice(Tensor):
    """A CPU tensor taken for one on a GPU."""

    counted: ClassVar[Counter[str]] = Counter()
    quiet: ClassVar[int] = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func)).rpartition(".")[2]
        if not cls.quiet and _waits(name, args, kwargs or {}):
            cls.counted[name] += 1
        cls.quiet += 1  # what is called inside of a call is part of it
        try:
            result = super().__torch_function__(func, types, args, kwargs or {})
        finally:
            cls.quiet -= 1
        if name in ("cpu", "numpy") and isinstance(result, Tensor):
            return result.as_subclass(Tensor)
        return result


_ASK = {
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero", "argwhere", "equal",
    "unique", "unique_consecutive", "masked_select", "bincount", "allclose", "is_nonzero", "__contains__",
}  # fmt: skip


def _waits(name: str, args: Any, kwargs: Any) -> bool:
    if name in _ASK:
        return True
    if name == "where":
        return len(args) + len(kwargs) == 1
    if name == "to":
        targets = (value for value in (*args[1:], *kwargs.values()) if isinstance(value, str | torch.device))
        return any(str(value).startswith("cpu") for value in targets)
    if name == "repeat_interleave":
        return "output_size" not in kwargs and len(args) > 1 and isinstance(args[1], Tensor)
    if name in ("__getitem__", "__setitem__", "index_put_", "index_put", "index"):
        index = args[1] if isinstance(args[1], tuple | list) else (args[1],)
        # putting one value where a mask says needs no count of the places
        one_value = name == "__setitem__" and not isinstance(args[2], Tensor)
        return not one_value and any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index)
    return False


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Waits of what runs inside, by operation, on tensors made by ``mark``; iterations look at their end as rarely
    as on a GPU."""
    _OnDevice.counted = Counter()
    with patch.object(boxes, "rounds_between_looks", lambda _: boxes.ROUNDS_ON_A_GPU):
        yield _OnDevice.counted


def mark(tensor: Tensor) -> Tensor:
    """The tensor as one on a GPU."""
    return tensor.as_subclass(_OnDevice)


def on_gpu(work: Callable[[], Any]) -> Counter[str]:
    """Synchronising operations that PyTorch reports of ``work()`` on a CUDA device, by the line that asked."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return Counter(
        f"{Path(warning.filename).name}:{warning.lineno}"
        for warning in seen
        if "synchroniz" in str(warning.message) and "prototype" not in str(warning.message)  # said once, of the mode
    )
