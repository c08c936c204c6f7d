"""What a format is to the engine: how images become named pieces of bytes, and where those are put."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from ..errors import StoreError
from ..names import printable
from ..storage import guard
from .entries import Entry, Layout
from .spec import ExportConfig

Piece = tuple[str, int, int]
"""Name, bytes and CRC-32 of something written."""
HOW_TO_STORE: Final = {
    "cls_prob": "extract with --class_probs",
    "obj_conf": "extract with --obj_conf",
    "boxes": "extract with --kind boxes",
    "obj_id": "extract with --kind boxes",
    "img_w": "extract with --kind boxes",
    "img_h": "extract with --kind boxes",
}
"""The way to a file that holds an array."""


class Place(Protocol):
    """Where pieces are put: begin, put and sync, finish, then read."""

    def begin(self, pieces: Sequence[Piece]) -> None:
        """Open it for writing: anew, or behind these pieces, whatever else a killed run left."""

    def put(self, name: str, data: bytes) -> None:
        """Write one piece. Raises OSError, StoreError."""

    def sync(self) -> None:
        """Return when all that was put is on the disk."""

    def finish(self, pieces: Sequence[Piece]) -> None:
        """Write what belongs behind the last piece, and close. Raises StoreError where there is more than these."""

    def read(self, pieces: Sequence[Piece]) -> Iterator[bytes]:
        """The bytes of each piece, in this order, as they lie on the disk."""


class Format(ABC):
    """One layout. ``tally`` counts what has to be said at the end, and survives a kill."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Arrays without which it cannot be written."""
    least_boxes: ClassVar[int] = 0
    """Of an image: with fewer, its readers stop, or compute with what is no number."""
    images_per_piece: int = 1

    def __init__(self, config: ExportConfig, layout: Layout, keys: Sequence[str]) -> None:
        """``layout``: of the first image; ``keys``: what all images are called, in order. Raises StoreError where the
        file lacks something."""
        self.config, self.layout, self.keys = config, layout, keys
        self.tally: dict[str, float] = {}
        for name in (config.features, *self.required()):
            if name not in layout:
                how = HOW_TO_STORE.get(name, f"it has {', '.join(map(guard.shown, layout))}")
                raise StoreError(f"{config.source} holds no {printable(name)}, which {config.format} needs: {how}")

    def required(self) -> tuple[str, ...]:
        """Arrays that are needed with these settings."""
        return self.needs

    @abstractmethod
    def open_place(self, path: Path) -> Place:
        """Where its pieces go: below or at ``path``."""

    @abstractmethod
    def encode(self, images: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
        """Named pieces of up to ``images_per_piece`` images."""

    def why_unfit(self, key: str) -> str:
        """Why an image cannot be called so; empty if it can."""
        return ""

    def notes(self) -> list[str]:
        """What the reader of OUT has to know: left out, derived or changed."""
        return []


def library(name: str) -> Any:
    """A module that only exports need. Raises StoreError with the way to get it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise StoreError(f"this format needs {name}: pip install 'xlxmert-features[export]'") from error
