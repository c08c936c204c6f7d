"""The paper's visual vocabulary.

    python -m scripts.paper_vocabulary --tgt mscoco_train mscoco valid vg

X-LXMERT's published weights (Epoch20_LXRT.pth) hold the centroids they were trained with.
They are read without running anything that is in the file, checked, written under the published name, where X-LXMERT's
programs look for them, and every target is assigned to them. A vocabulary that is there under that name stays unless
--force is given, and even then it is kept whole beside the new one.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from feature_extraction import catalog
from feature_extraction.config import EXIT_ALL, EXIT_SOME_FAILED
from feature_extraction.errors import CheckpointError
from feature_extraction.names import printable
from feature_extraction.places import to_type
from feature_extraction.terminal import run_main
from kmeans import cli
from kmeans.options import Options, feature_path, target_files

if TYPE_CHECKING:
    from torch import Tensor

    from kmeans.blocks import Rows

NAME: Final = "vis_emb.weight"
"""What X-LXMERT calls the centroids; ``module.`` stands before it where several GPUs trained."""
FETCH: Final = "download-pretrained"
DEEPEST: Final = 4
"""Dictionaries inside one another that are looked into."""
EXIT_CODES: Final = (
    "Exit codes: 0 all done; 1 nothing, with the reason in one line; 2 usage; 3 the centroids are there, and some\n"
    "target's feature file is not; 130 interrupted."
)
Shape = tuple[int | None, int]
"""Words and numbers of each; None: any number of words."""
MOST_NAMED: Final = 400
"""Tensors named in an error; X-LXMERT has about 250 matrices."""


def default_weights(datasets: Path) -> Path:
    """Where ``make download-pretrained`` puts them."""
    return datasets / "x-lxmert" / catalog.PRETRAINED_URL.rpartition("/")[2]


def centroids_in(path: Path, shape: Shape, tensor: str | None = None) -> tuple[Rows, str]:
    """The centroids (k, d) = ``shape`` in a weight file, and the tensor's name. Raises CheckpointError.

    ``tensor``: its name; None: ``vis_emb.weight`` with anything before it or, where there is none, the only tensor of
    that shape. The file is not trusted (``feature_extraction.detector.safe_pickle``)."""
    from feature_extraction.detector.checkpoint import read_document

    if not path.is_file():
        there = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"{path} {there}: {to_type(FETCH)} fetches it, --weights names another file")
    tensors = named_tensors(read_document(path, FETCH))
    name = tensor if tensor is not None else _only_candidate(path, tensors, shape)
    if name not in tensors:
        raise CheckpointError(f"{path} holds no tensor {printable(name)}; {_named(tensors)}")
    return _checked(path, name, tensors[name], shape), name


def named_tensors(document: object) -> dict[str, Tensor]:
    """All tensors in a document, by the keys that lead to them, with dots between."""
    import torch

    found: dict[str, Tensor] = {}
    seen: set[int] = set()

    def look(value: object, name: str, depth: int) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, Mapping) and depth < DEEPEST and id(value) not in seen:
            seen.add(id(value))
            for key, inner in value.items():
                look(inner, f"{name}.{key}" if name else str(key), depth + 1)

    look(document, "", 0)
    return found


def _only_candidate(path: Path, tensors: Mapping[str, Tensor], shape: Shape) -> str:
    """The name of the centroids. Raises CheckpointError where there is none, or more than one."""
    named = [name for name in tensors if f".{name}".endswith(f".{NAME}")]
    candidates = named or [name for name, tensor in tensors.items() if _fits(tensor, shape)]
    wanted = f"{NAME} {_shown(shape)}"
    if not candidates:
        raise CheckpointError(
            f"{path} holds neither {wanted} nor another tensor of that shape; {_named(tensors)}. Another file, "
            f"perhaps, or weights trained without visual words: {to_type(FETCH)} fetches X-LXMERT's own, "
            "--tensor NAME takes another one"
        )
    first, *others = candidates
    if any(not _equal(tensors[first], tensors[name]) for name in others):
        listed = ", ".join(_told(name, tensors[name]) for name in candidates[:MOST_NAMED])
        raise CheckpointError(f"{path} holds {len(candidates)} that may be {wanted}: {listed}; --tensor NAME chooses")
    return first


def _fits(tensor: Tensor, shape: Shape) -> bool:
    return tensor.ndim == 2 and tuple(tensor.shape) == (shape[0] or tensor.shape[0], shape[1])


def _shown(shape: Shape) -> str:
    return f"[{shape[0] or 'any'}, {shape[1]}]"


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one, as those are that X-LXMERT ties."""
    return a.dtype == b.dtype and a.equal(b)


def _checked(path: Path, name: str, tensor: Tensor, shape: Shape) -> Rows:
    import torch

    what = f"{path}: {_told(name, tensor)}"
    if not _fits(tensor, shape):
        raise CheckpointError(f"{what}, expected {_shown(shape)}: weights of another size, or another tensor")
    if tensor.dtype != torch.float32:
        raise CheckpointError(f"{what} of {str(tensor.dtype).removeprefix('torch.')}, expected float32")
    if not bool(tensor.isfinite().all()):
        raise CheckpointError(
            f"{what} holds NaN or infinity: the file is damaged, or no vocabulary; {to_type(FETCH)} fetches it"
        )
    rows: Rows = tensor.detach().contiguous().numpy().copy()
    return rows


def _told(name: str, tensor: Tensor) -> str:
    return f"{printable(name)} {list(tensor.shape)}"


def _named(tensors: Mapping[str, Tensor]) -> str:
    """The end of a message: every matrix that was found, the largest first."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].numel())
    matrices = [_told(name, tensor) for name, tensor in ordered if tensor.ndim == 2]
    if not matrices:
        return f"it holds {len(tensors)} tensors, none of two dimensions"
    more = f" and {len(matrices) - MOST_NAMED} more" if len(matrices) > MOST_NAMED else ""
    return f"of two dimensions it holds {', '.join(matrices[:MOST_NAMED])}{more}"


# --- the command -----------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Those of run_kmeans.py, and where the centroids come from."""
    parser = cli.parser("python -m scripts.paper_vocabulary", __doc__, EXIT_CODES)
    add = parser.add_argument_group("where the centroids come from").add_argument
    add("--weights", type=Path, help=f"X-LXMERT's weights (x-lxmert/{default_weights(Path()).name} in the data folder)")
    add("--tensor", metavar="NAME", help=f"which tensor (NAME ending in {NAME}, or the only one of that shape)")
    add("--force", action="store_true", help="another vocabulary of this name moves to former_XXXXXXXX/ beside it")
    add("--output", type=Path, metavar="FILE.npy", help="write the centroids there instead, and assign nothing")
    return parser


def make(options: Options, args: argparse.Namespace, report: cli.ConsoleReporter) -> int:
    """The whole command; returns the exit code. Raises KitError, OSError."""
    from feature_extraction.storage.files import sha256_of
    from kmeans import given

    weights = args.weights or default_weights(options.datasets)
    centroids, tensor = centroids_in(weights, (options.n_centroids, options.feat_dim), args.tensor)
    if not f".{tensor}".endswith(f".{NAME}"):
        report.warn(f"{weights} has no {NAME}; taking {tensor}, {'as asked' if args.tensor else 'of that shape'}")
    origin = {"file": str(weights.resolve()), "sha256": sha256_of(weights), "tensor": tensor}
    report.say(f"{weights}: {tensor} {list(centroids.shape)}, SHA-256 of the file {origin['sha256']}")
    if args.output is not None:
        given.save_beside(args.output, centroids, origin, replace=args.force)
        report.say(f"{args.output}: the paper's centroids; {to_type('verify-kmeans')} compares")
        return EXIT_ALL
    path = given.put_in_place(options, centroids, origin, make_way=args.force, report=report)
    report.say(f"{path}: the paper's centroids")
    return _assign(options, report)


def _assign(options: Options, report: cli.ConsoleReporter) -> int:
    """Assign the targets whose feature files are there."""
    from kmeans.pipeline import run

    there = [name for name in options.tgt if feature_path(name, options).exists()]
    if there:
        run(replace(options, tgt=tuple(there)), report)
    missing = [(name, feature_path(name, options)) for name in options.tgt if name not in there]
    for name, path in missing:
        report.warn(f"{name} is not assigned: {path} is not there; make it, or download it, and run this again")
    return EXIT_SOME_FAILED if missing else EXIT_ALL


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)

    def work() -> int:
        values = {k: v for k, v in vars(args).items() if k not in ("weights", "tensor", "force", "output")}
        options = cli.options_of({**values, "assign_only": True})
        target_files(options)  # names that nothing is called are refused before anything is read
        report = cli.ConsoleReporter(options.verbose)
        report.say(cli.use_threads())
        return make(options, args, report)

    return cli.guarded(work)


if __name__ == "__main__":
    run_main(main)
