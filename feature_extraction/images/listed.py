"""Images that a source holds, by the id that each claims; wherever their bytes lie.

A source (a folder, a list, a tar, an address) gives a ``Listing`` of ``ListedImage``. Ids and order do not depend on
what it is: the id is the stem of the name, read as UTF-8; of several images with one id the first by suffix and path.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, Generic, Protocol, TypeVar

from ..names import printable
from ..storage.source import FileStamp, Source
from . import files

IMAGE_SUFFIXES: Final = frozenset(b".jpg .jpeg .png .gif .bmp .webp .tif .tiff .ppm .pgm .pbm .avif .jp2".split())
"""What an image file's name ends in, in any case. Of a folder it only decides which of two files with one id goes
first; of a tar it tells images from what lies beside them."""


class ListedImage(Protocol):
    """One image to extract. May be read from many threads."""

    @property
    def id(self) -> str:
        """The key in the feature file."""

    @property
    def name(self) -> str:
        """Where it lies, ``printable``."""

    def stamp(self) -> FileStamp:
        """What tells, without reading it, whether it is still the one that was read; never an error."""

    def sha256(self) -> str:
        """SHA-256 of its bytes, hexadecimal; empty, which is no digest, where they cannot be read."""

    def at_hand(self) -> ListedImage:
        """Itself; where fetching its bytes is costly, what was fetched, for a look at them before they are decoded."""

    def opened(self) -> AbstractContextManager[BinaryIO]:
        """Its bytes, to look at. Raises ImageError, OSError."""

    def opened_for_good(self) -> AbstractContextManager[tuple[BinaryIO, Source]]:
        """Its bytes, and which they are: what is read inside the block has exactly the digest that is given. Raises
        ImageError, also where it has changed before the block is left; OSError."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image in a file of its own. ``id``: the file's stem."""

    id: str
    path: Path

    @property
    def name(self) -> str:
        return printable(self.path)

    def stamp(self) -> FileStamp:
        return files.stamp(self.path)

    def sha256(self) -> str:
        return files.file_sha256(self.path)

    def at_hand(self) -> ImageFile:
        return self

    def opened(self) -> AbstractContextManager[BinaryIO]:
        return files.open_regular(str(self.path))

    def opened_for_good(self) -> AbstractContextManager[tuple[BinaryIO, Source]]:
        return files.open_for_good(str(self.path))


@dataclass(frozen=True)
class Failure:
    """One file or folder that gives no features."""

    id: str
    """The file's stem, exactly, as keys are compared (not for a terminal: see ``printable``); bytes that are not UTF-8
    written ``\\xNN``. Empty for a folder or an archive."""
    path: str
    """``printable``, like the reason."""
    reason: str

    @classmethod
    def of(cls, image: ListedImage, reason: str) -> Failure:
        """``image`` gives no features for this reason."""
        return cls(image.id, image.name, reason)


def _nothing() -> None:
    pass


Listed_co = TypeVar("Listed_co", bound=ListedImage, covariant=True)


@dataclass(frozen=True)
class Listing(Generic[Listed_co]):
    """What a source holds."""

    images: tuple[Listed_co, ...]
    """Distinct ids, ascending as UTF-8 bytes: the row order of the feature file (``store.image_ids``)."""
    failures: tuple[Failure, ...]
    """Ascending by path."""
    copies: int = 0
    """Files passed over because an image of the same id and the same content is in ``images``."""
    ignored: int = 0
    """Members of a tar that are no images: captions, numbers."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What the feature file is to say of a source that is one file: a tar's name and version."""
    close: Callable[[], None] = field(default=_nothing, compare=False)
    """Lets go of what the images are read from; they cannot be read afterwards."""


Listed = TypeVar("Listed", bound=ListedImage)


@dataclass
class Found(Generic[Listed]):
    """What was met of a source so far: images by the stem that they claim, and what cannot be one."""

    difference: Callable[[Listed, Listed], str]
    """What tells two images of one id apart; empty where both have the same bytes."""
    images_of: defaultdict[bytes, list[tuple[bytes, Listed]]] = field(default_factory=lambda: defaultdict(list))
    """Stem -> (path, image) of all that claim it."""
    failures: list[Failure] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.images_of or self.failures)

    def add(self, path: bytes, image_of: Callable[[str], Listed], shown: Callable[[], str]) -> None:
        """One that may be an image: ``image_of`` makes it of its id. ``shown``: gives its path, printable."""
        stem, _ = split_name(path.rpartition(b"/")[2])
        try:
            image_id = stem.decode()
        except UnicodeDecodeError:
            self.fail(stem, shown(), "name is not UTF-8, as keys of HDF5 files are: rename it")
        else:
            self.images_of[stem].append((path, image_of(image_id)))

    def fail(self, stem: bytes, shown: str, reason: str) -> None:
        self.failures.append(Failure(stem.decode("utf-8", "backslashreplace"), shown, reason))

    def listing(self) -> Listing[Listed]:
        images: list[Listed] = []
        copies = 0
        for stem in sorted(self.images_of):
            (_, first), *rest = sorted(self.images_of[stem], key=_precedence)
            images.append(first)
            for _, other in rest:
                if difference := self.difference(first, other):
                    self.fail(stem, other.name, f"duplicate id {difference}: {first.name} is used")
                else:
                    copies += 1
        failures = tuple(sorted(self.failures, key=lambda f: f.path))
        return Listing(tuple(images), failures, copies)


def difference(first: ListedImage, other: ListedImage) -> str:
    """Empty where both have the same bytes, by their digests."""
    same = first.stamp().size == other.stamp().size and first.sha256() == other.sha256() != ""
    return "" if same else "with different content"


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """(stem, suffix) as pathlib splits them: "a.b.jpg" -> "a.b", ".jpg"."""
    dot = name.rfind(b".")
    return (name[:dot], name[dot:]) if 0 < dot < len(name) - 1 else (name, b"")


def looks_like_image(path: bytes) -> bool:
    """By its name alone."""
    return split_name(path)[1].lower() in IMAGE_SUFFIXES


def _precedence(found: tuple[bytes, object]) -> tuple[bool, bytes]:
    """ "1.json" beside "1.png" is not the image."""
    return not looks_like_image(found[0]), found[0]
