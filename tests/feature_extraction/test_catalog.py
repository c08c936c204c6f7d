"""The table of data sets against the published names and counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_extraction import catalog


def test_sixteen_published_files() -> None:
    files = {
        str(data.features_file(Path(data.published_folder), split, kind))
        for data in catalog.DATA_SETS.values()
        for split in data.splits
        for kind in catalog.KINDS
    }
    assert len(files) == 16
    assert "COCO/features/maskrcnn_train_grid8.h5" in files
    assert "VG/features/maskrcnn_boxes36.h5" in files
    assert "NLVR2/features/maskrcnn_test_boxes36.h5" in files


def test_sizes_follow_from_counts() -> None:
    # the paper's k-means reads 5,298,112 rows of COCO train
    assert catalog.COCO.split("train").images * 64 == 5_298_112


def test_kmeans_names() -> None:
    sources = catalog.kmeans_sources()
    assert {"mscoco_train", "mscoco_valid", "nlvr_train", "nlvr_valid", "vg"} <= set(sources)
    assert sources["nlvr_valid"][1].folder == "dev"


@pytest.mark.parametrize(
    ("look_up", "known"),
    [
        (lambda: catalog.data_set("imagenet"), "coco, vg, gqa, nlvr2"),
        (lambda: catalog.COCO.split("val"), "train, valid, test"),
        (lambda: catalog.VG.split("train"), "leave --split out"),
    ],
)
def test_unknown_names_list_the_known(look_up, known: str) -> None:
    with pytest.raises(catalog.UnknownName, match=known):
        look_up()
