"""``detectron_model.pth``: read safely, checked tensor by tensor, made into a detector.

The file is not trusted: it goes through PyTorch's restricted unpickler, which builds tensors and plain
containers and runs no code.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..places import to_type
from .config import BLOCKS, DetectorConfig
from .faster_rcnn import FasterRCNN
from .files import UNREADABLE
from .layers import Weights
from .safe_pickle import check_weights

MOST_LISTED: Final = 8
"""Problems named one by one in an error; the rest is counted."""


def read_document(path: Path, fetch: str = "download") -> object:
    """What a weight file holds: tensors, and plain containers around them; ``fetch`` is the target that gets it again.

    Raises CheckpointError for a file that is no checkpoint or that holds anything but plain data."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; {UNREADABLE}") from error
    with file:
        try:
            check_weights(path)
            return _loaded(f"/proc/self/fd/{file.fileno()}")  # by a name in ASCII: PyTorch knows none but UTF-8
        except Exception as error:  # the unpickler raises whatever the bytes make it raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{path} cannot be read as PyTorch weights ({reason}). It is truncated, something else, or holds "
                f"objects other than tensors, which are never executed; download it again: {to_type(fetch)}"
            ) from error


def _loaded(place: str) -> object:
    try:
        return torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        # files written before PyTorch 1.6 (the published one may be) cannot be mapped
        return torch.load(place, map_location="cpu", weights_only=True)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a detector's weight file by name, without a ``module.`` prefix. Raises CheckpointError."""
    document = read_document(path)
    model = document.get("model", document) if isinstance(document, Mapping) else None
    if not isinstance(model, Mapping):
        raise CheckpointError(f"{path} holds {type(document).__name__}, expected {{'model': {{name: tensor}}}}")
    tensors = {str(name): value for name, value in model.items() if isinstance(value, Tensor)}
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def build(path: Path, config: DetectorConfig, tensors: Mapping[str, Tensor]) -> tuple[FasterRCNN, list[str]]:
    """The detector with these weights (float32, CPU) and the names of tensors that it has no use for.

    ``path`` is for messages. Raises CheckpointError that names every missing tensor and every wrong shape."""
    wanted = expected_tensors(config)
    problems = []
    for name, shape in wanted.items():
        if name not in tensors:
            problems.append(f"missing: {name} {list(shape)}")
        elif tuple(tensors[name].shape) != shape:
            problems.append(f"wrong shape: {name} is {list(tensors[name].shape)}, expected {list(shape)}")
    if problems:
        raise CheckpointError(_explain(path, config, tensors, problems))
    return FasterRCNN(Weights(tensors), config).eval(), sorted(set(tensors) - set(wanted))


def expected_tensors(config: DetectorConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a checkpoint for this configuration holds."""
    weights = Weights(None)
    FasterRCNN(weights, config)
    return weights.taken


def _explain(path: Path, config: DetectorConfig, tensors: Mapping[str, Tensor], problems: list[str]) -> str:
    blocks = {int(m[1]) for m in (re.match(r"backbone\.body\.layer3\.(\d+)\.", n) for n in tensors) if m}
    found = next((depth for depth, counts in BLOCKS.items() if counts[2] == len(blocks)), None)
    more = f"; and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
    if not tensors:
        reason = f"It holds no tensors at all: download it again ({to_type('download')})"
    elif found == 101 and config.depth == 152:
        reason = (
            "This is the X-101 model (Pythia's detectron_model.pth, 652 MB), not the X-152 of the paper, which has the "
            f"same file name: take ViLBERT's ({to_type('download')}), or have only its own detectron_model.yaml "
            "beside it"
        )
    elif found is not None and found != config.depth:
        reason = f"The file holds a network of depth {found}, the configuration asks for {config.depth}"
    else:
        reason = f"Take weights and configuration from the same place ({to_type('download')} fetches both)"
    return (
        f"{path} does not fit the configuration: {len(problems)} problems. {reason}. "
        f"In detail: {'; '.join(problems[:MOST_LISTED])}{more}"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
