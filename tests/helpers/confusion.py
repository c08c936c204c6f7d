"""What the verdict says of each cause, provoked on purpose: the confusion table.

cd tests && python -m helpers.confusion         both kinds of features, with images and from the files alone
            python -m helpers.confusion x152    of the real architecture (the test's is tiny): an hour and more
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from feature_extraction import cli, recipe
from feature_extraction.config import SPECS, Spec
from feature_extraction.features import computation_of
from scripts.verify.causes import Cause
from scripts.verify.files import Pair
from scripts.verify.options import Options
from scripts.verify.report import Result
from scripts.verify.run import verify

from . import defects
from .common import make_checkpoint, photograph
from .defects import IMAGES, MEAN, Arrays, Published

BOXES_ONLY = (Cause.NMS, Cause.CLIP)
Make = Callable[[str, Path], Arrays]


class Stage:
    """Images, a checkpoint, and our files of them."""

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.paths = defects.write_images(folder / "images")
        self.others = folder / "others"
        self.others.mkdir()
        for name in ("astronaut", "page"):
            cv2.imwrite(str(self.others / f"{name}.png"), photograph(name)[:120])
        self._other_checkpoint: Path | None = None

    def ours(self, kind: str, name: str = "ours") -> Path:
        """Extracted by the program itself, once."""
        output = self.folder / name / f"{kind}.h5"
        if not output.exists():
            words = ["--images", self.folder / "images", "--output", output, "--kind", kind, "--device", "cpu"]
            code = cli.main([*map(str, words), "--checkpoint_dir", str(self.checkpoint), "--workers", "1"])
            assert code == 0
        return output

    def published(self, cause: Cause | None, kind: str) -> Path:
        """Computed with one thing wrong."""
        spec, path = SPECS[kind](), self.folder / f"published_{kind}_{cause.name if cause else 'right'}.h5"
        make = self._maker(cause, spec)
        defects.write_features(path, {image_id: make(image_id, file) for image_id, file in self.paths.items()})
        return path

    def _maker(self, cause: Cause | None, spec: Spec) -> Make:
        right = Published(self.checkpoint)
        of_cause = {
            Cause.RGB: replace(right, colours=lambda rgb: rgb - MEAN),
            Cause.SCALE: replace(right, colours=defects.imagenet),
            Cause.RESIZE: replace(right, floored=False)
            if spec.name == "grid"
            else replace(right, interpolation=cv2.INTER_CUBIC),
            Cause.PRECISION: replace(right, model=defects.in_tf32),
            Cause.EXIF: replace(right, decode=defects.turned),
            Cause.DECODER: replace(right, decode=defects.repeated_chroma),
            Cause.CLIP: replace(right, own_limits=True),
            Cause.FC7: replace(right, model=defects.of_fc7),
        }
        if cause is Cause.PADDING:
            return lambda image_id, path: replace(right, batch=self._batch(image_id, spec)).compute(path, spec)
        if cause is Cause.OTHER_IMAGE:
            others = {"2_cup": self.others / "astronaut.png", "6_coins": self.others / "page.png"}
            return lambda image_id, path: right.compute(others.get(image_id, path), spec)
        if cause is Cause.CHECKPOINT:
            right = replace(right, checkpoint=self.another())
        made = of_cause.get(cause, right)
        return lambda _, path: made.compute(path, spec)

    def made(self, name: str, kind: str, **wrong: Any) -> Path:
        """A published file that is called so, with other values of ``defects.Published``."""
        path, made = self.folder / f"published_{kind}_{name}.h5", Published(self.checkpoint, **wrong)
        images = {image_id: made.compute(file, SPECS[kind]()) for image_id, file in self.paths.items()}
        defects.write_features(path, images)
        return path

    def judged(self, kind: str, published: Path, checkpoint: Path | None = None) -> Result:
        """What recomputing says of a published file, with this checkpoint or another."""
        options = Options(explain=True, checkpoint_dir=checkpoint or self.checkpoint, device="cpu")
        return verify(Pair(self.ours(kind), str(published)), options)

    def _batch(self, image_id: str, spec: Spec) -> tuple[int, int]:
        """Batches of four, by id."""
        ids = list(IMAGES)
        start = ids.index(image_id) // 4 * 4
        sizes = [computation_of(spec).network_size(*defects.rgb_of(self.paths[i]).shape[:2])
                 for i in ids[start : start + 4]]  # fmt: skip
        return max(h for h, _ in sizes), max(w for _, w in sizes)

    def another(self) -> Path:
        if self._other_checkpoint is None:
            config = self.checkpoint / "detectron_config.yaml"
            self._other_checkpoint = defects.write_other_checkpoint(self.folder / "another", config)
        return self._other_checkpoint

    def verdict(self, cause: Cause | None, kind: str, *, explain: bool) -> Result:
        """What is said of the published file with this defect."""
        with self._threshold(cause):
            ours = self.ours(kind, "ours_at_a_tie" if cause is Cause.NMS else "ours")
            if cause is Cause.NMS:  # a tie is one to the bit: computed by the program itself, with another comparison
                with defects.inclusive():
                    path = self.ours(kind, "published_at_a_tie")
            else:
                path = self.folder / f"published_{kind}_{cause.name if cause else 'right'}.h5"
                if not path.exists():
                    self.published(cause, kind)
            options = Options(explain=explain, checkpoint_dir=self.checkpoint, device="cpu")
            return verify(Pair(ours, str(path)), options)

    @contextmanager
    def _threshold(self, cause: Cause | None) -> Iterator[None]:
        before = recipe.CLASS_NMS_IOU
        if cause is Cause.NMS:
            recipe.CLASS_NMS_IOU = defects.tying_threshold(self.checkpoint, self.paths["2_cup"])
        try:
            yield
        finally:
            recipe.CLASS_NMS_IOU = before


def table(stage: Stage, kind: str, *, explain: bool) -> str:
    """Rows: what is wrong; columns: what is said. ``*`` where it is one of several that the files leave open."""
    causes = [cause for cause in Cause if kind == "boxes" or cause not in BOXES_ONLY]
    lines = [f"{kind}, {'recomputed' if explain else 'from the files alone'}",
             " " * 12 + " ".join(f"{c.name[:6]:>6}" for c in [*causes])]  # fmt: skip
    for cause in causes:
        result = stage.verdict(cause, kind, explain=explain)
        said = result.verdict.causes
        mark = "1" if len(said) == 1 else "*"
        lines.append(f"{cause.name:12}" + " ".join(f"{mark if c in said else '.':>6}" for c in causes))
        print(f"# {kind} {cause.name}: {result.error or result.verdict.sentence}", file=sys.stderr, flush=True)
    return "\n".join(lines)


if __name__ == "__main__":
    model = sys.argv[1] if len(sys.argv) > 1 else "tiny"
    with tempfile.TemporaryDirectory() as folder:
        here = Stage(Path(folder), make_checkpoint(Path(folder) / model, model))
        for of_kind in SPECS:
            for by_images in (False, True):
                print(table(here, of_kind, explain=by_images), flush=True)
