"""What x-lxmert's and VL-T5's programs open, as their sources have it: written anew, without their models and texts.

Each function reads one image or one list as the program does, and fails as it does: by an assertion or an exception.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np

VOCABULARY = "10000_iter20_d2048_grid8"


def questions(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    return found


def grid(path: Path, image_id: str, dim: int) -> None:
    assert path.is_file(), path
    features = np.zeros((8, 8, dim), np.float32)
    with h5py.File(path, "r") as file:
        file[f"{image_id}/features"].read_direct(features)
    assert features.any()


def boxes(path: Path, image_id: str, dim: int, *, inside: bool = False) -> None:
    """``inside``: VL-T5 takes no box beyond the image, x-lxmert none before it."""
    assert path.is_file(), path
    features = np.zeros((36, dim), np.float32)
    with h5py.File(path, "r") as file:
        file[f"{image_id}/features"].read_direct(features)
        found = file[f"{image_id}/boxes"][()]
        found[:, (0, 2)] /= file[f"{image_id}/img_w"][()]
        found[:, (1, 3)] /= file[f"{image_id}/img_h"][()]
        np.testing.assert_array_less(-found, 1e-5)
        if inside:
            np.testing.assert_array_less(found, 1 + 1e-5)
        assert file[f"{image_id}/obj_id"][()].shape == (36,)


def vqa(data: Path, kind: str, dim: int) -> None:
    files = {"train": "train", "nominival": "valid", "minival": "valid", "test": "test"}
    json.loads((data / "data/vqa/trainval_ans2label.json").read_text())
    json.loads((data / "data/vqa/trainval_label2ans.json").read_text())
    for split, name in files.items():
        for question in questions(data / f"data/vqa/{split}.json"):
            _features(data / f"COCO/features/maskrcnn_{name}", kind, question["img_id"], dim)


def gqa(data: Path, kind: str, dim: int) -> None:
    for name in ("trainval_ans2label", "trainval_label2ans", "train"):
        json.loads((data / f"ddata/gqa/{name}.json").read_text())
    for split in ("train", "valid", "testdev", "submit"):
        for question in questions(data / f"data/gqa/{split}.json"):
            _features(data / "GQA/features/maskrcnn", kind, question["img_id"], dim)


def nlvr2(data: Path, kind: str, dim: int) -> None:
    for split in ("train", "valid", "test"):
        stem = f"maskrcnn_{split}" + ("_v4" if kind == "grid" else "")
        for question in questions(data / f"data/nlvr2/{split}.json"):
            for key in ("img0", "img1"):
                _features(data / "nlvr2/features" / stem, kind, question[key], dim)


def pretraining(data: Path, kind: str, dim: int) -> None:
    json.loads((data / "data/lxmert/all_ans.json").read_text())
    files = {
        "mscoco_train": ("COCO/features/maskrcnn_train", "mscoco_train"),
        "mscoco_nominival": ("COCO/features/maskrcnn_valid", "mscoco_valid"),
        "mscoco_minival": ("COCO/features/maskrcnn_valid", "mscoco_valid"),
        "vgnococo": ("VG/features/maskrcnn", "vg"),
    }
    if kind == "grid":
        np.load(data / f"clustering/maskrcnn_mscoco_train_centroids{VOCABULARY}.npy")
    for name, (stem, target) in files.items():
        for image in questions(data / f"data/lxmert/{name}.json"):
            _features(data / stem, kind, image["img_id"], dim)
            if kind == "grid":
                assert words(data, target)[image["img_id"]].shape == (64,)


def words(data: Path, target: str) -> dict[str, Any]:
    path = data / f"clustering/maskrcnn_mscoco_train_{target}_img_id_to_cluster_id_{VOCABULARY}.pkl"
    found: dict[str, Any] = pickle.loads(path.read_bytes())  # written by the test itself
    return found


def generator(data: Path, checkout: Path) -> None:
    """It runs in the checkout's image_generator and looks for the data beside that."""
    found = checkout / "image_generator/../datasets/cluster_centroids"
    np.load(found / f"maskrcnn_mscoco_train_centroids{VOCABULARY}.npy")
    for name, target in (
        ("mscoco_train", "mscoco_train"),
        ("mscoco_minival", "mscoco_valid"),
        ("mscoco_nominival", "mscoco_valid"),
    ):
        for image in questions(data / f"COCO/{name}.json"):
            folder = "val2014" if "val" in image["img_id"] else "train2014"
            assert (data / "COCO/images" / folder / f"{image['img_id']}.jpg").is_file()
            assert image["img_id"] in words(data, target)


def sampler(data: Path, checkout: Path) -> None:
    assert (checkout / "x-lxmert/snap/pretrained/x_lxmert/Epoch20_LXRT.pth").read_bytes() == b"PK\3\4weights"
    assert (checkout / "image_generator/snap/pretrained/G_60.pth").read_bytes() == b"PK\3\4generator"
    np.load(data / f"clustering/maskrcnn_mscoco_train_centroids{VOCABULARY}.npy")


def _features(stem: Path, kind: str, image_id: str, dim: int) -> None:
    if kind == "grid":
        grid(stem.with_name(f"{stem.name}_grid8.h5"), image_id, dim)
    else:
        boxes(stem.with_name(f"{stem.name}_boxes36.h5"), image_id, dim)


VL_T5: dict[str, list[tuple[str, str]]] = {
    # program -> (list of questions or images, features of the images that it names)
    "vqa": [
        ("vqa/train", "COCO/features/train2014"),
        ("vqa/nominival", "COCO/features/val2014"),
        ("vqa/minival", "COCO/features/val2014"),
        ("vqa/test", "COCO/features/test2015"),
    ],
    "gqa": [
        ("GQA/train", "VG/features/vg_gqa"),
        ("GQA/valid", "VG/features/vg_gqa"),
        ("GQA/submit", "VG/features/vg_gqa"),
        ("GQA/testdev", "GQA/features/gqa_testdev"),
    ],
    "nlvr2": [(f"nlvr/{split}", f"nlvr/features/{split}") for split in ("train", "valid", "test")],
    "pretraining": [
        ("lxmert/vgnococo", "VG/features/vg_gqa"),
        ("lxmert/mscoco_resplit_val", "COCO/features/resplit_val"),
    ],
}


def vl_t5(checkout: Path, dim: int, program: str) -> None:
    """One of VL-T5's programs: the data beside the checkout, under other names."""
    data = checkout / "datasets"
    for name, stem in VL_T5[program]:
        for found in questions(data / f"{name}.json"):
            for image_id in [found[key] for key in ("img_id", "img0", "img1") if key in found]:
                boxes(data / f"{stem}_obj36.h5", image_id, dim, inside=True)
    beside = {
        "vqa": ["vqa/trainval_ans2label.json", "vqa/trainval_label2ans.json"],
        "gqa": ["GQA/trainval_ans2label.json", "GQA/trainval_label2ans.json"],
        "pretraining": ["lxmert/all_ans.json", "VG/objects_vocab.txt", "VG/attributes_vocab.txt"],
    }
    for name in beside.get(program, []):
        assert (data / name).read_text(), name
