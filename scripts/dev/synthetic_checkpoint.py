"""A checkpoint of the real architecture with seeded weights: for trying and testing where the published one is not.

    python -m scripts.dev.synthetic_checkpoint mask_rcnn_ckpt

Features made with it have the right shapes, cost and arithmetic but carry no meaning. Every tensor is drawn from its
own name, so anybody anywhere makes the same file; the golden outputs in tests/data were computed with these weights.
The rules are in feature_extraction/detector/synthetic.py, which also recognises such weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Final

import torch

from feature_extraction.detector.checkpoint import expected_tensors
from feature_extraction.detector.config import read_config
from feature_extraction.detector.synthetic import tensor
from feature_extraction.terminal import run_main

X152_CONFIG: Final = """\
# The values of the published detectron_config.yaml that decide the features.
MODEL:
  BACKBONE: {CONV_BODY: R-152-FPN, OUT_CHANNELS: 512}
  RESNETS: {STRIDE_IN_1X1: false, NUM_GROUPS: 32, WIDTH_PER_GROUP: 8, STEM_OUT_CHANNELS: 64, RES2_OUT_CHANNELS: 256}
  RPN:
    USE_FPN: true
    ANCHOR_STRIDE: [4, 8, 16, 32, 64]
    PRE_NMS_TOP_N_TEST: 1000
    POST_NMS_TOP_N_TEST: 1000
    FPN_POST_NMS_TOP_N_TEST: 1000
  ROI_HEADS: {USE_FPN: true}
  ROI_BOX_HEAD:
    POOLER_RESOLUTION: 7
    POOLER_SCALES: [0.25, 0.125, 0.0625, 0.03125]
    POOLER_SAMPLING_RATIO: 2
    MLP_HEAD_DIM: 2048
    NUM_CLASSES: 1601
    FEATURE_EXTRACTOR: FPN2MLPFeatureExtractor
    PREDICTOR: FPNPredictor
    RETURN_FC_FEATS: true
"""
SOURCE_FILE: Final = "SYNTHETIC"
"""A file of this name beside the weights says that they are not the published ones."""


def write(folder: Path, config: str = X152_CONFIG) -> None:
    """Write detectron_config.yaml and detectron_model.pth (824 MB for X-152) into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    config_path = folder / "detectron_config.yaml"
    config_path.write_text(config, encoding="utf-8")
    shapes = expected_tensors(read_config(config_path))
    model = {name: torch.from_numpy(tensor(name, shape)) for name, shape in sorted(shapes.items())}
    aside = folder / ".detectron_model.pth"
    torch.save({"model": model}, aside)
    (folder / SOURCE_FILE).write_text("seeded random weights: features carry no meaning\n", encoding="utf-8")
    aside.replace(folder / "detectron_model.pth")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Write a synthetic X-152 checkpoint: right shapes and cost, no meaning."
    )
    parser.add_argument("folder", type=Path, help="where detectron_model.pth and detectron_config.yaml go")
    args = parser.parse_args()
    existing = args.folder / "detectron_model.pth"
    if existing.exists():
        print(f"error: {existing} exists and stays as it is: name another folder", file=sys.stderr)
        return 1
    write(args.folder)
    print(f"{existing}: synthetic weights; features made with them carry no meaning")
    return 0


if __name__ == "__main__":
    run_main(main)
