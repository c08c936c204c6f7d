"""What may be set: each variable's name, default and allowed words, written once. Standard library only.

A value comes from the command line (``NAME=value``; make hands its own over word by word) or from the environment.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_extraction.arguments import nearest, nearest_of_many
from feature_extraction.config import ENGINES, PRECISIONS, ExtractConfig
from feature_extraction.errors import UsageError

CHECKOUT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Setting:
    """One variable that a user may set."""

    name: str
    help: str
    default: str = ""
    """Empty: follows from others or from the machine, as the help says."""
    choices: tuple[str, ...] = ()


RUNS: Final = ("container", "host", "apptainer", "charliecloud")
SETTINGS: Final = (
    Setting("DATASETS", "folder of the images and features", "datasets"),
    Setting("CHECKPOINT", "folder of the detector's files", "feature_extraction/mask_rcnn_ckpt"),
    Setting("PUBLISHED", "folder of the published features, or their address (DATASETS/published)"),
    Setting("REMOTE", "1: make verify reads the published features where they lie, nothing is downloaded", "", ("1",)),
    Setting("RUN", "where jobs run (the container, if its image is there)", choices=RUNS),
    Setting("TARGET", "which image (gpu, if there is one)", choices=("gpu", "cpu")),
    Setting("CONTAINER", "the container runtime: docker or podman, by name or path (the one that answers)"),
    Setting("IMAGE", "the image's name (xlxmert-features:TARGET), .sif file or folder (build/xlxmert-features-TARGET)"),
    Setting("GPUS", "how many GPUs work on one file (all)"),
    Setting("PROCESSES", "how many processes work on one file (one per GPU; more share the GPUs)"),
    Setting("GPU_FLAGS", "how GPUs enter a container (--gpus all, or --device nvidia.com/gpu=all)"),
    Setting("RUN_FLAGS", "further flags of docker run, podman run, apptainer exec or ch-run"),
    Setting("SELINUX", "a label for container jobs: disable, type:container_t, ..."),
    Setting("ENGINE", "which detector", ExtractConfig.engine, ENGINES),
    Setting("PRECISION", "of the native engine", ExtractConfig.precision, PRECISIONS),
    Setting("EXTRACT_FLAGS", "further flags of the extraction scripts"),
    Setting("KMEANS_SRC", "features to cluster", "mscoco_train"),
    Setting("KMEANS_TGT", "features to assign", "mscoco_train mscoco valid vg"),
    Setting("KMEANS_FLAGS", "further flags of run_kmeans.py"),
    Setting("PAPER_FLAGS", "further flags of make paper-vocabulary"),
    Setting("VERIFY_KMEANS_FLAGS", "further flags of make verify-kmeans"),
    Setting("VERIFY_FLAGS", "further flags of make verify"),
    Setting("PARITY_IMAGES", "images for make parity (DATASETS/COCO/images/val2014)"),
    Setting("PARITY_FLAGS", "further flags of make parity"),
    Setting("REPORT", "the page that make report writes", "report.html"),
    Setting("FOR", "the program that make xlxmert puts files in place for", "x-lxmert", ("x-lxmert", "vl-t5")),
    Setting("READER", "where that program's sources lie (the folder above DATASETS, if it is there)"),
    Setting("XLXMERT_FLAGS", "further flags of make xlxmert: --check, --only NAME,NAME"),
    Setting("GPU_TEST_FLAGS", "flags of make gpu-test, for example --device cpu"),
    Setting("FAULT_FLAGS", "flags of make test-faults"),
    Setting("BASE_URL", "a mirror's address or a local folder with the published file names"),
    Setting("DOWNLOAD_FLAGS", "further flags of make download..."),
    Setting("IMAGE_FILE", "what make image-archive writes (build/xlxmert-features-TARGET.tar.gz)"),
    Setting("CLUSTER", "what make slurm-... asks Slurm for (cluster.toml; sample: scripts/launch/cluster.toml)"),
    Setting("PIP_CONF", "a pip.conf for the image's build"),
    Setting("BUILD_FLAGS", "further flags of docker build or podman build"),
    Setting("PYTHON", "the Python that makes .venv and runs what needs no packages", "python3"),
    Setting("DEVICE", "the former name of TARGET"),
)
BUILD_ARGUMENTS: Final = (
    "CUDA_BASE", "RUNTIME_BASE", "APT_MIRROR", "TORCH_INDEX", "CUDA_ARCHITECTURES", "JOBS", "FORK_URL", "FORK_COMMIT",
    "FAISS_VERSION", "FAISS_URL", "FAISS_SHA256", "FAISS_COMMIT", "USER_ID", "GROUP_ID", "SOURCE",
)  # fmt: skip
"""The Dockerfile's own arguments, which docker-build hands on."""
RUNTIMES: Final = ("docker", "podman")
BY_NAME: Final = {s.name: s for s in SETTINGS}
KNOWN: Final = (*BY_NAME, *BUILD_ARGUMENTS)


class Settings:
    """The values of one command. Raises UsageError, in one line, for what cannot be right."""

    def __init__(self, environment: Mapping[str, str], words: Sequence[str] = ()) -> None:
        given = dict(word.partition("=")[::2] for word in words)
        for name in given:
            if name not in KNOWN:
                raise UsageError(f"there is no variable {name}; {nearest_of_many(name, KNOWN, 'make help lists all')}")
        self._values = {name: environment[name] for name in KNOWN if environment.get(name)}
        self._values.update({name: value for name, value in given.items() if value})
        self._former_device("DEVICE" in given)
        for name, value in self._values.items():
            if any(character in value for character in "\n\r\0"):
                raise UsageError(f"{name} holds a line break, which no command line can carry: give another")
            if name in BY_NAME and BY_NAME[name].choices and value not in BY_NAME[name].choices:
                hint = "; the container runtime is CONTAINER=" + value if value in RUNTIMES else ""
                raise UsageError(f"{name}={value}: {nearest(value, BY_NAME[name].choices)}{hint}")

    def _former_device(self, typed: bool) -> None:
        """DEVICE=gpu|cpu is what TARGET was called; in the environment the name may mean something else."""
        device = self._values.pop("DEVICE", "")
        if device in ("gpu", "cpu"):
            self._values.setdefault("TARGET", device)
        elif device and typed:
            raise UsageError(
                f"DEVICE={device}: TARGET=gpu or TARGET=cpu is the image; PyTorch's device is "
                f'EXTRACT_FLAGS="--device {device}"'
            )

    def __getitem__(self, name: str) -> str:
        """The value of a variable; its default, perhaps empty, where it is not set."""
        return self._values.get(name) or (BY_NAME[name].default if name in BY_NAME else "")

    def path(self, name: str, default: Path | None = None) -> Path:
        """A variable that names a file or folder, absolute, with the links of its own path resolved: what is recorded
        in feature files is then the same on the host and in the container. ``~`` is the home folder, also where no
        shell has seen to it."""
        value = os.path.expanduser(self[name])
        if not value and default is not None:
            return default
        # left as it is it would become a folder of that name, which a shell takes for the home folder
        if value.split("/")[0] == "~":
            raise UsageError(f"{name}={value}: there is no such home folder (HOME): give the whole path")
        return Path(os.path.realpath(CHECKOUT / value))

    def words(self, name: str) -> list[str]:
        """A variable that holds flags, split as a shell would, and not expanded."""
        try:
            return shlex.split(self[name])
        except ValueError as error:
            raise UsageError(f"{name}={self[name]}: {error}: quote it as for a shell") from None

    def number(self, name: str) -> int | None:
        """A variable that holds a count from 0; None where it is not set."""
        value = self[name]
        if value and not value.isdecimal():
            raise UsageError(f"{name}={value}: expected a whole number from 0")
        return int(value) if value else None

    @property
    def datasets(self) -> Path:
        return self.path("DATASETS")

    @property
    def checkpoint(self) -> Path:
        return self.path("CHECKPOINT")

    @property
    def published(self) -> Path:
        return self.path("PUBLISHED", self.datasets / "published")

    @property
    def given(self) -> dict[str, str]:
        """What was set, by word or in the environment: with these a job on another machine is the same."""
        return dict(self._values)

    @property
    def build_arguments(self) -> dict[str, str]:
        return {name: self._values[name] for name in BUILD_ARGUMENTS if name in self._values}


def listing() -> str:
    """All variables, for ``make help``."""
    lines = [
        f"  {s.name:26} {s.help}"
        + (f": {' or '.join(s.choices)}" if len(s.choices) > 1 else "")
        + (f" ({s.default})" if s.default else "")
        for s in SETTINGS
        if s.name != "DEVICE"
    ]
    return "\n".join([*lines, f"  {'and of the build':26} {', '.join(BUILD_ARGUMENTS)}"])
