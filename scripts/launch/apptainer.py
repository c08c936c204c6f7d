"""One job in an image without a daemon and without root, as clusters run them: Apptainer or Charliecloud.

Both take the same mounts, working folder and command as container.py's runtimes; the caller stays who he is, nothing
is written into the image, and of the environment only what the job needs goes in. Standard library only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Final

from feature_extraction.errors import UsageError

from .container import Inside
from .mounts import unseen
from .settings import Settings

ARCHIVE_FIRST: Final = "make image-archive where the image was built"
IMAGE_ENVIRONMENT: Final = {
    "PATH": "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "USER": "xlxmert",
    "HOME": "/tmp",
}
"""What the Dockerfile sets, for a runtime that is given the files of an image and nothing else."""


class Apptainer:
    """Apptainer, or SingularityCE from 3.9: the image is a .sif file."""

    ending: Final = ".sif"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        there = [name for name in ("apptainer", "singularity") if shutil.which(name)]
        self.program: Final = [*there, "apptainer"][0]

    def require_to_run(self, image: str, way_out: str) -> None:
        """Raise UsageError, which ends with ``way_out``, unless the program and the image are there."""
        _require(self.program, f"module load apptainer{way_out}")
        if not Path(image).exists():
            archive = Path(image).with_suffix(".tar").name
            raise UsageError(  # unpacked first: 1.4.1 and later take no compressed archive
                f"there is no image {image}: {ARCHIVE_FIRST}, then here gunzip {quote(archive)}.gz && "
                f"{self.program} build {quote(image)} docker-archive:{quote(archive)}, or IMAGE=FILE.sif{way_out}"
            )

    def run_command(self, image: str, inside: Inside) -> list[str]:
        """The whole command line of one job."""
        # by the environment, because the flag for it (--env) splits values at commas
        prefix = f"{self.program.upper()}ENV_"
        handed_in = [f"{prefix}{name}={value}" for name, value in inside.environment.items()]
        # containall: no home, no /tmp, no processes of the host; the image itself is read-only by itself
        flags = [self.program, "exec", "--containall", "--cleanenv", "--pwd", inside.workdir]
        if inside.gpu:
            flags += self._settings.words("GPU_FLAGS") or ["--nv"]
        for mount in inside.mounts:
            flags += ["--mount", mount.flag()]  # the very strings that docker takes
        flags += self._settings.words("RUN_FLAGS")
        return [*(["env", *handed_in] if handed_in else []), *flags, image, *inside.command]


class Charliecloud:
    """Charliecloud: the image is a folder of unpacked files."""

    ending: Final = ""
    program: Final = "ch-run"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def require_to_run(self, image: str, way_out: str) -> None:
        """Raise UsageError, which ends with ``way_out``, unless the program and the image are there."""
        _require(self.program, f"install charliecloud{way_out}")
        if not Path(image, "app").is_dir():
            folder, archive = quote(image), quote(f"{Path(image).name}.tar.gz")
            raise UsageError(
                f"there is no image in the folder {image}: {ARCHIVE_FIRST} (RUN=charliecloud), then here "
                f"mkdir -p {folder} && tar -C {folder} -xf {archive}, or IMAGE=FOLDER{way_out}"
            )

    def run_command(self, image: str, inside: Inside) -> list[str]:
        """The whole command line of one job. Raises UsageError for a mount that ch-run cannot make."""
        # GPUs: the devices are there, and the driver's libraries since `ch-fromhost --nvidia IMAGE`
        flags = [self.program, "--private-tmp", "--cd", inside.workdir, "--unset-env=*", "--env-no-expand"]
        flags += [f"--set-env={name}={value}" for name, value in {**IMAGE_ENVIRONMENT, **inside.environment}.items()]
        for folder in folders_to_mount((mount.path for mount in inside.mounts), Path(image)):
            require_mount(folder, Path(image))
            flags += ["--bind", f"{os.path.realpath(folder)}:{folder}"]
        flags += self._settings.words("RUN_FLAGS")
        return [*flags, image, "--", *inside.command]


def folders_to_mount(paths: Iterable[Path], image: Path) -> list[Path]:
    """The folders to mount, each under its own name, so that ``paths`` are found in the image as they are outside, with
    all that links on the way lead through."""
    found: list[Path] = []
    for path in paths:
        while (place := unseen(path, found)) is not None:
            found.append(mount_point(place, image))
    return found


def mount_point(path: Path, image: Path) -> Path:
    """The folder to mount so that ``path`` is seen in the image.

    ch-run makes mount points in its own /tmp and nowhere else, since an image is read-only. So the deepest folder on
    the way that the image has is mounted whole, if it is empty there: ``/gpfs`` serves every path below it, and nobody
    is shown what he may not read anyway. Where it holds files of the image's own, it is the next one, which is still
    to be made."""
    if is_temporary(path):
        return path
    way = [*reversed(path.parents), path]
    there = next((step for step in reversed(way) if os.path.isdir(inside_of(image, step))), way[0])
    return there if there == path or is_empty(inside_of(image, there)) else way[way.index(there) + 1]


def require_mount(folder: Path, image: Path) -> None:
    """Raise UsageError unless ch-run can mount ``folder`` under its own name; without an image (``make -n``) it may."""
    if ":" in f"{os.path.realpath(folder)}{folder}":
        raise UsageError(f"{folder}: ch-run splits its mounts at colons: move the folder, or RUN=apptainer")
    place = inside_of(image, folder)
    if image.is_dir() and not is_temporary(folder) and not os.path.isdir(place):
        raise UsageError(f"the image has no folder {folder} to mount on: mkdir {quote(str(place))}")


def is_temporary(path: Path) -> bool:
    """Whether it lies in what ch-run has as a /tmp of its own."""
    return Path("/tmp") in path.parents


def inside_of(image: Path, path: Path) -> Path:
    return image / path.relative_to("/")


def is_empty(folder: Path) -> bool:
    return os.access(folder, os.R_OK) and not any(os.scandir(folder))


def _require(program: str, way_out: str) -> None:
    if shutil.which(program) is None:
        raise UsageError(f"there is no {program}: {way_out}")
