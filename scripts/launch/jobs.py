"""What a job reads, writes and runs, and how that becomes a command: here, or in whatever runs the image.

Standard library only.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final, NoReturn

from feature_extraction import catalog, machine
from feature_extraction.errors import UsageError

from . import checks
from .apptainer import Apptainer, Charliecloud
from .container import Inside, Runtime, owner
from .mounts import Mount, links_out_of, without_nested
from .settings import CHECKOUT, Settings

VENV: Final = CHECKOUT / ".venv"


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line, ready to run."""

    argv: Sequence[str]
    folder: str = ""
    """Where it runs, below the checkout."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Set beside what the environment holds."""
    shell: str = ""
    """The same as a line for a shell, where the command needs one."""
    says: str = ""
    """One line before it starts."""

    def shown(self) -> str:
        """One line to paste into a shell, at the top of the checkout."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        line = " ".join([*settings, self.shell or shlex.join(self.argv)])
        return f"cd {shlex.quote(self.folder)} && {line}" if self.folder else line

    def replace_this_process(self) -> NoReturn:
        """Become the command: signals and the exit code are its own. Raises UsageError if there is no such program."""
        if self.says:
            print(self.says, flush=True)
        os.chdir(CHECKOUT / self.folder)
        try:
            os.execvpe(self.argv[0], list(self.argv), {**os.environ, **self.environment})
        except OSError as error:
            raise UsageError(f"{self.argv[0]}: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is run and what it touches."""

    folder: str
    """Where it runs, below the code; "" for the top."""
    command: Sequence[str]
    """The program's name in the environment or image, and its arguments."""
    reads: Sequence[Path] = ()
    """Folders that the container mounts read-only."""
    writes: Sequence[Path] = ()
    """Folders that are made where they are missing, and that the container mounts writable."""
    check: Callable[[], Sequence[Path]] = tuple
    """Raises UsageError for what is lacking; returns further folders to read: those that links lead to."""
    finish: Callable[[], None] = lambda: None
    """What else is made, once the folders are."""
    says: str = ""
    """One line before it starts."""
    interactive: bool = False
    """A look inside the image, of no use on the host."""


class Launcher:
    """The jobs, with one set of values. The machine is asked when an answer is first needed."""

    def __init__(self, settings: Settings, *, dry_run: bool = False) -> None:
        self.settings = settings
        self.dry_run = dry_run
        self.runtime = Runtime(settings)

    # ---------------------------------------------------------------- where and how

    @cached_property
    def gpus_here(self) -> int:
        return checks.gpus()

    @cached_property
    def gpus(self) -> int:
        wanted = self.settings.number("GPUS")
        return self.gpus_here if wanted is None else wanted

    @cached_property
    def processes(self) -> int:
        wanted = self.settings.number("PROCESSES")
        if wanted == 0:
            raise UsageError("PROCESSES=0: expected at least 1")
        # a task that srun or torchrun has started beside others is one of the processes itself
        return wanted or (1 if machine.rank_and_world()[1] > 1 else max(1, self.gpus))

    @cached_property
    def target(self) -> str:
        return self.settings["TARGET"] or ("gpu" if self.gpus else "cpu")

    @cached_property
    def container_image(self) -> str:
        """What Docker or Podman calls the image."""
        return self.settings["IMAGE"] or f"xlxmert-features:{self.target}"

    @cached_property
    def run(self) -> str:
        """Where jobs run: one of RUN's choices."""
        return self.settings["RUN"] or ("container" if self.runtime.has_image(self.container_image) else "host")

    @cached_property
    def runner(self) -> Runtime | Apptainer | Charliecloud:
        """What runs the image."""
        if self.run == "apptainer":
            return Apptainer(self.settings)
        return Charliecloud(self.settings) if self.run == "charliecloud" else self.runtime

    @cached_property
    def image(self) -> str:
        """The image as its runner knows it: a name, a .sif file, a folder."""
        if isinstance(self.runner, Runtime):
            return self.container_image
        default = CHECKOUT / "build" / f"xlxmert-features-{self.target}{self.runner.ending}"
        return str(self.settings.path("IMAGE", default))

    @property
    def in_image(self) -> bool:
        return self.run != "host"

    def command(self, job: Job) -> Command:
        """The job's command. Raises UsageError for what is lacking, unless nothing is to be run."""
        linked: Sequence[Path] = ()
        if not self.dry_run:
            self.require_place("" if job.interactive else ", or RUN=host")
            linked = self.prepare(job)
        if not self.in_image:
            argv = [str(VENV / "bin" / job.command[0]), *job.command[1:]]
            says = f"{job.says} (on the host)" if job.says else ""
            return Command(argv=argv, folder=job.folder, environment=signals_of_torchrun(), says=says)
        mounts = [Mount(path) for path in (*job.reads, *linked)] + [Mount(path, writable=True) for path in job.writes]
        inside = Inside(
            folder=job.folder, command=job.command, mounts=without_nested(mounts),
            user=owner(job.writes, self.settings.datasets), gpu=self.target == "gpu", interactive=job.interactive,
        )  # fmt: skip
        argv = self.runner.run_command(self.image, inside)
        return Command(argv=argv, says=f"{job.says} (in {self.image})" if job.says else "")

    def require_place(self, way_out: str = ", or RUN=host") -> None:
        """Raise UsageError unless jobs can run where they are to run; ``way_out`` ends what is said of an image."""
        if self.in_image:
            self.runner.require_to_run(self.image, way_out)
        else:
            checks.require_python(VENV / "bin" / "python")
        checks.require_gpus(self.settings.number("GPUS"), self.gpus_here, needed=self.in_image and self.target == "gpu")

    def require_detector(self) -> None:
        """Raise UsageError for what would be lacking for each of the 16 files."""
        self.require_place()
        checks.require_checkpoint(self.settings.checkpoint)

    def prepare(self, job: Job) -> Sequence[Path]:
        """Raise UsageError for what the job lacks, then make what it writes into: a mistyped folder is not made.
        Returns further folders to read."""
        linked = job.check()
        for folder in job.writes:
            checks.make_output(folder, in_container=self.run == "container")
        job.finish()
        return linked

    def linked_features(self) -> list[Path]:
        """Where links below the data folder lead: whole data sets, their feature folders, single files."""
        datasets = self.settings.datasets
        folders = {d.folder for d in catalog.DATA_SETS.values()} | {
            d.published_folder for d in catalog.DATA_SETS.values()
        }
        found = links_out_of(datasets, (datasets,), 1)
        for folder in sorted(folders):
            found |= links_out_of(datasets / folder, (datasets, *found), 1)
            found |= links_out_of(datasets / folder / "features", (datasets, *found), 1)
        return sorted(found)


def signals_of_torchrun() -> dict[str, str]:
    """Under ``nohup`` torchrun has to be told to leave SIGHUP alone, or the end of the terminal ends its processes."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGQUIT"} if ignored else {}


def paths_after(flag: str, words: Sequence[str]) -> list[Path]:
    """Absolute paths given as ``flag PATH`` or ``flag=PATH``; a relative one is the job's own matter."""
    values = [after for word, after in pairwise(words) if word == flag]
    values += [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
    return [Path(value) for value in values if os.path.isabs(value)]
