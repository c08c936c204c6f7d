"""The half-made index: whatever is not what was written is computed again."""

import os

import numpy as np
import pytest
from helpers.kmeans_cases import cluster, features, interrupted_after, write_features
from hypothesis import given, settings
from hypothesis import strategies as st

from kmeans import memory
from kmeans.partial import Frame, PartialIndex

MULTIPLE = 4


def frame(rows, seed):
    rng = np.random.default_rng(seed)
    noted = np.flatnonzero(rng.random(rows) < 0.3).astype(np.uint32)
    return Frame(rng.integers(0, 9, rows), noted, rng.random(len(noted), np.float32))


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def written(path, frames):
    path.unlink(missing_ok=True)
    with PartialIndex(path, {"k": 1}, MULTIPLE) as part:
        for one in frames:
            part.append(one)
    return path.read_bytes()


FRAMES = [frame(8, 0), frame(12, 1), frame(4, 2), frame(7, 3)]


def taken_over(path):
    with PartialIndex(path, {"k": 1}, MULTIPLE) as part:
        return list(part.frames)


def assert_beginning(frames):
    assert all(same(a, b) for a, b in zip(frames, FRAMES, strict=False))
    assert sum(len(f.ids) for f in frames) % MULTIPLE == 0


def test_what_was_written_is_taken_over_up_to_a_multiple(tmp_path):
    written(tmp_path / "x", FRAMES)
    frames = taken_over(tmp_path / "x")
    assert len(frames) == 3  # the fourth does not end at a multiple
    assert_beginning(frames)
    with PartialIndex(tmp_path / "x", {"k": 1}, MULTIPLE) as part:
        part.append(FRAMES[3])
        assert np.array_equal(part.ids(), np.concatenate([f.ids for f in FRAMES]))
    with PartialIndex(tmp_path / "x", {"k": 2}, MULTIPLE) as part:
        assert part.frames == []


def test_every_byte_flipped(tmp_path):
    whole = written(tmp_path / "x", FRAMES)
    for at in range(len(whole)):
        (tmp_path / "x").write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        assert_beginning(taken_over(tmp_path / "x"))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 400), st.integers(0, 400), st.sampled_from([b"\0", b"\xff"]))
def test_torn_and_overwritten(tmp_path_factory, start, length, byte):
    """A power loss leaves the length and zeros, or cuts anywhere."""
    path = tmp_path_factory.getbasetemp() / "torn"
    whole = written(path, FRAMES)
    path.write_bytes((whole[:start] + length * byte)[: max(len(whole), start)] + whole[start + length :])
    assert_beginning(taken_over(path))
    written(path, FRAMES)
    os.truncate(path, min(start, len(whole)))
    assert_beginning(taken_over(path))


def test_an_index_of_an_earlier_version_is_computed_again(tmp_path):
    """It was raw numbers, without checksums."""
    written(tmp_path / "x", [])
    (tmp_path / "x").write_bytes(np.arange(4096).astype("<i8").tobytes())
    assert taken_over(tmp_path / "x") == []


@pytest.mark.parametrize("damage", ["zeros", "cut", "flip"])
def test_a_run_after_a_power_loss_ends_right(tmp_path, monkeypatch, damage, capsys):
    path = write_features(tmp_path / "some.h5", features(400, 8, 24, seed=5))
    clean = cluster(path, tmp_path / "clean", 16, n_iter=3)
    monkeypatch.setattr(memory, "BLOCK_ROWS", 4096)
    with interrupted_after(PartialIndex, "append", 2):
        cluster(path, tmp_path / "cut", 16, n_iter=3)
    (part,) = (tmp_path / "cut").rglob("*.0of1")
    whole = part.read_bytes()
    half = len(whole) // 2
    part.write_bytes(
        {"zeros": whole[:half] + bytes(len(whole) - half), "cut": whole[:half], "flip": b"?" + whole[1:]}[damage]
    )
    again = cluster(path, tmp_path / "cut", 16, n_iter=3)
    assert np.array_equal(again["index"], clean["index"])
    assert np.array_equal(again["centroids"], clean["centroids"])
