"""Feature files in the making, without images or detector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_extraction.storage import store
from feature_extraction.storage.output import Outcome, Output
from feature_extraction.storage.source import FileStamp, Source
from feature_extraction.storage.store import open_features

IDENTITY = {"kind": "grid", "checkpoint_sha256": "abc", "precision": "float32", "batch_size": 1, "class_probs": False}
Arrays = dict[str, Any]


def features(seed: int) -> Arrays:
    return {"features": np.random.default_rng(seed).random((2, 2, 3), dtype=np.float32), "img_w": np.array(seed)}


def source(image_id: str, version: int = 0) -> Source:
    """The image file of ``image_id``; ``version``: other bytes under the same name."""
    return Source(f"/images/{image_id}.jpg", 1000 + version, 10**18 + version, f"{int(image_id) + 1000 * version:064x}")


def stamps(ids: Iterable[str], versions: Mapping[str, int] | None = None) -> dict[str, FileStamp]:
    return {i: source(i, (versions or {}).get(i, 0)).stamp for i in ids}


def broken(ids: Iterable[str]) -> list[dict[str, str]]:
    return [{"id": i, "path": f"/{i}.jpg", "reason": "broken"} for i in ids]


def extract(output: Output, ids: Sequence[str], failed: Iterable[str] = ()) -> None:
    """What the pipeline does for this process's share: whatever is not current is stored."""
    for i in [i for n, i in enumerate(ids) if n % output.count == output.index and i not in failed]:
        now = source(i)
        if not output.is_current(i, *now.stamp, lambda now=now: now.sha256):
            output.add(i, features(int(i)), now)
    output.sync()


def make(
    path: Path,
    ids: Sequence[str],
    index: int = 0,
    count: int = 1,
    identity: Mapping[str, Any] | None = None,
    failed: Iterable[str] = (),
) -> Outcome | None:
    """One run of one share, from start to end."""
    output = Output(path, identity or IDENTITY, {"note": "x"}, index, count)
    try:
        extract(output, ids, failed)
        return output.finish(stamps(ids), broken(failed))
    finally:
        output.close()


def flip(path: Path, at: int) -> None:
    """Let the disk turn over one bit of byte ``at``."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def check(path: Path, ids: Sequence[str], seeds: Mapping[str, int] | None = None) -> None:
    """The file holds these images and nothing else, bit for bit."""
    with open_features(path) as file:
        assert store.image_ids(file) == sorted(ids, key=str.encode)
        assert list(file) == store.image_ids(file)  # HDF5's own order
        for i in ids:
            expected = features((seeds or {}).get(i, int(i)))
            assert set(file[i]) == set(expected)
            for name, array in expected.items():
                np.testing.assert_array_equal(file[i][name][()], array)
                assert file[i][name].dtype == array.dtype
