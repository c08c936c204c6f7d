"""Every path that VL-T5's programs read of the data sets that this kit has (j-min/VL-T5 a07d779), from their sources.

Its RefCOCOg, VCR and Multi30K programs read features of other images and of given boxes. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from feature_extraction import catalog
from feature_extraction.places import to_type

from .rows import DATASETS, Clipped, Link, Reader, Row, linked

DRIVE: Final = "VL-T5's README: datasets/ in its Google Drive"
ANNOTATED: Final = to_type("download-annotations")
ALL: Final = ("vqa", "gqa", "nlvr2", "captions", "pretraining")


def _features() -> Iterator[Row]:
    readers = {
        "train": ("vqa", "captions", "pretraining"),
        "valid": ("vqa", "captions", "pretraining"),
        "test": ("vqa",),
    }
    for split in catalog.COCO.splits:
        yield _clipped(f"COCO/features/{split.folder}_obj36.h5", "COCO", split.name, readers[split.name])
    yield linked(
        "COCO/features/resplit_val_obj36.h5", "COCO/features/val2014_obj36.h5", ("pretraining",),
        to_type("extract-coco-valid-boxes"),
    )  # fmt: skip
    vg, gqa = "VG/features/maskrcnn_boxes36.h5", "GQA/features/maskrcnn_boxes36.h5"
    yield Row(
        "VG/features/vg_gqa_obj36.h5", ("vqa", "gqa", "pretraining"), to_type("extract-vg-boxes", "extract-gqa-boxes"),
        Clipped((vg, gqa)),
    )  # fmt: skip
    for split in catalog.NLVR2.splits:
        yield _clipped(f"nlvr/features/{split.name}_obj36.h5", "nlvr2", split.name, ("nlvr2",))


def _clipped(path: str, data: str, split: str, readers: tuple[str, ...]) -> Row:
    source = f"{data}/features/maskrcnn_{split}_boxes36.h5"
    return Row(path, readers, to_type(f"extract-{data.lower()}-{split}-boxes"), Clipped((source,)))


def _annotations() -> Iterator[Row]:
    for name in ("trainval_ans2label", "trainval_label2ans", "train", "nominival", "minival", "test"):
        yield linked(f"vqa/{name}.json", f"data/vqa/{name}.json", ("vqa",), ANNOTATED)
    for name in ("karpathy_train", "karpathy_val", "karpathy_test"):
        yield Row(f"vqa/{name}.json", ("vqa",), DRIVE)
    for name in ("train2014", "val2014"):
        yield Row(f"vqa/v2_mscoco_{name}_annotations.json", ("vqa",), "https://visualqa.org/download.html")
    for name in ("trainval_ans2label", "trainval_label2ans", "train", "valid", "testdev", "submit"):
        yield linked(f"GQA/{name}.json", f"data/gqa/{name}.json", ("gqa",), ANNOTATED)
    yield Row(
        "GQA/features/gqa_testdev_obj36.h5", ("gqa",), f"{to_type('extract-gqa-boxes')}; {ANNOTATED}",
        Clipped(("GQA/features/maskrcnn_boxes36.h5",), only="GQA/testdev.json"),
    )  # fmt: skip
    for name in ("train", "valid", "test"):
        yield linked(f"nlvr/{name}.json", f"data/nlvr2/{name}.json", ("nlvr2",), ANNOTATED)
    yield Row("COCO/dataset_coco.json", ("captions",), DRIVE)
    for name in ("vgnococo", "all_ans"):
        yield linked(f"lxmert/{name}.json", f"data/lxmert/{name}.json", ("pretraining",), ANNOTATED)
    for name in ("mscoco_resplit_train", "mscoco_resplit_val"):
        yield Row(f"lxmert/{name}.json", ("pretraining",), DRIVE)
    for name in ("objects_vocab.txt", "attributes_vocab.txt"):
        yield linked(f"VG/{name}", name, ("pretraining",), ANNOTATED)


def _checkout() -> Iterator[Row]:
    """VL-T5 knows its data only as the folder beside itself."""
    yield Row("datasets", ALL, "", Link((DATASETS,)), "checkout", folder=True)
    yield Row("VL-T5/snap/pretrain/VLT5/Epoch30.pth", ALL[:-1], DRIVE.replace("datasets/", "snap/"), below="checkout")


VL_T5: Final = Reader("vl-t5", "VL-T5/src", (*_features(), *_annotations(), *_checkout()))
