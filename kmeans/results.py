"""Names and formats of everything run_kmeans.py leaves behind, and reading it back.

Files are written whole in the folder of unfinished things and renamed: whatever stands at a final path is whole.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_extraction.errors import VocabularyError
from feature_extraction.places import to_type
from feature_extraction.storage import files
from feature_extraction.storage.bounded import load_npy, load_npz, read_json

from .blocks import Indices, Rows
from .options import Options, label

FOLDER: Final = "cluster_centroids"
"""Below ``--datasets_dir``: where the published script writes and X-LXMERT's image generator reads."""
ALIAS: Final = "clustering"
"""Where X-LXMERT's pretraining and its sampler read the same files."""
DIGEST: Final = "centroids_sha256"
"""In our ``.npz`` and in the statistics: the centroids that an index belongs to."""
TRAIN: Final = (
    f"{to_type('kmeans')} (without --assign_only) makes them, {to_type('paper-vocabulary')} takes the paper's"
)
ASSIGN: Final = f"assign this target again ({to_type('kmeans')})"
"""What to do where centroids, or what was assigned to them, are not what they should be."""
WORK: Final = ".work"


@dataclass(frozen=True)
class ResultNames:
    """The published names of the files of one vocabulary, ``<datasets_dir>/cluster_centroids/...``, and ours."""

    datasets_dir: Path
    encoder: str
    source: str
    n_centroids: int
    n_iter: int
    feat_dim: int
    grid_size: int
    imsize: int | None

    @classmethod
    def of(cls, options: Options) -> ResultNames:
        return cls(
            options.datasets,
            options.encoder,
            label(options.src),
            options.n_centroids,
            options.n_iter,
            options.feat_dim,
            options.grid_size,
            options.imsize,
        )

    @property
    def folder(self) -> Path:
        return self.datasets_dir / FOLDER

    @property
    def tail(self) -> str:
        tail = f"{self.n_centroids}_iter{self.n_iter}_d{self.feat_dim}_grid{self.grid_size}"
        return tail if self.imsize is None else f"{tail}_imsize{self.imsize}"

    @property
    def centroids(self) -> Path:
        """float32 (k, d)."""
        return self.folder / f"{self.encoder}_{self.source}_centroids{self.tail}.npy"

    @property
    def stats(self) -> Path:
        return stats_of(self.centroids)

    @property
    def compared(self) -> Path:
        return compared_of(self.centroids)

    @property
    def alias(self) -> Path:
        """The centroids as X-LXMERT's sampler looks for them."""
        return self.datasets_dir / ALIAS / self.centroids.name

    @property
    def work(self) -> Path:
        """Unfinished things of this run: checkpoint, scratch file, indices of the target in work."""
        return self.centroids.with_name(self.centroids.name + WORK)

    @property
    def checkpoint(self) -> Path:
        """A training after its last iteration."""
        return self.work / "checkpoint.npz"

    def cluster_index(self, target: str) -> Path:
        """int64 (rows, 1)."""
        return self.folder / f"{self.encoder}_{self.source}_{target}_cluster_index_centroids{self.tail}.npy"

    def image_clusters(self, target: str) -> Path:
        """Pickled dict: image id -> int64 (rows per image,). The same as ``.npz`` beside it."""
        return self.folder / f"{self.encoder}_{self.source}_{target}_img_id_to_cluster_id_{self.tail}.pkl"

    def nearest_cells(self, target: str) -> Path:
        """The cells nearest to each centroid (``nearest_cells.py``)."""
        return self.folder / f"{self.encoder}_{self.source}_{target}_nearest_cells_{self.tail}.npz"

    def of_target(self, target: str) -> list[Path]:
        """All files of one target, the published ones first."""
        images = self.image_clusters(target)
        return [self.cluster_index(target), images, images.with_suffix(".npz"), self.nearest_cells(target)]

    def targets_there(self) -> list[str]:
        """Targets that some file of this vocabulary, or of a former one of this name, lies there for."""
        start, found = f"{self.encoder}_{self.source}_", set()
        for example in self.of_target("*"):
            end = example.name.partition("*")[2]
            for path in self.folder.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
                if not _of_a_longer_source(path, start, self.tail):
                    found.add(path.name.removeprefix(start).removesuffix(end))
        return sorted(found)


def stats_of(centroids: Path) -> Path:
    """What is known of centroids, beside them: how they were trained or where they are from; what was assigned."""
    return centroids.with_name(centroids.name + ".stats.json")


def compared_of(centroids: Path) -> Path:
    """What ``make verify-kmeans`` found when it compared them with others, beside them."""
    return centroids.with_name(centroids.name + ".compared.json")


def _of_a_longer_source(path: Path, start: str, tail: str) -> bool:
    """Whether a result belongs to another vocabulary in the folder, whose source's name goes on where ours ends: with
    sources ``coco`` and ``coco_train``, ``coco_train_vg`` is target ``vg`` of the second."""
    end = f"_centroids{tail}.npy"
    others = (p.name.removesuffix(end) + "_" for p in path.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}"))
    return any(path.name.startswith(other) for other in others if "_cluster_index_" not in other)


# --- writing -----------------------------------------------------------------------------------------


@contextmanager
def published(path: Path, work: Path) -> Iterator[IO[bytes]]:
    """A file that appears at ``path`` when it is whole and on the disk, and not at all if an error passes through.

    It is made in ``work``, a folder of the same file system, which is removed at the end with what a kill left."""
    work.mkdir(parents=True, exist_ok=True)
    with files.atomic_file(work / path.name) as file:
        yield file
    (work / path.name).replace(path)
    files.sync_folder(path.parent)


def save_array(path: Path, work: Path, array: NDArray[Any]) -> None:
    with published(path, work) as file:
        np.save(file, array, allow_pickle=False)


def save_json(path: Path, work: Path, value: Any) -> None:
    with published(path, work) as file:
        file.write(json_text(value).encode())


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False, default=str) + "\n"


def load_json(path: Path) -> dict[str, Any]:
    """The object in ``path``; empty where there is none or it cannot be read."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


class _Pickler(pickle.Pickler):
    """Writes arrays by names that every numpy has: numpy 2 would write ``numpy._core``, unknown to the
    numpy of the published readers' time."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            empty = (np.ndarray, ((0,), np.dtype("b")))
            return (*empty, (1, obj.shape, obj.dtype, False, obj.tobytes()))
        return NotImplemented


def save_image_clusters(path: Path, work: Path, ids: list[str], clusters: Indices, centroids_sha256: str) -> None:
    """Write clusters (images, rows per image) as ``.npz`` (read by us) and as the published ``.pkl`` (read
    by others)."""
    with published(path.with_suffix(".npz"), work) as file:
        arrays = {"image_ids": np.array(ids, dtype=np.str_), "cluster_ids": clusters}
        np.savez(file, allow_pickle=False, **arrays, **{DIGEST: np.array(centroids_sha256)})
    with published(path, work) as file:
        _Pickler(file, protocol=4).dump(dict(zip(ids, clusters, strict=True)))


def link(path: Path) -> None:
    """Make ``cluster_centroids/x`` readable as ``clustering/x``: by a relative link, by a copy where links
    fail. Raises VocabularyError where something else is in the way."""
    alias = path.parent.with_name(ALIAS)
    if not alias.exists() and not alias.is_symlink():
        try:
            alias.symlink_to(path.parent.name, target_is_directory=True)
            return
        except FileExistsError:  # made meanwhile, by another run
            pass
        except OSError:
            alias.mkdir(exist_ok=True)
    if alias.resolve() == path.parent.resolve():
        return
    if not alias.is_dir():
        raise VocabularyError(f"{alias} is in the way: it should be a folder, or a link to {path.parent.name}")
    other = alias / path.name
    if other.exists() and other.samefile(path):
        return
    aside = alias / f".{path.name[:40]}.part"
    aside.unlink(missing_ok=True)
    try:
        aside.symlink_to(Path("..") / path.parent.name / path.name)
    except OSError:
        shutil.copyfile(path, aside)
    os.replace(aside, other)


# --- reading -----------------------------------------------------------------------------------------


def load_image_clusters(path: Path) -> tuple[list[str], Indices, str]:
    """Image ids, clusters (images, rows per image) and the digest of the centroids ("" in files of earlier versions)
    from the ``.npz`` of ``save_image_clusters``. Raises VocabularyError."""
    with reading(path, "an .npz file of image ids and clusters", ASSIGN):
        arrays = load_npz(path, ("image_ids", "cluster_ids"), (DIGEST,))
        ids, clusters = arrays["image_ids"], arrays["cluster_ids"]
        if ids.ndim != 1 or not are_texts(ids) or clusters.dtype != np.int64 or clusters.shape[:1] != ids.shape:
            raise ValueError(f"ids {ids.dtype} {ids.shape}, clusters {clusters.dtype} {clusters.shape}")
    return ids.tolist(), clusters, str(arrays.get(DIGEST, ""))


def are_texts(array: NDArray[Any]) -> bool:
    """Whether an array holds texts that Python can: numpy takes any number for a character."""
    if array.dtype.kind != "U":
        return False
    codes = np.ascontiguousarray(array).view(np.uint32)
    return not bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any())


def image_clusters_beside(centroids: Path) -> dict[str, Path]:
    """Target -> ``.npz``, for all targets in the same folder that have the name of these centroids."""
    head, found, tail = centroids.stem.rpartition("_centroids")
    if not found:
        return {}
    start, end = f"{head}_", f"_img_id_to_cluster_id_{tail}"
    return {
        path.stem.removeprefix(start).removesuffix(end): path
        for path in sorted(centroids.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}.npz"))
        if not _of_a_longer_source(path, start, tail)
    }


@contextmanager
def reading(path: Path, what: str, otherwise: str) -> Iterator[None]:
    """Let every failure to read ``path`` be a VocabularyError with the true reason."""
    try:
        yield
    except FileNotFoundError:
        raise VocabularyError(f"{path} does not exist: {otherwise}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise VocabularyError(f"{path} cannot be read: {error.strerror}") from error
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise VocabularyError(f"{path} is not {what} ({reason}); pickles are not read") from error


def load_centroids(path: Path, k: int | None = None, d: int | None = None) -> Rows:
    """The centroids (k, d) in ``path``. Raises VocabularyError if they are missing or not what they should be."""
    with reading(path, "a whole .npy file", TRAIN):
        mapped = load_npy(path, mmap=True)
    shape, dtype = mapped.shape, mapped.dtype
    if len(shape) != 2 or 0 in shape or (k is not None and k != shape[0]) or (d is not None and d != shape[1]):
        raise VocabularyError(f"{path} holds an array of shape {shape}, expected {(k or 'k', d or 'd')}")
    if dtype != np.float32:
        raise VocabularyError(f"{path} holds {dtype} values, expected float32")
    if not np.isfinite(np.einsum("kd,kd->k", mapped, mapped)).all():
        raise VocabularyError(f"{path} holds NaN, infinity or values whose squares are infinite: no centroids")
    return np.array(mapped)


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of the values."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def digest_of_centroids(path: Path) -> str | None:
    """Digest of the centroids in ``path``; None where there are none, "" where they cannot be read."""
    if not path.exists():
        return None
    with suppress(VocabularyError):
        return digest(load_centroids(path))
    return ""


# --- checkpoints -------------------------------------------------------------------------------------


def save_checkpoint(path: Path, key: dict[str, Any], centroids: Rows, state: dict[str, Any]) -> None:
    """Centroids and what else is needed to go on, in one file that is replaced as a whole."""
    text = json.dumps({"key": key, DIGEST: digest(centroids), **state})
    with files.atomic_file(path) as file:
        np.savez(file, allow_pickle=False, centroids=centroids, state=np.array(text))


def load_checkpoint(path: Path) -> tuple[Rows, dict[str, Any], dict[str, Any]] | None:
    """Centroids, state and key of the checkpoint in ``path``; None where there is no sound one."""
    try:
        arrays = load_npz(path, ("centroids", "state"))
        state = json.loads(str(arrays["state"]))
        key, digest_then = state.pop("key"), state.pop(DIGEST, None)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None
    centroids = arrays["centroids"]
    if digest_then not in (None, digest(centroids)):  # earlier versions did not write it
        return None
    return centroids, state, key
