"""One job in an image without a daemon and without root, as clusters run them: Apptainer or Charliecloud.

Both take the same mounts, working folder and command as container.py's runtimes; the caller stays who he is, nothing
is written into the image, and of the environment only what the job needs goes in. Standard library only.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from feature_extraction.errors import UsageError

from .container import Inside
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
                f"there is no image {image}: {ARCHIVE_FIRST}, then here gunzip {archive}.gz && "
                f"{self.program} build {image} docker-archive:{archive}, or IMAGE=FILE.sif{way_out}"
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
            raise UsageError(
                f"there is no image in the folder {image}: {ARCHIVE_FIRST} (RUN=charliecloud), then here "
                f"mkdir -p {image} && tar -C {image} -xf {Path(image).name}.tar.gz, or IMAGE=FOLDER{way_out}"
            )

    def run_command(self, image: str, inside: Inside) -> list[str]:
        """The whole command line of one job. Raises UsageError for a mount that ch-run cannot make."""
        # GPUs: the devices are there, and the driver's libraries since `ch-fromhost --nvidia IMAGE`
        flags = [self.program, "--private-tmp", "--cd", inside.workdir, "--unset-env=*", "--env-no-expand"]
        flags += [f"--set-env={name}={value}" for name, value in {**IMAGE_ENVIRONMENT, **inside.environment}.items()]
        for mount in inside.mounts:
            source = os.path.realpath(mount.path)
            if ":" in f"{source}{mount.path}":
                raise UsageError(f"{mount.path}: ch-run splits its mounts at colons: move the folder, or RUN=apptainer")
            top = Path(image, *mount.path.parts[1:2])
            if Path(image).is_dir() and not top.exists():
                raise UsageError(f"the image has no {top}, in which {mount.path} is to be mounted: mkdir {top}")
            flags += ["--bind", f"{source}:{mount.path}"]
        flags += self._settings.words("RUN_FLAGS")
        return [*flags, image, "--", *inside.command]


def _require(program: str, way_out: str) -> None:
    if shutil.which(program) is None:
        raise UsageError(f"there is no {program}: {way_out}")
