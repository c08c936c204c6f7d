"""What a job needs, asked before anything starts. Each ``require_...`` raises UsageError: one line that says what is
lacking, and the way out. Standard library only.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from feature_extraction import catalog
from feature_extraction.errors import UsageError

from .container import owner_of
from .mounts import folders_on_the_way


def gpus() -> int:
    """GPUs that the driver sees here, less those that CUDA_VISIBLE_DEVICES hides."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    found = len(done.stdout.split())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if visible is None else min(found, len([v for v in visible.split(",") if v.strip() not in ("", "-1")]))


def require_python(python: Path) -> None:
    if not os.access(python, os.X_OK):
        raise UsageError(f"there is no {python}: make setup, or make docker-build")


def require_curl() -> None:
    if shutil.which("curl") is None:
        raise UsageError("there is no curl: install it (apt-get install curl)")


def require_checkpoint(folder: Path) -> None:
    """The detector's two files, under one of their names."""
    name = "detectron_model.pth"
    try:
        there = any((folder / one).is_file() for one in (name, *catalog.CHECKPOINT_NAMES[name]))
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}: mend its rights, or CHECKPOINT=folder") from None
    if not there:
        raise UsageError(f"there is no {name} in {folder}: make download, or CHECKPOINT=folder")
    if not any(folder.glob("*.yaml")):
        raise UsageError(f"there is no detectron_config.yaml in {folder}: make download, or CHECKPOINT=folder")


def require_folder(folder: Path, way_out: str) -> None:
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: {way_out}")


@dataclass(frozen=True)
class Survey:
    """What lies in an image folder."""

    images: int
    folders: tuple[Path, ...]
    """Those outside that its links lead to."""


def survey(folder: Path, pattern: str = "*", recursive: bool = True) -> Survey:
    """Count the files of an image folder, following its links, and say where they lead."""
    images, shown = 0, {folder: None}
    todo, seen = [folder], set[str]()
    while todo:
        current = todo.pop()
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(current))
        except OSError as error:
            raise UsageError(f"{current}: {error.strerror}: mend its rights, or DATASETS=folder") from None
        for entry in entries:
            is_folder = entry.is_dir()
            if entry.is_symlink():
                shown |= dict.fromkeys(folders_on_the_way(Path(entry.path), shown))
            if is_folder and recursive:
                todo.append(Path(entry.path))
            elif not is_folder and entry.is_file() and fnmatch.fnmatch(entry.name.lower(), pattern.lower()):
                images += 1
    return Survey(images, tuple(shown)[1:])


def require_images(folder: Path, way_out: str, pattern: str = "*", recursive: bool = True) -> Survey:
    """The survey of ``folder``, if there is any image in it."""
    found = survey(folder, pattern, recursive) if folder.is_dir() else Survey(0, ())
    if not found.images:
        raise UsageError(f"there are no images in {folder}: {way_out}, or DATASETS=folder")
    return found


def make_output(folder: Path, *, in_container: bool, choice: str = "DATASETS=...") -> None:
    """Make an output folder and see that the job can write there; ``choice`` says where another is named.

    No job is root in the container: where root calls, what is made goes to the owner of the folder around it, or to
    the image's user if that is root too, and so does an empty folder; what root has filled is root's to give."""
    around = nearest_there(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if in_container and os.geteuid() == 0:
            _give_away(folder, around)
    except OSError as error:
        raise UsageError(
            f"cannot make the folder {folder} ({error.strerror}): choose another with {choice}, or mend its owner"
        ) from None
    if not os.access(folder, os.W_OK):
        raise UsageError(
            f"cannot write to {folder} as user {os.geteuid()}: choose another with {choice}, or mend its owner"
        )


def _give_away(folder: Path, around: Path) -> None:
    """Give ``folder``, and what was made with it below ``around``, to somebody who is not root."""
    user = owner_of(around)
    for made in (folder, *folder.parents):
        if made == around:
            break
        os.chown(made, *user)
    if folder.stat().st_uid == 0:
        if any(folder.iterdir()):
            raise UsageError(
                f"{folder} and what is in it belong to root, and no job is root in the container: "
                f"chown -R {user[0]}:{user[1]} {quote(str(folder))}, or RUN=host"
            )
        os.chown(folder, *user)


def nearest_there(folder: Path) -> Path:
    """The folder itself, or the nearest around it that there is."""
    return next(p for p in (folder, *folder.parents) if p.exists())


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 where there is nothing."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else 0


def require_room(output: Path, images: int, bytes_per_image: int) -> None:
    """Room for what is still to be computed and for the finished file that is made of it."""
    finished = images * bytes_per_image
    journals = size(output.with_name(output.name + ".work"))
    left = max(0, finished - journals - size(output))
    if not journals and left <= finished // 50:  # it is there, but for images that gave no features
        return
    free = shutil.disk_usage(nearest_there(output.parent)).free
    if free < left + finished:
        raise UsageError(
            f"{output.parent} has {free / 1e9:,.1f} GB free; the features of {images:,} images need "
            f"{(left + finished) / 1e9:,.1f} GB while {output.name} is made: make room, or DATASETS=folder"
        )


def require_gpus(wanted: int | None, there: int, *, needed: bool) -> None:
    """``wanted``: GPUS, if it was set; ``needed``: whether the job runs in the gpu image."""
    if wanted is not None and wanted > there:
        raise UsageError(
            f"GPUS={wanted}, but the NVIDIA driver sees {there or 'no'} GPU{'s' * (there > 1)} here (nvidia-smi): "
            f"GPUS={there}" + (" and TARGET=cpu" if not there else "") + ", or mend the driver"
        )
    if needed and not there:
        raise UsageError("the NVIDIA driver sees no GPU (nvidia-smi): mend the driver, or TARGET=cpu")


def last_error(lines: Sequence[str]) -> str:
    """Of what a job printed on its way out, the line that says why."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if "error" in line.lower()]
    return (errors or said or [""])[-1].removeprefix("error: ")
