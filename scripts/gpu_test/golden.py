"""The original program's outputs (tests/data) and how far results of another machine may be from them.

Two correct float32 evaluations of the network differ in the last bits of every score, so two boxes whose scores nearly
tie may come in the other order. What a near-tie is follows from the scores:

    A box is ranked by s, the largest class probability that survived suppression. How far log s of one box is from
    the original's is known for the 36 boxes whose scores are stored: e, the largest of these 36 differences. Other
    boxes of the same image come out of the same sums; they may be twice as far off. Both boxes of a pair are off, so
    the order of two is undecided where |log s_i - log s_j| <= 2 * 2 * e. 36 values may agree by luck: at the least,
    what one rounding per convolution makes of the largest logit L, n 2^-24 L, is undecided.

A box belongs where the original has it but for such pairs, the place after the last included: the list is computed
longer than the original's. The same for the class of a box: the best two of its classes may tie.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.regions import ChosenBoxes

DATA: Final = Path(__file__).resolve().parents[2] / "tests" / "data"
FEATURE_BOUND: Final = 2e-4
"""Of the largest absolute value: fc6 is a sum over 25,088 products behind 160 convolutions."""
BOX_BOUND: Final = 1e-2
"""Pixels of the original image."""
SCORE_BOUND: Final = 2e-4
"""Of the ranking scores and class probabilities, which lie in 0..1."""
OTHER_PROPOSALS: Final = 2
"""Of 1000: near-ties of objectness at the last place, or of an overlap with the threshold."""
FURTHER: Final = 20
"""Boxes beyond the original's list that may have changed places with its last ones."""
ROUNDING: Final = 2.0**-24


def photograph(name: str) -> NDArray[np.uint8]:
    """The image that a golden file of this name belongs to (tests/data/README.md). Raises ImportError where
    scikit-image, whose wheel holds the photographs, is not installed."""
    import skimage.data
    from PIL import Image

    if name == "motorcycle":
        return np.asarray(Image.open(Path(skimage.data.__file__).parent / "motorcycle_left.png"))
    if name == "coffee_strip":
        return np.asarray(skimage.data.coffee()[150:270])
    if name == "chelsea_tall":
        return np.asarray(skimage.data.chelsea()[:, 100:190])
    if name == "astronaut_crop33":
        return np.asarray(skimage.data.astronaut()[:33, :47])
    return np.asarray(getattr(skimage.data, name)())


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference over the largest absolute value expected; infinite where one is not a number."""
    worst = float(np.abs(found - expected).max() / np.abs(expected).max())
    return worst if np.isfinite(worst) else float("inf")


def undecided(found: NDArray[Any], golden: NDArray[Any], largest_logit: float, convolutions: int) -> float:
    """How far apart the logarithms of two scores have to be for their order to be decided.

    ``found`` and ``golden`` (36,): the ranking scores of the same boxes."""
    error = float(np.abs(np.log(found) - np.log(golden)).max())
    return max(4 * error, convolutions * ROUNDING * largest_logit)


def match_ranking(
    found: ChosenBoxes, boxes: NDArray[Any], obj_id: NDArray[Any], tie: float
) -> tuple[NDArray[np.intp], list[str]]:
    """Which of our boxes each of the original's is, and everything about places and classes that no tie explains.

    ``found`` holds more boxes than the original's (N, 4), best first; ``tie`` as ``undecided`` gives it.
    Returns (order (N,), problems): our row ``order[i]`` is the original's row i."""
    problems = []
    apart = np.abs(found.boxes[None].astype(np.float64) - boxes[:, None]).max(2)  # (N, ours)
    of_class = np.log(found.cls_prob[:, 1:])
    near_class = (of_class.max(1, keepdims=True) - of_class) <= tie  # (ours, classes)
    possible = (apart <= BOX_BOUND) & near_class[:, obj_id].T
    order = possible.argmax(1)
    for row in np.flatnonzero(possible.sum(1) != 1):
        nearest = int(apart[row].argmin())
        problems.append(
            f"place {row}: {possible[row].sum()} boxes match; the nearest is our place {nearest}, "
            f"{apart[row, nearest]:.2g} px away, class {found.obj_id[nearest]} for {obj_id[row]}"
        )
    if len(set(order.tolist())) != len(order):
        problems.append("one box of ours matches two of the original's")
    if problems:
        return order, problems
    score = np.log(found.obj_conf)
    # everything that stands before a matched box in our list but not in the original's, the unmatched included
    place = np.full(len(score), len(order))
    place[order] = np.arange(len(order))
    for ours in order:
        ahead = np.arange(ours)
        wrong = ahead[(place[:ours] > place[ours]) & (score[:ours] - score[ours] > tie)]
        problems += [
            f"our place {before} stands before our place {ours}, log scores {score[before] - score[ours]:.2g} apart, "
            f"undecided up to {tie:.2g}"
            for before in wrong
        ]
    return order, problems
