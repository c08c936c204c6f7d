"""The two files of a checkpoint, and where they are looked for. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .. import catalog, places
from ..errors import CheckpointError

UNREADABLE: Final = "let its owner make it readable (chmod -R a+rX), or name another"


@dataclass(frozen=True)
class CheckpointFiles:
    """The two files of a checkpoint."""

    config: Path
    model: Path


def find_checkpoint(folder: Path | None = None) -> CheckpointFiles:
    """The files in ``folder``, or in the first of ``places.checkpoint_folders()`` that holds both.

    They have the names the scripts read, those the published README saves, or Pythia's and MMF's own. Raises
    CheckpointError that names what was looked for and where."""
    folders = [folder] if folder is not None else places.checkpoint_folders()
    complaint = ""
    for place in folders:
        try:
            found = {script: _first(place, script, *others) for script, others in catalog.CHECKPOINT_NAMES.items()}
        except PermissionError as error:
            raise CheckpointError(f"{place} cannot be looked into: {error.strerror}; {UNREADABLE}") from error
        config, model = found["detectron_config.yaml"], found["detectron_model.pth"]
        if config is not None and model is not None:
            return CheckpointFiles(config, model)
        complaint = complaint or _complaint(found)
    where = ", ".join(str(place.resolve()) for place in folders)
    raise CheckpointError(
        f"no {complaint} in {where}: `{places.to_type('download')}` fetches it, --checkpoint_dir names another folder"
    )


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _complaint(found: dict[str, Path | None]) -> str:
    missing = next(name for name, path in found.items() if path is None)
    return f"{missing} (or {', '.join(catalog.CHECKPOINT_NAMES[missing])})"
