"""The detector of a command: what has to be known of it, and itself, each when first asked for.

A command that makes many files (one per tar) looks its checkpoint up, digests and loads it once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch

from .config import ExtractConfig
from .detector.build import Detector, choose_device, device_name, identity, is_synthetic, load_detector
from .detector.config import DetectorConfig, read_config
from .detector.files import CheckpointFiles, find_checkpoint


class DetectorOnce:
    """The detector that a config asks for. Everything raises CheckpointError, DeviceError or ReferenceMissing."""

    def __init__(self, config: ExtractConfig, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say

    def check(self) -> None:
        """Look up all that can be refused before loading, the cheapest first."""
        for name in ("files", "architecture", "device", "synthetic"):
            getattr(self, name)

    @cached_property
    def files(self) -> CheckpointFiles:
        return find_checkpoint(self._config.checkpoint_dir)

    @cached_property
    def architecture(self) -> DetectorConfig:
        architecture = read_config(self.files.config)
        self._say(f"checkpoint: {self.files.model} ({self.files.model.stat().st_size / 1e9:.2f} GB)")
        return architecture

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self._config.device)

    @cached_property
    def device_name(self) -> str:
        return device_name(self.device)

    @cached_property
    def synthetic(self) -> bool:
        """Whether the weights are the seeded stand-in."""
        synthetic = is_synthetic(self.files)
        if synthetic:
            self._say("SYNTHETIC weights: the features have the right shapes and cost, and no meaning")
        return synthetic

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What of it decides values."""
        return identity(self.files, self._config.engine, self.device, self._config.precision)

    @cached_property
    def detector(self) -> Detector:
        """Itself, loaded."""
        config = self._config
        self._say(f"loading the detector on {self.device}")
        detector = load_detector(self.files, engine=config.engine, device=self.device, precision=config.precision)
        if detector.passed_over:
            names = ", ".join(detector.passed_over[:8])
            self._say(f"checkpoint: {len(detector.passed_over)} tensors without use here: {names}")
        return detector
