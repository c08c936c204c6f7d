"""Extractions in processes of their own, of many small images: what several test modules start and compare."""

from __future__ import annotations

import time
from pathlib import Path
from subprocess import Popen

import numpy as np
from helpers.common import photograph
from helpers.forking import Forked
from PIL import Image

from feature_extraction.storage.store import image_ids, open_features, work_dir


def crops(folder: Path, count: int, pattern: str = "COCO_val2014_{:012d}.png", size: int = 48) -> None:
    """``count`` different small images."""
    folder.mkdir(parents=True)
    astronaut = photograph("astronaut")
    for i in range(count):
        y, x = (37 * i) % (512 - size), (61 * i) % (512 - size)
        Image.fromarray(astronaut[y : y + size, x : x + size + 8 * (i % 3)]).save(folder / pattern.format(i))


def contents(path: Path) -> dict[str, np.ndarray]:
    with open_features(path) as file:
        return {f"{i}/{name}": file[i][name][()] for i in image_ids(file) for name in file[i]}


def assert_equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype
        np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def grid_command(coco: Path, checkpoint: Path, output: Path) -> list[object]:
    # 64 x 64 pixels keep an image at some 20 ms, so that kills fall into every phase of a run
    flags = ["--cocoroot", coco, "--checkpoint_dir", checkpoint, "--device", "cpu", "--imsize", 64, "--output", output]
    return ["coco_extract_grid_feature.py", "--split", "valid", *flags]


def wait_for_features(process: Popen[str] | Forked, output: Path) -> None:
    """Return when some are in its journal."""
    journal = work_dir(output) / "part-00000-of-00001.log"
    while not journal.exists() or journal.stat().st_size < 100_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
