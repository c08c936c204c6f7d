"""Every path that x-lxmert's programs read (allenai/x-lxmert 561ff6e), from their sources. Standard library only.

The branch inference_dev reads features and clusters in its author's home folder, which no link can mend; of it only the
two places of weights are here, and what the master branch lacks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from feature_extraction import catalog
from feature_extraction.places import to_type

from ..download.annotations import ANNOTATIONS
from .rows import DATASETS, Copy, Link, Reader, Row, linked

VOCABULARY: Final = "10000_iter20_d2048_grid8"
"""How x-lxmert's own scripts ask for the visual words: centroids, iterations, dimensions, cells of a side."""
FOLDERS: Final = ("cluster_centroids", "clustering")
"""The image generator reads centroids in the first, everything else is read in the second."""
PRETRAINING: Final = ("pretraining-grid", "pretraining-boxes")


def _features() -> Iterator[Row]:
    for file in catalog.feature_files():
        path, kind, get = str(file.path(Path())), file.spec.name, to_type(f"extract-{file.name}")
        if file.data in (catalog.COCO, catalog.GQA):
            readers = [f"{'vqa' if file.data is catalog.COCO else 'gqa'}-{kind}"]
            readers += [f"pretraining-{kind}"] if file.split.name in ("train", "valid") else []
            yield Row(path, tuple(readers), get)
        elif file.data is catalog.VG:
            yield Row(path, (f"pretraining-{kind}",), get)
        elif file.spec.suffix == "grid8":  # under the name of an earlier version
            yield linked(path.replace("_grid8", "_v4_grid8"), path, (f"nlvr2-{kind}",), get)
        else:
            yield Row(path, (f"nlvr2-{kind}",), get)


def _annotations() -> Iterator[Row]:
    readers = {
        "lxmert": PRETRAINING,
        "vqa": ("vqa-grid", "vqa-boxes"),
        "gqa": ("gqa-grid", "gqa-boxes"),
        "nlvr2": ("nlvr2-grid", "nlvr2-boxes"),
    }
    get = to_type("download-annotations")
    for file in ANNOTATIONS:
        if file.path.startswith("data/"):
            yield Row(file.path, readers[Path(file.path).parent.name], get)
    # of GQA the questions are read below data, the labels below ddata
    yield Row("ddata", readers["gqa"], get, Link(("data",)), folder=True)
    for name in ("mscoco_train", "mscoco_minival", "mscoco_nominival"):
        yield Row(f"COCO/{name}.json", ("generator",), get, Copy(f"data/lxmert/{name}.json"))


def _words() -> Iterator[Row]:
    first, second = FOLDERS
    get = f"{to_type('kmeans')}, or {to_type('paper-vocabulary')}"
    yield Row(second, ("pretraining-grid", "generator", "sampler"), get, Link((first,)), folder=True)
    yield Row(first, ("generator",), get, Link((second,)), folder=True)
    centroids = f"maskrcnn_mscoco_train_centroids{VOCABULARY}.npy"
    yield linked(f"{second}/{centroids}", f"{first}/{centroids}", ("pretraining-grid", "sampler"), get)
    yield linked(f"{first}/{centroids}", f"{second}/{centroids}", ("generator",), get)
    for target in ("mscoco_train", "mscoco_valid", "vg"):
        name = f"maskrcnn_mscoco_train_{target}_img_id_to_cluster_id_{VOCABULARY}.pkl"
        readers = ("pretraining-grid", "generator") if target != "vg" else ("pretraining-grid",)
        yield linked(f"{second}/{name}", f"{first}/{name}", readers, get)


def _images() -> Iterator[Row]:
    for split in catalog.COCO.splits[:2]:
        yield Row(f"COCO/images/{split.folder}", ("generator",), to_type("download-images-coco"), folder=True)


def _checkout() -> Iterator[Row]:
    """The image generator looks for the data beside itself; weights are read below snap/, whatever --datasets_dir."""
    yield Row("datasets", ("generator",), "", Link((DATASETS,)), "checkout", folder=True)
    get = to_type("download-pretrained")
    for path, source in (
        ("x-lxmert/snap/pretrained/x_lxmert/Epoch20_LXRT.pth", "x-lxmert/Epoch20_LXRT.pth"),
        ("x-lxmert/snap/pretrained/x-lxmert/Epoch20_LXRT.pth", "x-lxmert/Epoch20_LXRT.pth"),  # scripts/sample_images.sh
        ("image_generator/snap/pretrained/G_60.pth", "x-lxmert/G_60.pth"),
        ("image_generator/pretrained/G_60.pth", "x-lxmert/G_60.pth"),  # inference_dev
    ):
        yield Row(path, ("sampler",), get, Link((source,)), "checkout")
    for path, kept, reader in (
        ("image_generator/src/trainer.py", "image_generator/trainer.py", "generator"),
        ("x-lxmert/example_sentences.txt", "inference/example_sentences.txt", "sampler"),
    ):
        yield Row(path, (reader,), f"{kept} of its branch inference_dev", below="checkout")


X_LXMERT: Final = Reader(
    "x-lxmert", "x-lxmert/src", (*_features(), *_annotations(), *_words(), *_images(), *_checkout())
)
