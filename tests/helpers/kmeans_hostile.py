"""Feature files and results that nobody vouches for, and k-means run on each in a process of its own.

python kmeans_hostile.py FOLDER        prints JSON: case -> [how it ended, what it said, seconds, memory gained]
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
import warnings
import zipfile
from importlib import import_module
from pathlib import Path

import h5py
import numpy as np

DIM, GRID, K = 16, 8, 4
SECONDS = 20
"""After which a case hangs."""


def good(path: Path, images: int = 4) -> Path:
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for i in range(images):
            file[f"{i:06}/features"] = rng.random((GRID, GRID, DIM), np.float32)
    return path


# --- feature files: each function changes a good one -------------------------------------------------


def external_link(path: Path) -> None:
    good(path.with_name("other.h5"))
    with h5py.File(path, "r+") as file:
        file["zzz"] = h5py.ExternalLink("other.h5", "/000001")


def soft_link_to_a_sound_image(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["zzz"] = h5py.SoftLink("/000001")


def soft_links_in_a_circle(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["zzz"], file["yyy"] = h5py.SoftLink("/yyy"), h5py.SoftLink("/zzz")


def linked_features(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("zzz")["features"] = h5py.SoftLink("/000001/features")


def raw_file(path: Path) -> None:
    path.with_name("secret").write_bytes(b"\0\0\x80?" * (GRID * GRID * DIM))
    _external(path, "secret")


def raw_pipe(path: Path) -> None:
    pipe = path.with_name("pipe")
    if not pipe.exists():
        os.mkfifo(pipe)
    _external(path, "pipe")


def _external(path: Path, name: str) -> None:
    size = GRID * GRID * DIM * 4
    with h5py.File(path, "r+") as file:
        raw = [(str(path.with_name(name)), 0, size)]
        file.create_group("zzz").create_dataset("features", (GRID, GRID, DIM), "f4", external=raw)


def virtual_of_itself(path: Path) -> None:
    _virtual(path, ".", "zzz/features")


def virtual_of_another(path: Path) -> None:
    good(path.with_name("other.h5"))
    _virtual(path, str(path.with_name("other.h5")), "000001/features")


def _virtual(path: Path, source: str, name: str) -> None:
    layout = h5py.VirtualLayout((GRID, GRID, DIM), "f4")
    layout[:] = h5py.VirtualSource(source, name, (GRID, GRID, DIM))
    with h5py.File(path, "r+") as file:
        file.create_group("zzz").create_virtual_dataset("features", layout)


def claims_a_terabyte(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("0").create_dataset("features", (2**34, DIM), "f4", chunks=(1024, DIM))


def claims_what_was_never_written(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("0").create_dataset("features", (GRID, GRID, DIM), "f4", chunks=(1, 1, DIM))


def claims_contiguous_bytes_behind_the_end(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
        group = h5py.h5g.create(file.id, b"zzz")
        h5py.h5d.create(group, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((GRID, GRID, DIM)), made)


def no_rows(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["0/features"] = np.empty((0, DIM), np.float32)


def no_numbers(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("zzz").create_dataset("features", (GRID, GRID, DIM), h5py.string_dtype())


def a_scalar(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["zzz/features"] = np.float32(1)


def nested(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["zzz/1/features"] = file["000001/features"][()]


def an_array_at_the_top(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["image_ids"] = np.array([b"000001"])


def schema_version_of_three(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = np.arange(3)


def attribute_of_many(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["x"] = np.arange(3)


def name_that_is_no_text(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        space = h5py.h5s.create_simple((GRID, GRID, DIM))
        h5py.h5d.create(h5py.h5g.create(file.id, b"z\xff"), b"features", h5py.h5t.IEEE_F32LE, space)


def name_with_escape_codes(path: Path) -> None:
    """And a NaN, so that the message names the image."""
    with h5py.File(path, "r+") as file:
        file["z\x1b]0;owned\x07\x1b[2J\nerror: all is well/features"] = np.full((GRID, GRID, DIM), np.nan, np.float32)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def a_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_loop_of_links(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def flipped_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(96, 4096, 97):
        content[at] ^= 0x55
    path.write_bytes(bytes(content))


FILES = [
    external_link, soft_link_to_a_sound_image, soft_links_in_a_circle, linked_features, raw_file, raw_pipe,
    virtual_of_itself, virtual_of_another, claims_a_terabyte, claims_what_was_never_written,
    claims_contiguous_bytes_behind_the_end, no_rows, no_numbers, a_scalar, nested, an_array_at_the_top,
    schema_version_of_three, attribute_of_many, name_that_is_no_text, name_with_escape_codes, cut_off, a_web_page,
    empty, a_pipe, a_folder, a_loop_of_links, flipped_bytes,
]  # fmt: skip


# --- results: what load_vocabulary is given ----------------------------------------------------------


def header(text: bytes) -> bytes:
    text = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


CENTROIDS = {
    "npy that claims a terabyte": header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (4, 68719476736), }"),
    "npy whose header is a program": header(b"__import__('os').system('touch owned')"),
    "npy of objects": header(b"{'descr': '|O', 'fortran_order': False, 'shape': (4,), }") + b"cos\nsystem\n(S'id'\ntR.",
    "npy of negative size": header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 16), }"),
    "npy of a deep header": header(b"(" * 5000),
    "npy of no header": b"\x93NUMPY\x01\x00",
    "npy that is a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "npy that is empty": b"",
}


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return out.getvalue()


def array(values: object) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        head = header(b"{'descr': '<i8', 'fortran_order': False, 'shape': (33554432, 8), }")
        file.writestr("image_ids.npy", array(np.array(["1"])))
        file.writestr("cluster_ids.npy", head + bytes(1 << 28))
    return out.getvalue()


IDS = array(np.array(["1", "2"]))
CLUSTERS = {
    "npz that claims a terabyte": archive(
        image_ids=IDS, cluster_ids=header(b"{'descr': '<i8', 'fortran_order': False, 'shape': (2, 68719476736), }")
    ),
    "npz whose zeros unpack to 0.3 GB": bomb(),
    "npz of other lengths": archive(image_ids=IDS, cluster_ids=array(np.zeros((3, 64), np.int64))),
    "npz of other numbers": archive(image_ids=IDS, cluster_ids=array(np.zeros((2, 64)))),
    "npz of unknown clusters": archive(image_ids=IDS, cluster_ids=array(np.full((2, 64), K))),
    "npz of negative clusters": archive(image_ids=IDS, cluster_ids=array(np.full((2, 64), -1))),
    "npz without clusters": archive(image_ids=IDS),
    "npz of characters beyond Unicode": archive(
        image_ids=header(b"{'descr': '<U1', 'fortran_order': False, 'shape': (2,), }") + b"\xff" * 8,
        cluster_ids=array(np.zeros((2, 64), np.int64)),
    ),
    "npz that is a pickle": b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    "npz that is cut": archive(image_ids=IDS, cluster_ids=array(np.zeros((2, 64), np.int64)))[:-30],
    "npz that is encrypted": archive(image_ids=IDS).replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    ),
}  # fmt: skip


# --- running -------------------------------------------------------------------------------------------


def cluster(folder: Path, path: Path) -> int:
    from kmeans.cli import main

    return main(
        [
            *(f"--src={path}", "--tgt", str(path), f"--n_centroids={K}", "--n_iter=1", f"--feat_dim={DIM}"),
            *("--datasets_dir", str(folder / "results"), "--memory=1.5", "--verbose=no"),
        ]
    )


def load(centroids: Path, clusters: Path) -> int:
    from feature_extraction.errors import VocabularyError
    from kmeans import load_vocabulary

    try:
        load_vocabulary(centroids, {"target": clusters})
    except VocabularyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def in_a_child(do, *arguments) -> list[object]:
    """How a call ended (0 taken, 1 refused, "hangs", ...), what it said, its seconds, the memory it gained (bytes)."""
    read, write = os.pipe()
    began = time.perf_counter()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(SECONDS)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        said, code = io.StringIO(), "an exception"
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                code = do(*arguments)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
        gained = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        os.write(write, json.dumps([code, said.getvalue(), gained]).encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        answer = file.read()
    _, status = os.waitpid(child, 0)
    seconds = time.perf_counter() - began
    if os.WIFSIGNALED(status):
        name = "hangs" if os.WTERMSIG(status) == signal.SIGALRM else f"signal {os.WTERMSIG(status)}"
        return [name, "", seconds, 0]
    code, said, gained = json.loads(answer)
    return [code, said, seconds, gained]


def main(folder: Path) -> None:
    for module in ("faiss", "kmeans.pipeline", "kmeans.vocabulary"):
        import_module(module)  # before the children are made, which measure what they gain
    warnings.simplefilter("ignore")
    found = {"sound": in_a_child(cluster, folder, good(folder / "sound.h5"))}
    for change in FILES:
        path = good(folder / f"{change.__name__}.h5")
        change(path)
        found[change.__name__] = in_a_child(cluster, folder, path)
    centroids, clusters = folder / "centroids.npy", folder / "clusters.npz"
    clusters.write_bytes(archive(image_ids=IDS, cluster_ids=array(np.zeros((2, 64), np.int64))))
    for name, content in CENTROIDS.items():
        centroids.write_bytes(content)
        found[name] = in_a_child(load, centroids, clusters)
    centroids.write_bytes(array(np.random.default_rng(0).random((K, DIM), np.float32)))
    found["sound vocabulary"] = in_a_child(load, centroids, clusters)
    for name, content in CLUSTERS.items():
        clusters.write_bytes(content)
        found[name] = in_a_child(load, centroids, clusters)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
