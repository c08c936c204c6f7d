"""``detectron_config.yaml``: the values that decide the features, read by YAML's safe loader and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from .. import recipe
from ..errors import CheckpointError

BLOCKS: Final = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Bottlenecks per stage, by depth."""


@dataclass(frozen=True)
class DetectorConfig:
    """The values of ``detectron_config.yaml`` that decide the features; defaults are the fork's own."""

    depth: int
    groups: int
    width_per_group: int
    stride_in_1x1: bool
    stem_channels: int
    res2_channels: int
    fpn_channels: int
    anchor_strides: tuple[int, ...]
    anchor_sizes: tuple[int, ...]
    anchor_ratios: tuple[float, ...]
    pre_nms_top_n: int
    post_nms_top_n: int
    fpn_post_nms_top_n: int
    rpn_nms_iou: float
    pooler_resolution: int
    pooler_scales: tuple[float, ...]
    sampling_ratio: int
    feature_dim: int
    num_classes: int


# attribute -> (path in the file, the fork's default)
_KEYS: Final[dict[str, tuple[str, Any]]] = {
    "groups": ("MODEL.RESNETS.NUM_GROUPS", 1),
    "width_per_group": ("MODEL.RESNETS.WIDTH_PER_GROUP", 64),
    "stride_in_1x1": ("MODEL.RESNETS.STRIDE_IN_1X1", True),
    "stem_channels": ("MODEL.RESNETS.STEM_OUT_CHANNELS", 64),
    "res2_channels": ("MODEL.RESNETS.RES2_OUT_CHANNELS", 256),
    "fpn_channels": ("MODEL.BACKBONE.OUT_CHANNELS", 256),
    "anchor_strides": ("MODEL.RPN.ANCHOR_STRIDE", (4, 8, 16, 32, 64)),
    "anchor_sizes": ("MODEL.RPN.ANCHOR_SIZES", recipe.ANCHOR_SIZES),
    "anchor_ratios": ("MODEL.RPN.ASPECT_RATIOS", recipe.ANCHOR_RATIOS),
    "pre_nms_top_n": ("MODEL.RPN.PRE_NMS_TOP_N_TEST", 6000),
    "post_nms_top_n": ("MODEL.RPN.POST_NMS_TOP_N_TEST", 1000),
    "fpn_post_nms_top_n": ("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 2000),
    "rpn_nms_iou": ("MODEL.RPN.NMS_THRESH", recipe.RPN_NMS_IOU),
    "pooler_resolution": ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
    "pooler_scales": ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.125, 0.0625, 0.03125)),
    "sampling_ratio": ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2),
    "feature_dim": ("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 1024),
    "num_classes": ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81),
}

# what the file may say elsewhere but this detector does only one way
_FIXED: Final[dict[str, tuple[Any, ...]]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.RPN.USE_FPN": (True,),
    "MODEL.ROI_HEADS.USE_FPN": (True,),
    "MODEL.RESNETS.TRANS_FUNC": ("BottleneckWithFixedBatchNorm",),
    "MODEL.RESNETS.STEM_FUNC": ("StemWithFixedBatchNorm",),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "MODEL.RPN.STRADDLE_THRESH": (0,),
    "MODEL.RPN.MIN_SIZE": (0,),
}


def read_config(path: Path) -> DetectorConfig:
    """The detector's configuration. Raises CheckpointError with the key, the value and what is known."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not a YAML file: {error}; download the configuration again") from error
    if not isinstance(document, dict) or not isinstance(document.get("MODEL"), dict):
        raise CheckpointError(
            f"{path} has no MODEL section: it is not the detector's configuration; "
            "it should be detectron_config.yaml of ViLBERT's checkpoint"
        )

    def look_up(key: str, default: Any) -> Any:
        node: Any = document
        for part in key.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        return node

    body = look_up("MODEL.BACKBONE.CONV_BODY", None)
    known = re.fullmatch(r"R-(\d+)-FPN", str(body))
    if not known or int(known[1]) not in BLOCKS:
        raise CheckpointError(
            f"{path}: MODEL.BACKBONE.CONV_BODY is {body!r}; known are {', '.join(f'R-{d}-FPN' for d in BLOCKS)}"
        )
    for key, allowed in _FIXED.items():
        value = look_up(key, allowed[0])
        if value not in allowed:
            raise CheckpointError(f"{path}: {key} is {value!r}; this detector is built for {allowed[0]!r} only")
    values: dict[str, Any] = {"depth": int(known[1])}
    for name, (key, default) in _KEYS.items():
        value = look_up(key, default)
        expected = type(default)
        try:
            if expected is tuple:
                if isinstance(value, str):  # the fork's files write some sequences as text: "(4, 8, 16)"
                    value = yaml.safe_load(value.strip().replace("(", "[").replace(")", "]"))
                values[name] = tuple(type(default[0])(v) for v in value)
            elif isinstance(value, bool) is not (expected is bool):
                raise TypeError(value)
            else:
                values[name] = expected(value)
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise CheckpointError(f"{path}: {key} is {value!r}, expected something like {default!r}") from error
    config = DetectorConfig(**values)
    _check_config(path, config)
    return config


def _check_config(path: Path, c: DetectorConfig) -> None:
    levels = len(c.pooler_scales)
    if levels != 4 or len(c.anchor_strides) != 5 or len(c.anchor_sizes) != 5:
        raise CheckpointError(
            f"{path}: {levels} POOLER_SCALES, {len(c.anchor_strides)} ANCHOR_STRIDE, {len(c.anchor_sizes)} "
            "ANCHOR_SIZES; this detector pools from 4 pyramid levels and proposes on 5"
        )
    for name, value in vars(c).items():
        if any(not 0 < v < 100_000 for v in (value if isinstance(value, tuple) else (value,)) if v is not False):
            raise CheckpointError(f"{path}: {_KEYS[name][0]} is {value!r}, expected positive numbers")
    middle = c.groups * c.width_per_group
    if middle % c.groups or middle > 65_536:
        raise CheckpointError(f"{path}: {c.groups} groups of {c.width_per_group} channels make no bottleneck")
