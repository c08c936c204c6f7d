"""What a site's Slurm is asked for: one file, cluster.toml; its sample lies beside this one. Standard library only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeVar

from feature_extraction.arguments import nearest
from feature_extraction.errors import UsageError

WORD: Final = re.compile(r"[\w.,:@%+/=&|!*\[\](){}~-]*")
"""What one option of sbatch may be made of: nothing that would begin another."""
GPUS: Final = re.compile(r"([\w.-]+:)?\d+")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one task gets. Empty texts are left to the site."""

    partition: str = ""
    time: str = ""
    """In Slurm's words: 4:00:00, 2-0."""
    memory: str = ""
    cpus: int = 1
    gpus: int | str = 0
    """How many, or a type and how many: ``a100:1``."""
    gpu_option: str = "--gres=gpu:{gpus}"
    """How they are asked for; empty where they come with the partition."""
    sbatch: list[str] = field(default_factory=list)
    """Further options, as on sbatch's command line."""

    @property
    def options(self) -> list[str]:
        """sbatch's options."""
        found = [f"--cpus-per-task={self.cpus}"]
        for name, value in (("partition", self.partition), ("time", self.time), ("mem", self.memory)):
            found += [f"--{name}={value}"] if value else []
        cards = self.gpu_option.replace("{gpus}", str(self.gpus)) if self.gpus else ""
        return [*found, *([cards] if cards else []), *self.sbatch]

    @property
    def cards(self) -> int:
        """How many GPUs a task finds on its node."""
        return int(str(self.gpus).rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What holds for every job."""

    account: str = ""
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    """Lines of shell before the job."""
    scripts: str = "build/slurm"
    images_per_task: int = 10_000
    at_once: int = 16
    restarts: int = 20
    extract: Resources = field(
        default_factory=lambda: Resources(time="4:00:00", memory="16G", cpus=6, gpus=1),
    )
    kmeans: Resources = field(
        default_factory=lambda: Resources(time="24:00:00", memory="64G", cpus=16),
    )


Table = TypeVar("Table", Cluster, Resources)


def read_cluster(path: Path, *, wanted: bool) -> Cluster:
    """The site's file; where there is none and none was ``wanted`` by name, what the sample says. Raises UsageError."""
    if not wanted and not path.exists():
        return Cluster()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}: copy scripts/launch/cluster.toml there, or leave CLUSTER out"
        ) from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise UsageError(f"{path}: {error}: the sample is scripts/launch/cluster.toml") from None
    return _filled(Cluster(), values, str(path))


def _filled(table: Table, values: Mapping[str, Any], where: str) -> Table:
    """``table`` with the ``values`` of a file in the place of its own."""
    known = {f.name: getattr(table, f.name) for f in fields(table)}
    for name, value in values.items():
        if name not in known:
            raise UsageError(f"{where}: there is no {name}; {nearest(name, list(known))}")
        if isinstance(known[name], Resources):
            if not isinstance(value, dict):
                raise UsageError(f"{where}: {name} is {value!r}: expected a table, [{name}]")
            known[name] = _filled(known[name], value, f"{where}, [{name}]")
        else:
            _require(name, value, known[name], where)
            known[name] = value
    return type(table)(**known)


def _require(name: str, value: Any, like: Any, where: str) -> None:
    """Raise UsageError unless ``value`` is such a value as the default ``like``."""
    if name == "gpus" and isinstance(value, str):
        like = ""
    if type(value) is not type(like):
        expected = {str: 'a text in quotes, "..."', int: "a whole number", list: "a list of texts"}[type(like)]
        raise UsageError(f"{where}: {name} is {value}: expected {expected}")
    if name == "gpus" and not GPUS.fullmatch(str(value)):
        raise UsageError(f'{where}: gpus is {value}: expected a number, or a type and a number, "a100:1"')
    if isinstance(value, int) and value < (0 if name in ("gpus", "restarts") else 1):
        raise UsageError(f"{where}: {name} is {value}: expected a positive number")
    lines = value if isinstance(value, list) else [value]
    if not all(isinstance(line, str | int) for line in lines):
        raise UsageError(f"{where}: {name} is {value}: expected a list of texts")
    for line in map(str, lines):
        free = name in ("setup", "scripts")  # lines of shell, and a folder
        if (not free and not WORD.fullmatch(line)) or any(c in line for c in "\n\r\0"):
            raise UsageError(f"{where}: {name} holds {line!r}: expected one word, as sbatch takes it")
        if name in ("sbatch", "gpu_option") and line and not line.startswith("-"):
            raise UsageError(f"{where}: {name} holds {line!r}: expected an option, --NAME=VALUE")
