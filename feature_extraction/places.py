"""Where things are looked for when a command does not say: the current folder as published, then the checkout; and
which commit that is.

``DATASETS`` and ``CHECKPOINT`` in the environment come first. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parents[1]
"""The folder that holds feature_extraction/; site-packages where the kit is installed."""
IS_CHECKOUT: Final = (CHECKOUT / "Makefile").is_file()
IS_INSTALLED: Final = not (CHECKOUT / "pyproject.toml").is_file()
"""Whether the packages lie among those of a Python. (The image has no Makefile either; make runs it from outside.)"""
WORK: Final = CHECKOUT if IS_CHECKOUT else Path()
"""Where data and downloads lie if nothing else is said: the checkout; of an installed kit the current folder."""
PUBLISHED_CHECKPOINT: Final = Path("mask_rcnn_ckpt")
"""As the published scripts have it: below the current folder."""


def checkpoint_folders(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Folders where the detector's checkpoint may lie, the first that holds one is taken."""
    named = [Path(environment["CHECKPOINT"])] if environment.get("CHECKPOINT") else []
    here = [PUBLISHED_CHECKPOINT, Path("feature_extraction") / PUBLISHED_CHECKPOINT]
    return _distinct([*named, *here, CHECKOUT / "feature_extraction" / PUBLISHED_CHECKPOINT])


def dataset_roots(folder: str, environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Roots where the data set with this folder name may lie; the first that exists is taken."""
    named = [Path(environment["DATASETS"]) / folder] if environment.get("DATASETS") else []
    return _distinct([*named, Path("../datasets") / folder, Path("datasets") / folder, CHECKOUT / "datasets" / folder])


def to_type(*targets: str) -> str:
    """What a user types for targets of the Makefile: ``make TARGET ...``; of an installed kit, which has none, the
    commands that do the same."""
    if not IS_INSTALLED:
        return f"make {' '.join(targets)}"
    return " && ".join(f"xlxmert-features {_installed(target)}" for target in targets)


def to_give(flag: str, variable: str) -> str:
    """How a user gives a setting to what ``to_type`` says: as a variable of the Makefile (``READER=FOLDER``); of an
    installed kit as a flag (``--checkout FOLDER``)."""
    return flag if IS_INSTALLED else variable


def _installed(target: str) -> str:
    command, *words = target.split("-")
    if command == "download":
        return " ".join([command, *(words or ["checkpoint"])])
    if command != "extract":
        return target
    flags = [f"--kinds {word}" if word in ("grid", "boxes") else f"--split {word}" for word in words[1:]]
    return " ".join([command, *(["--dataset", words[0]] if words != ["all"] else []), *flags])


def first_existing(candidates: list[Path]) -> Path:
    """The first folder that exists; the first of all where none does, for the error to name."""
    return next((path for path in candidates if path.is_dir()), candidates[0])


def source_revision(root: Path = CHECKOUT) -> str:
    """Commit of this checkout, "+changes" if it was edited; the image's build writes REVISION instead of .git."""
    recorded = root / "REVISION"
    if recorded.is_file():
        return recorded.read_text(encoding="utf-8").strip()
    if not (root / ".git").exists():  # installed: a repository above it would be somebody else's
        return "unknown"
    # a hook of git names another repository in the environment; whose checkout runs is trusted, whoever owns it
    here = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-c", "safe.directory=*", "-C", str(root), "describe"]
    try:
        result = subprocess.run(
            [*command, "--always", "--dirty=+changes", "--abbrev=40", "--exclude=*"],
            env=here, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def _distinct(paths: list[Path]) -> list[Path]:
    seen: dict[Path, Path] = {}
    for path in paths:
        seen.setdefault(Path(os.path.abspath(path)), path)
    return list(seen.values())
