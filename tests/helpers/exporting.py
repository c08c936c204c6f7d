"""Small finished feature files, kills at every instant of a program, and what an export holds, whatever its form."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import lmdb
import numpy as np

from feature_extraction.exports import run as engine
from feature_extraction.exports.lmdb_place import Lmdb
from feature_extraction.exports.spec import FORMATS, ExportConfig
from feature_extraction.storage.assemble import write_features
from feature_extraction.storage.source import Source

COCO = tuple(f"COCO_val2014_{number:012d}" for number in (9, 42, 133, 285, 1000))
MADE = {"schema_version": 1, "kind": "boxes", "dataset": "coco", "split": "valid", "checkpoint_sha256": "abc"}
Arrays = dict[str, Any]


class Never:
    """Nobody asks to stop."""

    def is_set(self) -> bool:
        return False


def box_arrays(seed: int, *, rows: int = 3, dim: int = 8, probs: bool = True, conf: bool = True) -> Arrays:
    """What is stored of one image of 640 x 480, in 5 classes; box 0 reaches beyond it, the last row has conf 0."""
    rng = np.random.default_rng(seed)
    found: Arrays = {
        "features": rng.random((rows, dim), np.float32) * 20,
        "obj_id": rng.integers(0, 4, rows),
        "boxes": (rng.random((rows, 4)) * 400).astype(np.float32),
        "img_w": np.array(640),
        "img_h": np.array(480),
    }
    found["boxes"][0] = -3, 5, 650, 485
    if probs:
        found["cls_prob"] = rng.random((rows, 5), np.float32)
        found["obj_id"] = found["cls_prob"][:, 1:].argmax(1)
    if conf:
        found["obj_conf"] = np.linspace(0.9, 0.0, rows, dtype=np.float32)
    return found


def grid_arrays(seed: int) -> Arrays:
    return {"features": np.random.default_rng(seed).random((2, 2, 8), np.float32)}


def write_file(path: Path, images: Mapping[str, Arrays], made: Mapping[str, Any] | None = None, gzip: int = 0) -> Path:
    """A finished feature file of these images."""
    path.touch()
    stored = (
        (image_id, dict(sorted(arrays.items())), Source(f"/images/{seed}.jpg", 10, seed, f"{seed:064x}"))
        for seed, (image_id, arrays) in enumerate(sorted(images.items(), key=lambda item: item[0].encode()))
    )
    write_features(path, stored, {**(MADE if made is None else made), "images": len(images), "failed": 0}, gzip)
    return path


def coco_file(path: Path, ids: Sequence[str] = COCO, **kind: Any) -> Path:
    return write_file(path, {image_id: box_arrays(seed, **kind) for seed, image_id in enumerate(ids)})


def stored(path: Path) -> dict[str, Arrays]:
    with h5py.File(path) as file:
        return {i: {name: file[i][name][()] for name in file[i]} for i in file}


def config(source: Path, form: str, output: Path, **more: Any) -> ExportConfig:
    """An export with what its format asks for."""
    if FORMATS[form].split:
        more.setdefault("split", "val")
    return ExportConfig(source=source, format=form, output=output.with_name(output.name + FORMATS[form].ending), **more)


def export(source: Path, form: str, output: Path, **more: Any) -> Path:
    """Run one export; returns OUT."""
    chosen = config(source, form, output, **more)
    engine.export(chosen, Never())
    return chosen.output


def contents(out: Path) -> dict[str, bytes]:
    """All that OUT holds, by file or key."""
    if (out / "data.mdb").exists():
        with lmdb.open(str(out), readonly=True, lock=False) as env, env.begin() as transaction:
            return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}
    if out.is_dir():
        return {path.name: path.read_bytes() for path in out.iterdir()}
    return {"": out.read_bytes()}


# --- kills ---------------------------------------------------------------------------------------------------------

INSTANTS = ("fsync", "replace", "rename", "ftruncate", "write", "pwrite", "unlink", "rmdir")
"""Calls of ``os`` before which, and in the middle of whose writing, a program is killed."""


def killed_at(instant: int, program: Callable[[], object]) -> bool:
    """Run ``program`` in a process of its own, killed at the call of this number. Returns whether it was."""
    pid = os.fork()
    if not pid:
        try:
            _arm(instant)
            program()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _arm(instant: int) -> None:
    left = [instant]

    def tick(half: Callable[[], object] = lambda: None) -> None:
        if not left[0]:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def armed(name: str) -> Callable[..., Any]:
        call = getattr(os, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            writes = name in ("write", "pwrite")
            tick(lambda: call(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:]) if writes else None)
            return call(*args, **kwargs)

        return wrapper

    for name in INSTANTS:
        setattr(os, name, armed(name))
    commit = Lmdb.sync

    def sync(place: Lmdb) -> None:
        tick()
        commit(place)
        tick()

    Lmdb.sync = sync
