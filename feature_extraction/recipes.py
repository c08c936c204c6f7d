"""The recipes of this detector's family by name: one row each, with its source. What a recipe's own program writes is
the affair of the export; the values are the same. Standard library only.

Common to all: recipe.py's image preparation and proposals, each image padded by itself; scores by per-class suppression
in pixels of the original image; features of the proposals.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

from .config import Boxes

X_152: Final = "X-152"
"""ViLBERT's detector: `make download`."""
X_101: Final = "X-101"
"""Pythia's: `python -m scripts.download checkpoint x-101`."""


@dataclass(frozen=True)
class Recipe:
    """One program's choice of boxes and of what is kept of them."""

    spec: Boxes
    detector: str
    source: str
    """Repository, commit and program."""
    remark: str


_MMF: Final = Boxes(num_boxes=100, class_probs="foreground", obj_conf=True)

RECIPES: Final[dict[str, Recipe]] = {
    "x-lxmert": Recipe(
        Boxes(), X_152, "allenai/x-lxmert 561ff6e, feature_extraction/*_extract_bbox_feature.py",
        "the published box files; the default",
    ),
    "vilbert-mt": Recipe(
        Boxes(num_boxes=100, class_probs=True, obj_conf=True), X_152,
        "facebookresearch/vilbert-multi-task f22b84a, script/extract_features.py",
        "its num_boxes is the number of rows with obj_conf above 0; --layer fc7 is its --feature_name fc7. Given boxes "
        "as extract_features_from_gt.py has them: --boxes_from FILE --boxes_scaling vilbert-mt",
    ),
    "mmf": Recipe(
        _MMF, X_152, "facebookresearch/mmf b0ffc7f, tools/scripts/features/extract_features_vmb.py",
        "its program fetches detectron_model_x152 (`download checkpoint mmf-x-152`). Not promised: equality with its "
        "published LMDBs, which its own users could not reproduce (mmf#895, #896, #1263)",
    ),
    "visualbert": Recipe(_MMF, X_152, "as mmf: MMF's projects/visual_bert", "VQA 2.0, VCR, NLVR2, COCO"),
    "hateful-memes": Recipe(_MMF, X_152, "as mmf: MMF's projects/hateful_memes", "MMBT, ViLBERT, VisualBERT on memes"),
    "fga": Recipe(
        Boxes(obj_conf=True), X_101, "idansc/fga f3d9eb4, README.md, fga_model.py",
        "its rows are the mean of the 36 and then the 36: the export makes them",
    ),
    "bottom-up-10-100": Recipe(
        Boxes(num_boxes=100, min_boxes=10, threshold=0.2, obj_conf=True), X_152,
        "MILVLG/bottom-up-attention.pytorch 7460e36, bua/caffe/config.py, bua/caffe/postprocessing.py",
        "the selection of these programs with this detector, suppression (0.5, theirs is 0.3) and order, best first: "
        "every box that scores 0.2, from 10 to 100",
    ),
}  # fmt: skip
"""By the name that ``--recipe`` takes."""


def listed() -> str:
    """The table for people."""
    lines = []
    for name, recipe in RECIPES.items():
        settings = " ".join(f"{key.removeprefix('option_')}={value}" for key, value in recipe.spec.identity.items())
        lines.append(f"{name:18}{recipe.detector}: {settings.removeprefix('kind=boxes ')}")
        for text in (f"source: {recipe.source}", recipe.remark):
            lines += textwrap.wrap(text, 100, initial_indent=" " * 18, subsequent_indent=" " * 20)
    return "\n".join(lines)
