"""Seconds, memory and size of the report over a data folder as large as the published one, in names and numbers.

    python -m scripts.dev.bench_report FOLDER [--images 82783] [--words 10000]

FOLDER gets COCO train with its ids: features that exist as shapes only (nothing of them is stored), a photograph of 640
x 480 for every image (a few, linked), 10,000 centroids, the words of every image and the nearest cells of every word;
then the page is made in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from feature_extraction import catalog
from feature_extraction.arguments import Parser, positive
from feature_extraction.terminal import run_main
from kmeans import results
from kmeans.nearest_cells import KEPT

DIM, CELLS = 2048, 64
PHOTOGRAPHS = 97
"""Different ones."""
TAIL = "{k}_iter20_d2048_grid8"


def lay_out(datasets: Path, images: int, words: int) -> None:
    """The data folder, unless it is there."""
    coco = catalog.DATA_SETS["coco"]
    split = coco.split("train")
    ids = [f"COCO_train2014_{number:012d}" for number in range(1, images + 1)]
    features = coco.features_file(datasets / coco.folder, split, "grid8")
    if features.exists():
        return
    features.parent.mkdir(parents=True)
    _shapes_only(features, ids)
    folder = coco.images_dir(datasets / coco.folder, split)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    photographs = [_photograph(datasets / f"{number}.jpg", rng) for number in range(PHOTOGRAPHS)]
    for number, image_id in enumerate(ids):
        os.link(photographs[number % PHOTOGRAPHS], folder / f"{image_id}.jpg")
    _vocabulary(datasets / results.FOLDER, split.kmeans_name, ids, words, rng)


def _shapes_only(path: Path, ids: list[str]) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update({"dataset": "coco", "split": "train", "synthetic_weights": True})
        for image_id in ids:
            file.create_dataset(f"{image_id}/features", (8, 8, DIM), np.float32)


def _photograph(path: Path, rng: np.random.Generator) -> Path:
    """Patches of colour under noise: about 150 kB, as COCO's are."""
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
    large = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), np.float32)
    noisy = np.clip(large + rng.normal(0, 9, large.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path, quality=90)
    return path


def _vocabulary(folder: Path, source: str, ids: list[str], k: int, rng: np.random.Generator) -> None:
    """Centroids at random, words as unequal in size as those of k-means, cells at random."""
    folder.mkdir()
    tail = TAIL.format(k=k)
    centroids = rng.standard_normal((k, DIM), np.float32)
    path = folder / f"maskrcnn_{source}_centroids{tail}.npy"
    np.save(path, centroids)
    rounds = [{"objective": 1e9 * (1 + 1 / i), "imbalance": 1.5, "empty_split": 0} for i in range(1, 21)]
    path.with_name(path.name + ".stats.json").write_text(json.dumps({"iterations": rounds}))
    share = rng.pareto(2.0, k) + 0.05
    found = rng.choice(k, (len(ids), CELLS), p=share / share.sum())
    digest = np.array(results.digest(centroids))
    head = folder / f"maskrcnn_{source}_{source}"
    np.savez(
        f"{head}_img_id_to_cluster_id_{tail}.npz", image_ids=np.array(ids), cluster_ids=found, centroids_sha256=digest
    )
    image, cell = rng.integers(0, len(ids), (k, KEPT)), rng.integers(0, CELLS, (k, KEPT))
    np.savez(
        f"{head}_nearest_cells_{tail}.npz", image_ids=np.array(ids), image=image.astype(np.int32),
        cell=cell.astype(np.int32), distance=np.sort(rng.random((k, KEPT), np.float32)), centroids_sha256=digest,
    )  # fmt: skip


def main() -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=positive, default=82_783)
    parser.add_argument("--words", type=positive, default=10_000)
    args = parser.parse_args()
    lay_out(args.folder / "datasets", args.images, args.words)
    page = args.folder / "report.html"
    start = time.perf_counter()
    flags = ["--datasets", str(args.folder / "datasets"), "--output", str(page)]
    subprocess.run([sys.executable, "-m", "scripts.report", *flags], check=True)
    wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{wall:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of processor time, {used.ru_maxrss / 1024:.0f} MiB, "
        f"page {page.stat().st_size / 1e6:.1f} MB; load {os.getloadavg()[0]:.1f}"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
