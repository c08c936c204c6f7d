"""The table of data sets against the published names and counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from feature_extraction import catalog

ROOT = Path(__file__).resolve().parents[2]


def test_sixteen_published_files() -> None:
    files = {str(file.path(Path("datasets"))): file for file in catalog.feature_files()}
    assert len(files) == len({file.name for file in files.values()}) == 16
    for path, name, script, images, size, published in (
        ("COCO/features/maskrcnn_train_grid8.h5", "coco-train-grid", "coco_extract_grid_feature.py",
         "COCO/images/train2014", 526_336, "COCO/maskrcnn_train_grid8.h5"),
        ("VG/features/maskrcnn_boxes36.h5", "vg-boxes", "VG_extract_bbox_feature.py",
         "VG/images", 300_896, "VG/maskrcnn_boxes36.h5"),
        ("nlvr2/features/maskrcnn_valid_grid8.h5", "nlvr2-valid-grid", "nlvr2_extract_grid_feature.py",
         "nlvr2/images/dev", 526_336, "NLVR2/maskrcnn_valid_grid8.h5"),
    ):  # fmt: skip
        file = files[f"datasets/{path}"]
        assert (file.name, file.script, file.bytes_per_image) == (name, script, size)
        assert file.images(Path("datasets")) == Path("datasets") / images
        assert file.published_name == published


def test_every_script_of_the_table_is_there() -> None:
    assert {file.script for file in catalog.feature_files()} == {
        path.name for path in (ROOT / "feature_extraction").glob("*_extract_*_feature.py")
    }


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
