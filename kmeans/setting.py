"""What all parts of a run share."""

from __future__ import annotations

from dataclasses import dataclass

from .comm import Communicator
from .options import Options
from .progress import Reporter
from .results import ResultNames


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts of a run share."""

    options: Options
    names: ResultNames
    comm: Communicator
    report: Reporter
    device: str
    """The PyTorch device on which targets are assigned."""
