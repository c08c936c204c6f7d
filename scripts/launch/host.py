"""What runs on the host alone: the environment, downloads, the image's build, the report. Standard library only."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from feature_extraction import catalog
from feature_extraction.arguments import nearest
from feature_extraction.errors import UsageError
from feature_extraction.places import source_revision

from . import checks
from .jobs import VENV, Command, Launcher
from .settings import CHECKOUT

DOWNLOADS = ("", "pretrained", "annotations", "features", "images")
"""What stands after ``download-``; nothing: the checkpoint."""


def downloads(target: str) -> list[str]:
    """``download``, ``download-WHAT``, and of features and images ``download-WHAT-SET`` -> what is asked of
    scripts.download. Raises UsageError."""
    what, _, data = target.removeprefix("download").removeprefix("-").partition("-")
    sets = [data] if data else []
    if what not in DOWNLOADS or (data and (what not in ("features", "images") or data not in catalog.DATA_SETS)):
        names = [f"download{'-' if w else ''}{w}" for w in DOWNLOADS]
        names += [f"download-{w}-{d}" for w in ("features", "images") for d in catalog.DATA_SETS]
        raise UsageError(f"there is no {target}; {nearest(target, names)}")
    return [what or "checkpoint", *sets]


def download(here: Launcher, wanted: Sequence[str]) -> Command:
    """What ``downloads`` has understood."""
    if not here.dry_run:
        checks.require_curl()
    settings = here.settings
    command = [sys.executable, "-m", "scripts.download", "--datasets", str(settings.datasets)]
    command += ["--checkpoint_dir", str(settings.checkpoint), "--published", str(settings.published)]
    command += ["--base-url", settings["BASE_URL"]] if settings["BASE_URL"] else []
    return Command(argv=[*command, *settings.words("DOWNLOAD_FLAGS"), *wanted])


def docker_build(here: Launcher) -> Command:
    """The image, for this machine or as TARGET says."""
    settings, runtime = here.settings, here.runtime
    if not here.dry_run:
        runtime.require_to_build()
    command = [runtime.program, "build"]
    # without it Podman leaves SHELL, and so pipefail, out
    command += [] if runtime.name == "docker" else ["--format", "docker"]
    command += ["--file", "docker/Dockerfile", "--target", here.target, "--build-arg", f"REVISION={source_revision()}"]
    for name, value in settings.build_arguments.items():
        command += ["--build-arg", f"{name}={value}"]
    if settings["PIP_CONF"]:
        pip_conf = settings.path("PIP_CONF")
        if set(str(pip_conf)) & set(',"'):
            raise UsageError(f"PIP_CONF={pip_conf}: the build takes no path with a comma or a quote: give another")
        command += ["--secret", f"id=pip.conf,src={pip_conf}"]
    command += [*settings.words("BUILD_FLAGS"), "--tag", here.container_image, "."]
    return Command(argv=command, environment={"DOCKER_BUILDKIT": "1"})


def image_archive(here: Launcher) -> Command:
    """The image as one file, which is at its name only when it is whole: all layers, as `docker load` and `apptainer
    build` take them, or, for RUN=charliecloud, the folder that `ch-run` runs."""
    path = here.settings.path("IMAGE_FILE", CHECKOUT / "build" / f"xlxmert-features-{here.target}.tar.gz")
    image, program = here.container_image, shlex.quote(here.runtime.program)
    if not here.dry_run:
        here.runtime.require_to_run(image, "")
        path.parent.mkdir(parents=True, exist_ok=True)
    part, whole = shlex.quote(f"{path}.part"), shlex.quote(str(path))
    before, pack = "", f"{program} save {shlex.quote(image)}"
    if here.settings["RUN"] == "charliecloud":
        before = f"name=$({program} create {shlex.quote(image)}); trap '{program} rm \"$name\" >/dev/null' EXIT; "
        pack = f'{program} export "$name"'
    line = f"set -eo pipefail; {before}{pack} | gzip --fast > {part} && mv {part} {whole}"
    return Command(argv=["bash", "-c", line], shell=line, says=f"{image} -> {path}")


def report(here: Launcher) -> Command:
    """One page about all that was made."""
    settings = here.settings
    return _in_environment(
        here, "scripts.report", "--datasets", str(settings.datasets), "--output", str(settings.path("REPORT"))
    )


def xlxmert(here: Launcher) -> Command:
    """Every path in place that another program reads; box files are read and written with packages."""
    settings = here.settings
    words = ["--datasets", str(settings.datasets), "--for", settings["FOR"]]
    words += ["--checkout", str(settings.path("READER"))] if settings["READER"] else []
    words += settings.words("XLXMERT_FLAGS")
    if settings["FOR"] == "vl-t5":
        return _in_environment(here, "scripts.xlxmert", *words)
    return Command(argv=[sys.executable, "-m", "scripts.xlxmert", *words])


def gpu_test(here: Launcher) -> Command:
    """The whole of what a GPU has to show, with whatever Python called this."""
    return Command(argv=[sys.executable, "-m", "scripts.gpu_test", *here.settings.words("GPU_TEST_FLAGS")])


def test_faults(here: Launcher) -> Command:
    return _in_environment(here, "tests.faults.campaign", *here.settings.words("FAULT_FLAGS"))


def _in_environment(here: Launcher, module: str, *arguments: str) -> Command:
    python = VENV / "bin" / "python"
    if not here.dry_run:
        checks.require_python(python)
    return Command(argv=[str(python), "-m", module, *arguments])


def setup(here: Launcher) -> Command:
    """The environment of this checkout."""
    return Command(argv=[sys.executable, "-m", "scripts.launch.setup", os.path.relpath(VENV, Path.cwd())])
