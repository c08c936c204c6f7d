"""How a detector computes: the settings of PyTorch that decide bits, set around each call and put back.

They belong to a detector, but PyTorch has them once per process. So calls of detectors that want the same settings run
side by side, and one that wants others waits until those have returned. What this cannot keep apart is other PyTorch
code that runs in another thread during a call: it sees the detector's settings for that long. Work already handed to a
GPU is not affected, the settings are read when it is handed over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import torch

from ..errors import DeviceError

PRECISIONS: Final = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""float32 (TF32 off) is the published arithmetic; the others are faster and drift (README)."""


def check_precision(device: torch.device, precision: str) -> None:
    """Raises DeviceError for a precision that is unknown or that this device does not have."""
    if precision not in PRECISIONS:
        raise DeviceError(f"no precision {precision!r}: known are {', '.join(PRECISIONS)}")
    if precision == "tf32" and device.type == "cpu":
        raise DeviceError("precision tf32 needs a GPU; on a CPU choose float32 or bfloat16")


@dataclass(frozen=True)
class Arithmetic:
    """The settings of one detector; ``with arithmetic.applied(): ...`` around everything it computes."""

    device_type: str
    tf32: bool

    @contextmanager
    def applied(self) -> Iterator[None]:
        """These settings hold inside, those of before afterwards. Not to be nested with other settings."""
        _gate.enter(self)
        try:
            # a caller's autocast would change types behind the detector's back; it is a setting of the thread
            with torch.autocast(self.device_type, enabled=False):
                yield
        finally:
            _gate.leave()


class _Gate:
    """Lets in calls of one kind of settings at a time; the first sets them, the last puts the old ones back."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._current: Arithmetic | None = None
        self._inside = 0
        self._waiting = 0
        self._before: dict[str, Any] = {}

    def enter(self, wanted: Arithmetic) -> None:
        with self._changed:
            # who waits for other settings has its turn before more calls of the current ones
            if self._inside and (self._current != wanted or self._waiting):
                self._waiting += 1
                try:
                    self._changed.wait_for(lambda: not self._inside or self._current == wanted)
                finally:
                    self._waiting -= 1
            if not self._inside:
                self._before = _read()
                self._current = wanted
                _write(_settings(wanted, self._before))
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            if not self._inside:
                _write(self._before)
                self._current = None
                self._changed.notify_all()


_gate: Final = _Gate()

FINE: Final = (("cuda", "matmul"), ("cuda", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv"))
"""Precisions of float32 by backend and operation, which PyTorch has from 2.9 on."""


def _settings(wanted: Arithmetic, before: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "matmul": "high" if wanted.tf32 else "highest",
        "cudnn.allow_tf32": wanted.tf32,
        "cudnn.benchmark": False,  # no algorithm chosen by timing
        "cudnn.deterministic": True,
        "bf16_reduction": False,  # partial sums stay float32
        "fp16_reduction": False,
    }
    for backend, operation in FINE:
        settings[f"{backend}.{operation}"] = "tf32" if wanted.tf32 and backend == "cuda" else "ieee"
    return {name: value for name, value in settings.items() if name in before}


def _read() -> dict[str, Any]:
    """All settings that this PyTorch has, in an order in which they can be written: the later refine the earlier."""
    matmul = torch.backends.cuda.matmul
    found: dict[str, Any] = {}
    # where a program has set operation by operation, PyTorch refuses the older questions: then FINE alone is used
    with suppress(RuntimeError):
        found["matmul"] = torch.get_float32_matmul_precision()
    with suppress(RuntimeError):
        found["cudnn.allow_tf32"] = torch.backends.cudnn.allow_tf32
    found["cudnn.benchmark"] = torch.backends.cudnn.benchmark
    found["cudnn.deterministic"] = torch.backends.cudnn.deterministic
    found["bf16_reduction"] = matmul.allow_bf16_reduced_precision_reduction
    found["fp16_reduction"] = matmul.allow_fp16_reduced_precision_reduction
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is not None:
        found |= {f"{backend}.{operation}": getter(backend, operation) for backend, operation in FINE}
    return found


def _write(settings: dict[str, Any]) -> None:
    matmul = torch.backends.cuda.matmul
    for name, value in settings.items():
        if name == "matmul":
            torch.set_float32_matmul_precision(value)
        elif name.startswith("cudnn."):
            setattr(torch.backends.cudnn, name.partition(".")[2], value)
        elif name == "bf16_reduction":
            matmul.allow_bf16_reduced_precision_reduction = value
        elif name == "fp16_reduction":
            matmul.allow_fp16_reduced_precision_reduction = value
        else:
            backend, operation = name.split(".")
            torch._C._set_fp32_precision_setter(backend, operation, "none")  # as its backend says
            if torch._C._get_fp32_precision_getter(backend, operation) != value:
                torch._C._set_fp32_precision_setter(backend, operation, value)
