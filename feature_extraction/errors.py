"""Every error that a user can mend, in one tree.

    KitError                      the base: a message that says what, found, expected, what to do
    ├── UsageError                settings that contradict each other or the data
    │   └── UnknownName           a data set, split or vocabulary source that the catalogue does not hold
    ├── ImageError                one image cannot be used; the message is the reason, without the path
    ├── ImageFolderError          the image folder is missing, unreadable, or holds no image
    ├── CheckpointError           configuration or weights that cannot make the detector
    ├── DeviceError               a device or precision that this machine does not have
    ├── ReferenceMissing          the original detector is not installed, or not for this device
    ├── StoreError                a feature file that is missing, unfinished, damaged or not what was asked for
    │   └── StoreBusy             another process is working on it
    ├── VocabularyError           centroids or cluster indices that are missing, damaged or of another vocabulary
    └── DownloadError             a file that could not be fetched or unpacked

``UsageError`` and ``ImageError`` are also ``ValueError``, ``ReferenceMissing`` is also ``ImportError``: what a
Python programmer expects of them. Standard library only.
"""

from __future__ import annotations

import os


class KitError(Exception):
    """The base of all errors that a user can mend."""


class UsageError(KitError, ValueError):
    """Settings that contradict each other or the data; the message says what to do."""


class UnknownName(UsageError):
    """A data set, split or vocabulary source that the catalogue does not hold; the message lists the known."""


class ImageError(KitError, ValueError):
    """One image cannot be used; ``str(error)`` is the reason: one line, without the path."""


class ImageFolderError(KitError):
    """The image folder is missing, unreadable, not a folder, or holds no image."""


class CheckpointError(KitError):
    """A configuration or weight file that cannot make the detector; the message says what to do."""


class DeviceError(KitError):
    """A device or precision that this machine does not have."""


class ReferenceMissing(KitError, ImportError):
    """The original detector is not installed, or not for this device; the message says what to do."""


class StoreError(KitError):
    """A feature file that is missing, unfinished, damaged, in use or not what was asked for."""


class StoreBusy(StoreError):
    """Another process is working on the same output."""


class VocabularyError(KitError):
    """Centroids or cluster indices that are missing, damaged, or of another vocabulary."""


class DownloadError(KitError):
    """A file that could not be fetched, is not what was promised, or could not be unpacked."""


def reason(error: BaseException) -> str:
    """Why, in one line, behind a message that names the file: of a failing system call the system's words alone."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def reason_of(error: OSError) -> str:
    """The same with the file, where the error knows one: ``FILE: No space left on device``."""
    return f"{os.fsdecode(error.filename)}: {reason(error)}" if error.filename else reason(error)
