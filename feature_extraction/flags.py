"""The flags of each kind of features, and the specs that they mean. Standard library only."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from . import recipe
from .arguments import choose, positive
from .config import BOX_FORMATS, BOX_SCALINGS, LAYERS, SPECS, Boxes, GivenBoxes, Grid, Spec
from .errors import UsageError
from .recipes import RECIPES, X_152, listed

RANKING: Final = ("num_boxes", "min_boxes", "threshold")
"""Flags that mean nothing where a file says which boxes."""
LIST: Final = "list"


class _Recipe(argparse.Action):
    """--recipe list prints the table, whatever else is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if values == LIST:
            print(listed())
            parser.exit()
        setattr(namespace, self.dest, values)


def kinds(text: str) -> list[str]:
    """``grid,boxes`` -> the kinds of features."""
    try:
        return [choose("kind", word, list(SPECS)) for word in dict.fromkeys(text.split(","))]
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _imsize(text: str) -> int:
    value = positive(text)
    if value % recipe.SIZE_DIVISOR:
        raise argparse.ArgumentTypeError(
            f"{value} is not a multiple of {recipe.SIZE_DIVISOR}, which the pyramid needs; "
            f"nearest: {max(1, round(value / recipe.SIZE_DIVISOR)) * recipe.SIZE_DIVISOR}"
        )
    return value


def _add_grid_flags(published: argparse._ArgumentGroup, ours: argparse._ArgumentGroup) -> None:
    published.add_argument("--grid_size", type=positive, nargs="+", default=[Grid.grid_size],
        help=f"cells per side ({Grid.grid_size}); several: a file each, made in one pass")  # fmt: skip
    published.add_argument("--imsize", type=_imsize, help="resize every image to this many pixels squared (grid)")
    published.add_argument("--im_ratio", choices=["original"], default="original", help="has no effect, as published")


def _add_boxes_flags(published: argparse._ArgumentGroup, ours: argparse._ArgumentGroup) -> None:
    published.add_argument("--test", action="store_true", help="write to a file name that ends in _test")
    add = ours.add_argument
    add("--recipe", choices=[*RECIPES, LIST], action=_Recipe, metavar="NAME",
        help=f"what another program of this detector's family keeps ({', '.join(RECIPES)}); its values are the "
        f"defaults of the flags below. {LIST}: the table, with sources")  # fmt: skip
    add("--num_boxes", type=positive, default=Boxes.num_boxes, help="boxes per image (%(default)s)")
    add("--min_boxes", type=positive,
        help="keep the boxes that score at least --threshold: from so many to --num_boxes "
        "(as many for every image)")  # fmt: skip
    add("--threshold", type=float, default=Boxes.threshold, metavar="P",
        help="class probability from which a score counts (%(default)s)")  # fmt: skip
    add("--background", action="store_true", help="rank the background as a class (its obj_id is -1)")
    add("--layer", choices=LAYERS, default=Boxes.layer,
        help="stored as features (%(default)s); both: fc7 as features_fc7")  # fmt: skip
    add("--obj_conf", action="store_true", help="store the scores that ranked the boxes as well")
    add("--class_probs", nargs="?", const=True, default=False, type=_class_probs, metavar="foreground",
        help="store cls_prob (boxes, classes) as well; foreground: without the background")  # fmt: skip
    add("--clip", action="store_true", help="move the stored boxes into the image")
    add("--boxes_from", type=Path, metavar="FILE",
        help="describe the boxes that a .h5, .json or .npy file gives by image id, instead of proposals")  # fmt: skip
    add("--boxes_format", choices=BOX_FORMATS, default=GivenBoxes.boxes_format,
        help="of --boxes_from, pixels of the original image (%(default)s)")  # fmt: skip
    add("--boxes_scaling", choices=BOX_SCALINGS, default=GivenBoxes.boxes_scaling,
        help="of --boxes_from, to the network's input: as the %(default)s is scaled, "
        "or as that program does")  # fmt: skip


def _class_probs(text: str) -> str:
    if text != "foreground":
        raise argparse.ArgumentTypeError(f"{text!r}: expected nothing, or foreground")
    return text


SPEC_FLAGS: Final = {Grid.name: _add_grid_flags, Boxes.name: _add_boxes_flags}


def add_spec_flags(kinds: Sequence[str], published: argparse._ArgumentGroup, ours: argparse._ArgumentGroup) -> None:
    """The flags of these kinds of features."""
    for kind in kinds:
        if kind in SPEC_FLAGS:  # a kind without settings needs none
            SPEC_FLAGS[kind](published, ours)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; what a recipe says is the default of the flags it is about."""
    args = parser.parse_args(argv)
    name = getattr(args, "recipe", None)
    if name is None:
        return args
    spec = RECIPES[name].spec
    parser.set_defaults(kinds=[spec.name], **{f.name: getattr(spec, f.name) for f in fields(spec)})
    return parser.parse_args(argv)


def specs_of(parser: argparse.ArgumentParser, args: argparse.Namespace, kinds: Sequence[str]) -> list[Spec]:
    """What the arguments ask for, of these kinds. Exits with the mistake where they contradict each other."""
    row = RECIPES.get(getattr(args, "recipe", None) or "")
    if row is not None and Boxes.name not in kinds:
        parser.error(f"--recipe {args.recipe} is one of boxes: --kinds {Boxes.name}")
    if row is not None and row.detector != X_152 and args.checkpoint_dir is None:
        parser.error(f"--recipe {args.recipe} is of the {row.detector} detector: give its folder as --checkpoint_dir")
    try:
        return list(dict.fromkeys(spec for kind in kinds for spec in _specs_of(parser, vars(args), SPECS[kind])))
    except UsageError as error:
        parser.error(str(error))


def _specs_of(parser: argparse.ArgumentParser, given: dict[str, Any], spec: type[Spec]) -> list[Spec]:
    """One spec for each combination of the values that were given for its fields."""
    names = [f.name for f in fields(spec)]
    if spec is Boxes and given["boxes_from"] is not None:
        spec = GivenBoxes
        meant = (n for n in RANKING if given[n] != parser.get_default(n))
        names = [f.name for f in fields(spec) if f.name not in RANKING] + list(meant)
    values = [given[name] if isinstance(given[name], list) else [given[name]] for name in names]
    return [spec(**dict(zip(names, several, strict=True))) for several in itertools.product(*values)]
