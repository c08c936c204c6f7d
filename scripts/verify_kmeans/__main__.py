"""Our vocabulary against the paper's, or any two.

    python -m scripts.verify_kmeans [--ours FILE.npy] [--theirs Epoch20_LXRT.pth|FILE.npy] [--rows mscoco_train]

How well each describes the same rows of a feature file, which word of one is which of the other, and how many rows are
in words that are each other's partners. A table is printed; the same and more, with the cells nearest to the words that
differ most, goes to a JSON file beside our centroids, from which the report shows them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_extraction.arguments import Parser, positive
from feature_extraction.config import EXIT_ALL, EXIT_NOTHING
from feature_extraction.errors import StoreError, VocabularyError
from feature_extraction.names import printable
from feature_extraction.places import to_type
from feature_extraction.terminal import run_main
from kmeans import cli
from kmeans.options import DEVICES, Options, feature_path, label

from ..paper_vocabulary import FETCH, centroids_in, default_weights

if TYPE_CHECKING:
    from kmeans.blocks import Rows

EPILOG = (
    "Exit codes: 0 as near as --objective and --share ask for; 1 farther apart, or an error told in one line;\n"
    "2 usage; 130 interrupted."
)


def parser() -> argparse.ArgumentParser:
    default = Options()
    parser = Parser(description=__doc__, prog="python -m scripts.verify_kmeans", epilog=EPILOG)
    add = parser.add_argument
    add("--ours", type=Path, metavar="FILE", help="our centroids (those below cluster_centroids/ of the data folder)")
    add("--theirs", type=Path, metavar="FILE", help="theirs: .npy, or X-LXMERT's weights (x-lxmert/Epoch20_LXRT.pth)")
    add("--tensor", metavar="NAME",
        help="which tensor of the weights holds the centroids (NAME ending in vis_emb.weight)")  # fmt: skip
    add("--rows", default=default.src, metavar="NAME",
        help="features to try both on: a name that kmeans knows, or an .h5 file (%(default)s)")  # fmt: skip
    add("--sample", type=int, default=1000, metavar="N",
        help="about this many images of it, evenly spread; 0: all (%(default)s)")  # fmt: skip
    add("--objective", type=float, default=0.01, metavar="PART",
        help="how far the objectives may be apart (%(default)s)")  # fmt: skip
    add("--share", type=float, default=0.0, metavar="PART", help="least share of rows in matched words (%(default)s)")
    add("--output", type=Path, metavar="FILE.json", help="(beside our centroids, as NAME.npy.compared.json)")
    add("--grid_size", type=positive, default=default.grid_size, metavar="G", help="cells per side (%(default)s)")
    add("--datasets_dir", type=Path, metavar="DIR", help="folder of COCO, VG, ... (../datasets/, or the checkout's)")
    add("--device", choices=DEVICES, default=default.device, help="where the nearest words are found (%(default)s)")
    return parser


def own_centroids(names_path: Path) -> Path:
    """Our own centroids: under the published name or, where the paper's have that, among the former ones.

    Raises VocabularyError where it cannot be told which are meant."""
    from kmeans.former import FORMER
    from kmeans.given import origin_of

    if not names_path.exists() or not origin_of(names_path):
        return names_path
    former = [p for p in sorted(names_path.parent.glob(f"{FORMER}*/{names_path.name}")) if not origin_of(p)]
    if len(former) != 1:
        found = ", ".join(map(str, former)) or "none there"
        raise VocabularyError(
            f"{names_path} holds centroids that were taken from elsewhere; --ours names your own (former ones: {found})"
        )
    return former[0]


def their_centroids(path: Path, dim: int, tensor: str | None) -> tuple[Rows, dict[str, Any]]:
    """Centroids from an .npy file or from weights, and where those come from."""
    from feature_extraction.storage.files import sha256_of
    from kmeans.given import origin_of
    from kmeans.results import load_centroids

    if path.suffix == ".npy":
        return load_centroids(path), origin_of(path)
    centroids, name = centroids_in(path, (None, dim), tensor)
    return centroids, {"file": str(path.resolve()), "sha256": sha256_of(path), "tensor": name}


def images_of(count: int, sample: int) -> Any:
    """Places of about ``sample`` images, evenly spread over ``count``; all for 0."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, min(count, sample or count)).round().astype(np.int64))


def compared(args: argparse.Namespace, report: cli.ConsoleReporter) -> tuple[Path, dict[str, Any]]:
    """Our centroids' path, and the document. Raises KitError, OSError."""
    from kmeans import results
    from kmeans.comparison import compare
    from kmeans.given import origin_of
    from kmeans.nearest import find_device
    from kmeans.progress import Ticker
    from kmeans.vectors import FeatureFile

    from .findings import document

    options = Options(src=args.rows, datasets_dir=args.datasets_dir, grid_size=args.grid_size)
    named = results.ResultNames.of(Options(datasets_dir=args.datasets_dir, grid_size=args.grid_size)).centroids
    ours_path = args.ours or own_centroids(named)
    theirs_path = args.theirs or default_weights(options.datasets)
    for flag, there in {"--ours": ours_path, "--theirs": theirs_path}.items():
        if not there.exists():
            way = f"{to_type('kmeans')} makes ours" if flag == "--ours" else f"{to_type(FETCH)} fetches the paper's"
            raise VocabularyError(f"{there} does not exist: {way}, {flag} FILE names another")
    ours = results.load_centroids(ours_path)
    theirs, origin = their_centroids(theirs_path, ours.shape[1], args.tensor)
    if theirs.shape[1] != ours.shape[1]:
        raise VocabularyError(f"{theirs_path} has words of {theirs.shape[1]} numbers, {ours_path} of {ours.shape[1]}")
    path, target = feature_path(args.rows, options), label(args.rows)
    if not path.exists():
        raise StoreError(f"{path} does not exist: extract or download it, or give --rows another feature file")
    with FeatureFile(path, dim=ours.shape[1], grid_size=args.grid_size) as file:
        images = images_of(len(file.ids), args.sample)
        report.say(f"{ours_path} against {theirs_path}, on {len(images):,} of {len(file.ids):,} images of {path}")
        ticker = Ticker(report.say, "comparing", len(images) * file.rows_per_image)
        found = compare(ours, theirs, file, images, device=find_device(args.device), tick=ticker.advance)
        told = document(found, file, target)
    sides = {"ours": (ours_path, ours, origin_of(ours_path)), "theirs": (theirs_path, theirs, origin)}
    for side, (where, centroids, source) in sides.items():
        told[side] |= {"path": str(where.resolve()), results.DIGEST: results.digest(centroids), "origin": source}
    return ours_path, told


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if args.sample < 0 or not 0 <= args.share <= 1 or not args.objective >= 0:
        parser().error("--sample is a number from 0, --objective a part from 0, --share a part from 0 to 1")

    def work() -> int:
        report = cli.ConsoleReporter(True)
        report.say(cli.use_threads())
        from kmeans.results import compared_of

        from . import findings
        from .table import table

        ours, told = compared(args, report)
        good, said = findings.verdict(told, args.objective, args.share)
        told |= {"verdict": said, "as_near_as_asked": good}
        output = args.output or compared_of(ours)
        output.parent.mkdir(parents=True, exist_ok=True)
        findings.save(output, told)
        print(printable_lines(table(told)))
        print(printable(f"{'ok' if good else 'DIFFERENT'}: {said}"))
        report.say(f"{output}: the same and more; {to_type('report')} shows the words that differ most")
        return EXIT_ALL if good else EXIT_NOTHING

    return cli.guarded(work, "nothing was written")


def printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.splitlines()))


if __name__ == "__main__":
    run_main(main)
