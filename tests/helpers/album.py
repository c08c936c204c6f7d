"""A data folder to look at: photographs, what the original detector found in them, and a vocabulary over it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from helpers.common import DATA, photograph
from numpy.typing import NDArray
from PIL import Image

COCO = ("astronaut", "chelsea", "coffee", "motorcycle", "chelsea_tall", "coffee_strip")
VG = ("camera", "coins")
K = 12
HEAD, TAIL = "maskrcnn_mscoco_valid", f"{K}_iter20_d64_grid8"
CENTROIDS = f"{HEAD}_centroids{TAIL}.npy"
MADE = {"dataset": "coco", "split": "valid", "engine": "native", "precision": "float32", "checkpoint_sha256": "5e" * 32}


def coco_id(number: int) -> str:
    """Id of the COCO image with this number, counted from 1."""
    return f"COCO_val2014_{number:012d}"


def image_file(datasets: Path, image_id: str) -> Path:
    folder = "COCO/images/val2014" if image_id.startswith("COCO") else "VG/images/VG_100K"
    return datasets / folder / f"{image_id}.jpg"


def page(datasets: Path, **options: Any) -> str:
    """The page of a folder, as ``PageOptions`` have it."""
    from scripts.report.options import PageOptions
    from scripts.report.page import page_of  # it imports matplotlib, which collecting tests should not

    return page_of(PageOptions(datasets=datasets, **options))


def make_album(datasets: Path, synthetic: bool = True) -> Path:
    """COCO valid and VG as the kit leaves them, of a few photographs; grids and boxes are the golden ones."""
    coco = {coco_id(n): name for n, name in enumerate(COCO, 1)}
    vg = {str(n): name for n, name in enumerate(VG, 1)}
    for folder, split, images in (("COCO", "valid_", coco), ("VG", "", vg)):
        (datasets / folder / "features").mkdir(parents=True)
        for image_id, name in images.items():
            path = image_file(datasets, image_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(name)).save(path, quality=90)
        features = datasets / folder / "features"
        golden = {image_id: np.load(DATA / "tiny" / f"{name}.npz") for image_id, name in images.items()}
        write_grids(features / f"maskrcnn_{split}grid8.h5", {i: g["grid"] for i, g in golden.items()}, synthetic)
        write_boxes(features / f"maskrcnn_{split}boxes36.h5", golden, synthetic)
    make_vocabulary(
        datasets, {"mscoco_valid": grids_of(datasets, "COCO", "valid_"), "vg": grids_of(datasets, "VG", "")}
    )
    return datasets


def write_grids(path: Path, grids: dict[str, NDArray[Any]], synthetic: bool = False) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({**MADE, "synthetic_weights": synthetic})
        for image_id, grid in grids.items():
            file[f"{image_id}/features"] = grid.astype(np.float32)


def write_boxes(path: Path, golden: dict[str, Any], synthetic: bool = False) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update({**MADE, "synthetic_weights": synthetic})
        for image_id, arrays in golden.items():
            file[f"{image_id}/features"] = arrays["box_features"]
            for name in ("boxes", "obj_id"):
                file[f"{image_id}/{name}"] = arrays[name]
            for name in ("img_w", "img_h"):
                file[f"{image_id}/{name}"] = np.int64(arrays[name])


def grids_of(datasets: Path, folder: str, split: str) -> dict[str, NDArray[np.float32]]:
    """Image id -> (64, d) as the file has them."""
    with h5py.File(datasets / folder / "features" / f"maskrcnn_{split}grid8.h5") as file:
        return {image_id: file[image_id]["features"][()].reshape(64, -1) for image_id in sorted(file)}


def make_vocabulary(datasets: Path, targets: dict[str, dict[str, NDArray[np.float32]]]) -> None:
    """A k-means of its own, a few rounds of it, under the published names."""
    folder = datasets / "cluster_centroids"
    folder.mkdir()
    rows = np.concatenate([grid for grids in targets.values() for grid in grids.values()])
    centroids, objective = rows[np.random.default_rng(0).choice(len(rows), K, replace=False)], []
    for _ in range(5):
        distances = ((rows[:, None] - centroids[None]) ** 2).sum(-1)
        nearest = distances.argmin(1)
        objective.append({"objective": float(distances.min(1).sum()), "imbalance": 1.0, "empty_split": 0})
        centroids = np.stack([rows[nearest == k].mean(0) if (nearest == k).any() else centroids[k] for k in range(K)])
    np.save(folder / CENTROIDS, centroids.astype(np.float32))
    stats = {"iterations": objective, "rows": len(rows), "rows_used": len(rows), "training": {"n_centroids": K}}
    (folder / f"{CENTROIDS}.stats.json").write_text(json.dumps(stats))
    for target, grids in targets.items():
        words = np.stack([((g[:, None] - centroids[None]) ** 2).sum(-1).argmin(1) for g in grids.values()])
        ids = np.array(list(grids))
        np.savez(folder / f"{HEAD}_{target}_img_id_to_cluster_id_{TAIL}.npz", image_ids=ids, cluster_ids=words)
        np.save(folder / f"{HEAD}_{target}_cluster_index_centroids{TAIL}.npy", words.reshape(-1, 1))


def words_file(datasets: Path, target: str) -> Path:
    """The .npz of a target's words."""
    return datasets / "cluster_centroids" / f"{HEAD}_{target}_img_id_to_cluster_id_{TAIL}.npz"
