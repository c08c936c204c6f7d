"""One job in a container of Docker or Podman: what is mounted, whose files, and what the job may not do.

Every way into such a container (make, ``make shell``, docker/compose.yaml) takes its restrictions from here; where
there is no daemon and no root, as on clusters, it is clusters' own runtimes: apptainer.py.
Standard library only.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from feature_extraction import machine
from feature_extraction.arguments import nearest
from feature_extraction.errors import UsageError

from .mounts import APP, Mount, refuse_hiding
from .settings import RUNTIMES, Settings

IMAGE_USER: Final = (1000, 1000)
"""Who jobs are in the image where nobody else is asked for: the Dockerfile's USER_ID and GROUP_ID."""
TMPFS: Final = "/tmp:rw,noexec,nosuid,nodev"
PIDS_LIMIT: Final = 4096
RESTRICTIONS: Final = (
    "--network", "none",
    "--cap-drop", "all",
    "--security-opt", "no-new-privileges",
    "--read-only", "--tmpfs", TMPFS,
    "--pids-limit", str(PIDS_LIMIT),
)  # fmt: skip
"""What no job needs: a network, root's powers or the way to them, changes to the image, processes without end."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """What is run in an image, and what it sees. Raises UsageError for a mount that would hide the image's own."""

    folder: str
    """Where it runs, below the code; "" for the top."""
    command: Sequence[str]
    mounts: Sequence[Mount]
    user: tuple[int, int]
    """(user, group) for a runtime that can choose; the others keep the caller."""
    gpu: bool
    interactive: bool = False

    def __post_init__(self) -> None:
        for mount in self.mounts:
            refuse_hiding(mount.path)

    @property
    def workdir(self) -> str:
        return str(Path(APP) / self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """What is handed in of the caller's: which cards, and which task of a step of Slurm's this is."""
        names = (*(("CUDA_VISIBLE_DEVICES",) if self.gpu else ()), *machine.SLURM_STEP)
        return {name: os.environ[name] for name in names if os.environ.get(name)}


class Runtime:
    """Docker or Podman, as it is here."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def program(self) -> str:
        """Name or path of the program: the one that was asked for, else the first that answers, else is there."""
        wanted = self._settings["CONTAINER"]
        if wanted:
            if "/" not in wanted and wanted not in (*RUNTIMES, "buildah"):
                raise UsageError(f"CONTAINER={wanted}: {nearest(wanted, RUNTIMES)}")
            return wanted
        there = [name for name in RUNTIMES if shutil.which(name)]
        return next((name for name in there if self.ask("info", program=name) is not None), [*there, "docker"][0])

    @property
    def name(self) -> str:
        return Path(self.program).name

    @property
    def is_podman(self) -> bool:
        return "podman" in self.name

    def _run(self, program: str, *question: str) -> subprocess.CompletedProcess[str] | None:
        """How the program ends; None where it is missing or hangs."""
        try:
            return subprocess.run(
                [program, *question], check=False, capture_output=True, text=True, errors="replace", timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return None

    def ask(self, *question: str, program: str = "") -> str | None:
        """What the program prints; None where it is missing, fails or hangs."""
        done = self._run(program or self.program, *question)
        return None if done is None or done.returncode else done.stdout

    def has_image(self, image: str) -> bool:
        return self.ask("image", "inspect", image) is not None

    def require_answer(self, way_out: str) -> None:
        """Raise UsageError unless the runtime is there and answers."""
        if shutil.which(self.program) is None:
            raise UsageError(f"there is no {self.program}: install Docker or Podman (CONTAINER=...){way_out}")
        done = self._run(self.program, "info")
        if done is None or done.returncode:
            said = [line for line in (done.stderr.splitlines() if done else []) if line.strip()]
            said = [line for line in said if line.lower().startswith("error:")] or said
            mend = "mend that" if self.is_podman else "start it (systemctl start docker), or join the group docker"
            raise UsageError(
                f"{self.name} does not answer ({said[-1] if said else 'it says nothing'}): {mend}{way_out}"
            )

    def require_to_run(self, image: str, way_out: str) -> None:
        """Raise UsageError, which ends with ``way_out``, unless ``image`` can be run as a user's own processes."""
        if "buildah" in self.name:
            raise UsageError(f"buildah builds images but runs none: CONTAINER=podman{way_out}")
        self.require_answer(way_out)
        if not self.is_podman and "rootless" in (self.ask("info", "--format", "{{.SecurityOptions}}") or ""):
            raise UsageError(
                "this Docker runs without root: only root inside could write your files, and no job is root inside. "
                f"CONTAINER=podman, which keeps your id{way_out}"
            )
        if not self.has_image(image):
            raise UsageError(f"there is no image {image}: make docker-build{way_out}")

    def require_to_build(self) -> None:
        self.require_answer("")
        if self.name == "docker" and self.ask("buildx", "version") is None:
            version = (self.ask("version", "--format", "{{.Client.Version}}") or "0").partition(".")[0]
            if version.isdecimal() and int(version) >= 23:
                raise UsageError(
                    "docker has no buildx, which builds images: install docker-buildx, or CONTAINER=podman"
                )

    def run_command(self, image: str, inside: Inside) -> list[str]:
        """The whole command line of one job."""
        flags = [self.program, "run", "--rm", "--pull", "never"]
        flags += ["--interactive", "--tty"] if inside.interactive else []
        # docker brings its own init, podman needs a package for it; the jobs end on SIGTERM without one
        flags += [] if self.is_podman else ["--init"]
        flags += [*RESTRICTIONS, "--env", "HOME=/tmp", "--user", f"{inside.user[0]}:{inside.user[1]}"]
        if self.is_podman and os.geteuid() != 0:
            flags += ["--userns", "keep-id"]  # without root: that the caller outside is the same person inside
        elif os.geteuid() != 0:
            flags += [word for group in groups_needed(inside.mounts) for word in ("--group-add", str(group))]
        flags += ["--security-opt", f"label={self._settings['SELINUX']}"] if self._settings["SELINUX"] else []
        if inside.gpu:
            default = "--device nvidia.com/gpu=all" if self.is_podman else "--gpus all"
            flags += self._settings.words("GPU_FLAGS") or shlex.split(default)
        flags += [word for item in inside.environment.items() for word in ("--env", "=".join(item))]
        for mount in inside.mounts:
            flags += ["--mount", mount.flag()]
        flags += self._settings.words("RUN_FLAGS")
        return [*flags, "--workdir", inside.workdir, image, *inside.command]


def owner(outputs: Sequence[Path], fallback: Path) -> tuple[int, int]:
    """(user, group) that a job is inside, never root: the caller; for root, the owner of the first folder that it
    writes (or of the data, where it writes none), or the image's user where that is root's too."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    there = [folder for folder in (*outputs, fallback) if folder.exists()]
    return owner_of(there[0]) if there else IMAGE_USER


def owner_of(folder: Path) -> tuple[int, int]:
    """(user, group) that a folder belongs to, or the image's where that is root."""
    status = folder.stat()
    return (status.st_uid, status.st_gid or IMAGE_USER[1]) if status.st_uid else IMAGE_USER


def groups_needed(mounts: Sequence[Mount]) -> list[int]:
    """The caller's further groups that own what is mounted: inside, a job has its first group only."""
    mine = set(os.getgroups()) - {os.getegid(), 0}
    return sorted({m.path.stat().st_gid for m in mounts if m.path.exists()} & mine)


COMPOSE: Final = f"""\
# Written by `python3 -m scripts.launch compose`, for those who prefer compose; make does the same with more checks.
#
#     export DATASETS=/data CHECKPOINT=/checkpoint OUTPUT=/data/COCO/features      # absolute; OUTPUT is what is written
#     export USER_ID=$(id -u) GROUP_ID=$(id -g)
#     docker compose -f docker/compose.yaml run --rm cpu \\
#         python coco_extract_grid_feature.py --cocoroot $DATASETS/COCO/ --checkpoint_dir $CHECKPOINT
x-job: &job
  init: true
  network_mode: none
  cap_drop: [all]
  security_opt: ["no-new-privileges:true"]
  read_only: true
  tmpfs: ["{TMPFS}"]
  pids_limit: {PIDS_LIMIT}
  environment: {{ HOME: /tmp }}
  user: "${{USER_ID:-{IMAGE_USER[0]}}}:${{GROUP_ID:-{IMAGE_USER[1]}}}" # the owner of what is written; never root
  working_dir: {APP}/feature_extraction
  volumes:
    - {{ type: bind, source: "${{DATASETS:?}}", target: "${{DATASETS:?}}", read_only: true }}
    - {{ type: bind, source: "${{CHECKPOINT:?}}", target: "${{CHECKPOINT:?}}", read_only: true }}
    - {{ type: bind, source: "${{OUTPUT:?}}", target: "${{OUTPUT:?}}" }}

services:
  gpu:
    <<: *job
    image: xlxmert-features:gpu
    build: {{ context: .., dockerfile: docker/Dockerfile, target: gpu }}
    deploy:
      resources:
        reservations:
          devices: [{{ driver: nvidia, count: all, capabilities: [gpu] }}]
  cpu:
    <<: *job
    image: xlxmert-features:cpu
    build: {{ context: .., dockerfile: docker/Dockerfile, target: cpu }}
"""
"""docker/compose.yaml: the restrictions above, in its words."""
