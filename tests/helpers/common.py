"""What several tests need: photographs, checkpoints with seeded weights, the end of a process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"


def photograph(name: str) -> NDArray[np.uint8]:
    """The image that a golden file of this name belongs to, as tests/data/README.md says."""
    if name == "motorcycle":
        return np.asarray(Image.open(Path(skimage.data.__file__).parent / "motorcycle_left.png"))
    if name == "coffee_strip":
        return skimage.data.coffee()[150:270]
    if name == "chelsea_tall":
        return skimage.data.chelsea()[:, 100:190]
    if name == "astronaut_crop33":
        return skimage.data.astronaut()[:33, :47]
    return getattr(skimage.data, name)()


def make_checkpoint(folder: Path, name: str) -> Path:
    """The seeded weights of tests/data/NAME and its configuration."""
    from scripts.dev import synthetic_checkpoint  # it imports torch, which collecting tests should not

    synthetic_checkpoint.write(folder, (DATA / name / "config.yaml").read_text())
    return folder


def finish(process: subprocess.Popen[str], timeout: float = 300) -> tuple[int, str]:
    """Exit code and everything printed."""
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


def load_docker(name: str) -> ModuleType:
    """A script of docker/ as a module: the folder is no package, the image runs its files alone."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docker" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module
