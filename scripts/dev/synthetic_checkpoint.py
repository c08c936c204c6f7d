"""A checkpoint of the real architecture with seeded weights: for trying and testing where the published one is not.

    python -m scripts.dev.synthetic_checkpoint mask_rcnn_ckpt

Features made with it have the right shapes, cost and arithmetic but carry no meaning. Every tensor is drawn from its
own name, so anybody anywhere makes the same file; the golden outputs in tests/data were computed with these weights.

With n = standard normal and u = uniform numbers, float32, of numpy's default generator seeded by CRC-32 of the name:

    frozen batch norm   running_mean, bias: 0.1 n     weight: 1 + 0.1 n (a quarter of it in bn3)
                        running_var: 0.75 + 0.5 u, u drawn after n (7000 times that in the stem)
    other biases        0.05 n
    other weights       (n - mean of n over the fan-in) * sqrt(gain / fan-in)
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from feature_extraction.detector.checkpoint import expected_tensors
from feature_extraction.detector.config import read_config

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
GAINS: Final = {"cls_logits": 1.0, "rpn.head.bbox_pred": 0.5, "cls_score": 8.0, "predictor.bbox_pred": 0.2}
"""Where the gain is not 2: chosen so that objectness, boxes and classes spread as a trained network's do."""
SOURCE_FILE: Final = "SYNTHETIC"
"""A file of this name beside the weights says that they are not the published ones."""


def tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The weights called ``name``, float32 of ``shape``."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    n = generator.standard_normal(shape, dtype=np.float32)
    parts = name.split(".")
    if parts[-2] == "1" or "bn" in parts[-2]:
        if parts[-1] == "running_var":
            spread = np.float32(0.75) + np.float32(0.5) * generator.random(shape, dtype=np.float32)
            return spread * np.float32(7000) if "stem" in parts else spread
        if parts[-1] == "weight":
            return np.float32(0.25 if parts[-2] == "bn3" else 1) * (1 + np.float32(0.1) * n)
        return np.float32(0.1) * n
    if parts[-1] == "bias":
        return np.float32(0.05) * n
    fan_in = int(np.prod(shape[1:]))
    mean = n.reshape(len(n), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    gain = next((value for part, value in GAINS.items() if part in name), 2.0)
    centred: NDArray[np.float32] = n - mean.reshape(-1, *[1] * (n.ndim - 1))
    return centred * np.float32(np.sqrt(gain / fan_in))


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
    sys.exit(main())
