"""What all parts of a run share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .comm import Communicator
from .nearest import find_device
from .options import Options
from .progress import Reporter
from .results import ResultNames


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run: what is asked for, where it goes, who takes part, who hears of it."""

    options: Options
    names: ResultNames
    comm: Communicator
    report: Reporter

    @cached_property
    def device(self) -> str:
        """The PyTorch device on which targets are assigned; asking may import PyTorch. Raises DeviceError."""
        return find_device(self.options.device, self.comm.local_rank)
