"""``detectron_config.yaml``: the values that decide the features, read by YAML's safe loader and checked.

The file is not trusted: its size, depth, aliases and numbers are bounded before anything is built from it.

What the file is silent about has the fork's own default (``maskrcnn_benchmark/config/defaults.py``), so that both
engines build the same model. Three kinds of keys go further. Where the fork's default is one this detector is not
built for and the value varies between published models, the key is required. Where the recipe knows one value only,
silence means that value, for the fork as well (``FIXED``). Heads that the features do not depend on are left out
(``UNUSED_HEADS``).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from .. import recipe
from ..errors import CheckpointError
from ..places import to_type

BLOCKS: Final = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Bottlenecks per stage, by depth."""
MOST_BYTES: Final = 256 * 1024
"""The published file has 1.2 KB, everything the fork can be told 8 KB."""
MOST_DEPTH: Final = 16
LONGEST_SCALAR: Final = 4096
SHOWN: Final = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class DetectorConfig:
    """The values of ``detectron_config.yaml`` that decide the features."""

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


@dataclass(frozen=True)
class Key:
    """One value of the file: where it stands, what it looks like, what silence means."""

    path: str
    published: Any
    """What the published X-152 file says, or means by silence: the type of the value, and an example for messages."""
    default: Any
    """What the fork builds where the file is silent; None: another model than this detector, so the key is required."""
    most: float
    """Larger numbers are no model that anybody trained; they would only ask for memory."""


KEYS: Final = {
    "groups": Key("MODEL.RESNETS.NUM_GROUPS", 32, 1, 1024),
    "width_per_group": Key("MODEL.RESNETS.WIDTH_PER_GROUP", 8, 64, 1024),
    "stride_in_1x1": Key("MODEL.RESNETS.STRIDE_IN_1X1", False, True, 1),
    "stem_channels": Key("MODEL.RESNETS.STEM_OUT_CHANNELS", 64, 64, 4096),
    "res2_channels": Key("MODEL.RESNETS.RES2_OUT_CHANNELS", 256, 256, 4096),
    "fpn_channels": Key("MODEL.BACKBONE.OUT_CHANNELS", 512, 1024, 4096),
    "anchor_strides": Key("MODEL.RPN.ANCHOR_STRIDE", (4, 8, 16, 32, 64), None, 1024),
    "anchor_sizes": Key("MODEL.RPN.ANCHOR_SIZES", recipe.ANCHOR_SIZES, recipe.ANCHOR_SIZES, 8192),
    "anchor_ratios": Key("MODEL.RPN.ASPECT_RATIOS", recipe.ANCHOR_RATIOS, recipe.ANCHOR_RATIOS, 100),
    "pre_nms_top_n": Key("MODEL.RPN.PRE_NMS_TOP_N_TEST", 1000, 6000, 12_000),
    "post_nms_top_n": Key("MODEL.RPN.POST_NMS_TOP_N_TEST", 1000, 1000, 12_000),
    "fpn_post_nms_top_n": Key("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 1000, 2000, 12_000),
    "rpn_nms_iou": Key("MODEL.RPN.NMS_THRESH", recipe.RPN_NMS_IOU, recipe.RPN_NMS_IOU, 1),
    "pooler_resolution": Key("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7, 14, 32),
    "pooler_scales": Key("MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.25, 0.125, 0.0625, 0.03125), None, 1),
    "sampling_ratio": Key("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 2, None, 16),
    "feature_dim": Key("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 2048, 1024, 16_384),
    "num_classes": Key("MODEL.ROI_BOX_HEAD.NUM_CLASSES", 1601, 81, 65_536),
}
"""By attribute of DetectorConfig."""

FIXED: Final[dict[str, Any]] = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RPN_ONLY": False,
    "MODEL.RPN.USE_FPN": True,
    "MODEL.RPN.RPN_HEAD": "SingleConvRPNHead",
    "MODEL.RPN.STRADDLE_THRESH": 0,
    "MODEL.RPN.MIN_SIZE": 0,
    "MODEL.ROI_HEADS.USE_FPN": True,
    "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor",
    "MODEL.ROI_BOX_HEAD.PREDICTOR": "FPNPredictor",
    "MODEL.ROI_BOX_HEAD.RETURN_FC_FEATS": True,
    "MODEL.RESNETS.TRANS_FUNC": "BottleneckWithFixedBatchNorm",
    "MODEL.RESNETS.STEM_FUNC": "StemWithFixedBatchNorm",
    "MODEL.RESNETS.RES5_DILATION": 1,
}
"""What this detector does only one way. A file that is silent means it; one that says otherwise is refused."""

UNUSED_HEADS: Final[dict[str, Any]] = {"MODEL.ROI_BOX_HEAD.ATTR": False, "MODEL.MASK_ON": False}
"""Parts that the features do not depend on: built by neither engine, whatever the file says."""


def fork_settings() -> list[Any]:
    """Key, value, key, value ... that the fork is told besides the file, so that it builds the model that we do."""
    return [part for pair in {**FIXED, **UNUSED_HEADS}.items() for part in pair]


def read_config(path: Path) -> DetectorConfig:
    """The detector's configuration. Raises CheckpointError with the key, the value and what is known."""
    document = _read_yaml(path)
    if not isinstance(document, dict) or not isinstance(document.get("MODEL"), dict):
        raise CheckpointError(
            f"{path} has no MODEL section: it is not the detector's configuration; "
            "it should be detectron_config.yaml of ViLBERT's checkpoint"
        )
    body = _look_up(document, "MODEL.BACKBONE.CONV_BODY")
    known = re.fullmatch(r"R-(\d{1,3})-FPN", body if isinstance(body, str) else "")
    if not known or int(known[1]) not in BLOCKS:
        raise CheckpointError(
            f"{path}: MODEL.BACKBONE.CONV_BODY is {_shown(body)}; known are {', '.join(f'R-{d}-FPN' for d in BLOCKS)}"
        )
    for key, only in FIXED.items():
        value = _as_the_fork(_look_up(document, key, only))
        if isinstance(value, bool) is not isinstance(only, bool) or value != only:
            raise CheckpointError(f"{path}: {key} is {_shown(value)}; this detector is built for {only!r} only")
    values = {name: _value(path, document, key) for name, key in KEYS.items()}
    config = DetectorConfig(depth=int(known[1]), **values)
    _check_pyramid(path, config)
    return config


def _read_yaml(path: Path) -> Any:
    """The document, its text, nesting and scalars bounded first."""
    unreadable = f"download the configuration again ({to_type('download')}), or take it from where the weights are from"
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise CheckpointError(
            f"{path} has more than {MOST_BYTES // 1024} KB, the published configuration about 1: {unreadable}"
        )
    try:
        text = content.decode("utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise yaml.YAMLError(f"nested more than {MOST_DEPTH} deep")
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name), which the fork's files do not use")
            if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_SCALAR:
                raise yaml.YAMLError(f"one value of {len(event.value):,} characters")
        return yaml.safe_load(text)
    except (
        Exception
    ) as error:  # a scalar with a tag ("!!int ''", a date in month 99) raises whatever it makes Python raise
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} is not a YAML file that can be used: {reason}; {unreadable}") from error


def _look_up(document: Any, key: str, default: Any = None) -> Any:
    node = document
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node


def _as_the_fork(value: Any) -> Any:
    """The fork takes text for the Python literal it spells: its files write "(4, 8, 16)" for a sequence."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _value(path: Path, document: Any, key: Key) -> Any:
    """One value, of the type of the published one and within its bounds."""
    found = _as_the_fork(_look_up(document, key.path))
    if found is None:
        if key.default is None:
            raise CheckpointError(
                f"{path} says nothing of {key.path}, and the fork's default makes another model than this one; the "
                f"published file has {key.published!r}: add it, or take configuration and weights from the same place"
            )
        return key.default
    several = isinstance(key.published, tuple)
    convert = _converter(key.published[0] if several else key.published)
    try:
        if several is not isinstance(found, list | tuple):
            raise TypeError(found)
        value = tuple(convert(v) for v in found) if several else convert(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: {key.path} is {_shown(found)}, expected something like {key.published!r}"
        ) from error
    numbers = value if isinstance(value, tuple) else (value,)
    if not isinstance(value, bool) and not all(0 < number <= key.most for number in numbers):
        raise CheckpointError(
            f"{path}: {key.path} is {_shown(found)}, expected positive numbers of at most {key.most:g}"
        )
    return value


def _converter(example: Any) -> Callable[[Any], Any]:
    """Takes a value of the example's type and nothing else; a whole number is a float too."""

    def take(value: Any) -> Any:
        if isinstance(value, list | tuple) or isinstance(value, bool) is not isinstance(example, bool):
            raise TypeError(value)
        if not isinstance(value, (int, float) if isinstance(example, float) else type(example)):
            raise TypeError(value)
        return type(example)(value)

    return take


def _check_pyramid(path: Path, c: DetectorConfig) -> None:
    scales = KEYS["pooler_scales"]
    if c.pooler_scales != scales.published:  # the fork takes its finest and coarsest level from them
        raise CheckpointError(
            f"{path}: {scales.path} is {_shown(c.pooler_scales)}; this detector pools from 4 pyramid levels, "
            f"{scales.published!r}"
        )
    if len(c.anchor_strides) != 5 or len(c.anchor_sizes) != 5:
        raise CheckpointError(
            f"{path}: {len(c.anchor_strides)} MODEL.RPN.ANCHOR_STRIDE and {len(c.anchor_sizes)} ANCHOR_SIZES; this "
            "detector proposes on 5 pyramid levels"
        )
    if not 1 <= len(c.anchor_ratios) <= 16:
        raise CheckpointError(f"{path}: {len(c.anchor_ratios)} {KEYS['anchor_ratios'].path}, expected 1 to 16")


def _shown(value: Any) -> str:
    """A value of the file for a message, one line and short. Numbers too long to print are described."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a number too long to print"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
