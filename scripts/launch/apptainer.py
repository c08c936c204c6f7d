"""One job in an image without a daemon and without root, as clusters run them: Apptainer or Charliecloud.

Both take the same mounts, working folder and command as container.py's runtimes; the caller stays who he is, nothing
is written into the image, and of the environment only what the job needs goes in. Standard library only.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from shlex import quote
from typing import Final

from feature_extraction.errors import UsageError

from .container import Inside
from .settings import Settings

MOST_LINKS: Final = 40
"""As many as the kernel follows in one path."""
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
        seen = [folder for mount in inside.mounts for folder in shown_as(mount.path, Path(image))]
        for folder in dict.fromkeys(seen):
            flags += ["--bind", f"{os.path.realpath(folder)}:{folder}"]
        flags += self._settings.words("RUN_FLAGS")
        return [*flags, image, "--", *inside.command]


def shown_as(path: Path, image: Path) -> list[Path]:
    """The folders to mount, each under its own name, so that ``path`` can be seen in the image.

    ch-run makes mount points in its own /tmp and nowhere else, since an image is read-only. Where the image has the
    folder, it is mounted there; else the first folder of its path is, whole, as on the host: one empty folder in the
    image (``/gpfs``) then serves every path below it, and nobody is shown what he may not read anyway. Raises
    UsageError where that would hide files of the image, where there is nothing to mount on, and for a colon."""
    at_its_place = os.path.isdir(inside_of(image, path))
    folders = [path] if at_its_place else leading_to(path)
    for folder in folders:
        place = inside_of(image, folder)
        if ":" in f"{os.path.realpath(folder)}{folder}":
            raise UsageError(f"{folder}: ch-run splits its mounts at colons: move the folder, or RUN=apptainer")
        if at_its_place or is_temporary(folder) or not image.is_dir():
            continue
        if not os.path.isdir(place):
            raise UsageError(
                f"the image has no folder {folder}, in which {path} is to be seen: mkdir {quote(str(place))}"
            )
        if not os.access(place, os.R_OK) or any(os.scandir(place)):
            raise UsageError(
                f"the image has files of its own in {folder}, and no folder to mount {path} on: "
                f"mkdir -p {quote(str(inside_of(image, path)))}"
            )
    return folders


def leading_to(path: Path) -> list[Path]:
    """The first folders (``/gpfs``) of a path and of all that its links lead through, which have to be there for it to
    be found inside under the name that it has outside; below /tmp, the folder itself."""
    found: list[Path] = []
    for _ in range(MOST_LINKS):
        first = Path(*path.parts[:2])
        found.append(path if is_temporary(path) else first)
        steps = [step for step in [*reversed(path.parents), path] if first in step.parents]
        link = next((step for step in steps if step.is_symlink()), None)
        if link is None or is_temporary(path):
            break
        path = Path(os.path.normpath(link.parent / link.readlink())) / path.relative_to(link)
    return list(dict.fromkeys(found))


def is_temporary(path: Path) -> bool:
    """Whether it lies in what ch-run has as a /tmp of its own."""
    return Path("/tmp") in path.parents


def inside_of(image: Path, path: Path) -> Path:
    return image / path.relative_to("/")


def _require(program: str, way_out: str) -> None:
    if shutil.which(program) is None:
        raise UsageError(f"there is no {program}: {way_out}")
