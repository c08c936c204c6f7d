"""HDF5 files that nobody should trust, and what reading each of them comes to.

    python -m helpers.hostile_h5 FOLDER

writes them into FOLDER, reads each as k-means and others do in a child that may take 12 seconds and 1 GB of
memory, and prints as JSON what each way came to: "StoreError: ...", "read", "findings: ...", or what must not be.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

D = 16
SHAPE = (8, 8, D)
BYTES = 64 * D * 4
Build = Callable[[h5py.File, Path], None]
HOSTILE: dict[str, Build] = {}
RAW: dict[str, Callable[[Path], None]] = {}
"""Built without HDF5, or changed behind its back."""


def hostile(build: Build) -> Build:
    HOSTILE[build.__name__] = build
    return build


def raw(build: Callable[[Path], None]) -> Callable[[Path], None]:
    RAW[build.__name__] = build
    return build


def sound(path: Path, images: int = 3) -> None:
    with h5py.File(path, "w") as file:
        for n in range(images):
            file[f"{n:03}/features"] = np.random.default_rng(n).random(SHAPE, dtype=np.float32)


# --- storage outside the file ---------------------------------------------------------------------------------


@hostile
def external_raw_file(f: h5py.File, w: Path) -> None:
    (w / "secret").write_bytes(b"\0\0\x80?" * (64 * D))
    f.create_group("zzz").create_dataset("features", SHAPE, "f4", external=[(str(w / "secret"), 0, BYTES)])


@hostile
def external_pipe(f: h5py.File, w: Path) -> None:
    os.mkfifo(w / "pipe")
    f.create_group("zzz").create_dataset("features", SHAPE, "f4", external=[(str(w / "pipe"), 0, BYTES)])


@hostile
def external_device(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, "f4", external=[("/dev/zero", 0, BYTES)])


@hostile
def external_environment(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, "f4", external=[("/proc/self/environ", 0, BYTES)])


@hostile
def virtual_of_itself(f: h5py.File, w: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource(".", "zzz/features", SHAPE)
    f.create_group("zzz").create_virtual_dataset("features", layout)


@hostile
def virtual_of_another(f: h5py.File, w: Path) -> None:
    sound(w / "other.h5")
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource(str(w / "other.h5"), "000/features", SHAPE)
    f.create_group("zzz").create_virtual_dataset("features", layout)


# --- links ----------------------------------------------------------------------------------------------------


@hostile
def external_link(f: h5py.File, w: Path) -> None:
    sound(w / "linked.h5")
    f["zzz"] = h5py.ExternalLink(str(w / "linked.h5"), "/000")


@hostile
def external_link_to_an_array(f: h5py.File, w: Path) -> None:
    sound(w / "linked.h5")
    f.create_group("zzz")["features"] = h5py.ExternalLink(str(w / "linked.h5"), "/000/features")


@hostile
def external_link_to_a_pipe(f: h5py.File, w: Path) -> None:
    os.mkfifo(w / "pipe.h5")
    f["zzz"] = h5py.ExternalLink(str(w / "pipe.h5"), "/")


@hostile
def soft_links_in_a_ring(f: h5py.File, w: Path) -> None:
    f["zzz"], f["yyy"] = h5py.SoftLink("/yyy"), h5py.SoftLink("/zzz")


@hostile
def soft_link_to_nothing(f: h5py.File, w: Path) -> None:
    f["zzz"] = h5py.SoftLink("/nothing")


@hostile
def soft_link_to_an_array(f: h5py.File, w: Path) -> None:
    f.create_group("zzz")["features"] = h5py.SoftLink("/000/features")


@hostile
def group_that_holds_the_root(f: h5py.File, w: Path) -> None:
    f["zzz"] = f["/"]


@hostile
def array_that_is_a_group(f: h5py.File, w: Path) -> None:
    f.create_group("zzz/features")


@hostile
def array_that_is_the_root(f: h5py.File, w: Path) -> None:
    f.create_group("zzz")["features"] = f["/"]


@hostile
def image_that_is_a_type(f: h5py.File, w: Path) -> None:
    f["zzz"] = np.dtype("f4")


@hostile
def array_that_is_a_type(f: h5py.File, w: Path) -> None:
    f["zzz/features"] = np.dtype("f4")


@hostile
def ten_thousand_arrays_in_one_image(f: h5py.File, w: Path) -> None:
    group = f["000"]
    for n in range(10_000):
        group[f"link{n}"] = group["features"]


@hostile
def names_that_are_no_text(f: h5py.File, w: Path) -> None:
    group = h5py.h5g.create(f.id, b"z\xff")
    h5py.h5d.create(group, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(SHAPE))


@hostile
def a_name_of_a_megabyte(f: h5py.File, w: Path) -> None:
    f["z" * (1 << 20)] = h5py.SoftLink("/000")


@hostile
def terminal_codes_in_a_name(f: h5py.File, w: Path) -> None:
    f.create_group("\x1b[2J\nroot@host# ")


# --- claims -----------------------------------------------------------------------------------------------------


@hostile
def chunks_that_are_not_there(f: h5py.File, w: Path) -> None:
    f.create_group("000000").create_dataset("features", (2**30, D), "f4", chunks=(1024, D))


@hostile
def an_array_that_is_not_there(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", (2**34, D), "f4")


@hostile
def a_small_array_that_is_not_there(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, "f4")


@hostile
def a_gigabyte_of_zeros_in_a_megabyte(f: h5py.File, w: Path) -> None:
    data = f.create_group("zzz").create_dataset(
        "features", (1 << 28,), "f4", chunks=(1 << 22,), compression="gzip", compression_opts=1
    )
    for n in range(0, 1 << 28, 1 << 26):
        data[n : n + (1 << 22)] = 0


@hostile
def one_block_of_four_gigabytes(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, "f4", chunks=(8192, 8192, 15), maxshape=(None, None, None))


@hostile
def a_shape_that_overflows(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", (2**31, 2**31, 2**31), "f4", chunks=(1, 1, 1))


@hostile
def a_filter_that_a_plugin_brings(f: h5py.File, w: Path) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((8, 8, D))
    made.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    h5py.h5d.create(f.create_group("zzz").id, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(SHAPE), made)


# --- types ---------------------------------------------------------------------------------------------------------


@hostile
def texts_of_any_length(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, h5py.string_dtype())


@hostile
def references(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, h5py.ref_dtype)


@hostile
def lists_of_any_length(f: h5py.File, w: Path) -> None:
    f.create_group("zzz").create_dataset("features", SHAPE, h5py.vlen_dtype(np.float32))


@hostile
def records(f: h5py.File, w: Path) -> None:
    f["zzz/features"] = np.zeros(SHAPE, np.dtype([("a", "f4"), ("b", "f4")]))


@hostile
def no_shape_at_all(f: h5py.File, w: Path) -> None:
    f["zzz/features"] = h5py.Empty("f4")


# --- attributes ----------------------------------------------------------------------------------------------------


@hostile
def version_that_is_a_list(f: h5py.File, w: Path) -> None:
    f.attrs["schema_version"] = np.arange(3)


@hostile
def version_that_is_a_text(f: h5py.File, w: Path) -> None:
    f.attrs["schema_version"] = "one"


@hostile
def attribute_that_is_a_list(f: h5py.File, w: Path) -> None:
    f.attrs["x"] = np.arange(3)


@hostile
def attribute_that_is_a_reference(f: h5py.File, w: Path) -> None:
    f.attrs["x"] = f["000"].ref


@hostile
def attribute_that_is_empty(f: h5py.File, w: Path) -> None:
    f.attrs["x"] = h5py.Empty("f4")


@hostile
def attribute_of_many_megabytes(f: h5py.File, w: Path) -> None:
    with h5py.File(w / "late.h5", "w", libver="latest") as late:
        late.attrs["x"] = np.zeros(1 << 24)
        late["000/features"] = np.zeros(SHAPE, np.float32)
    (w / "replace").write_text("late.h5")


@hostile
def a_thousand_attributes(f: h5py.File, w: Path) -> None:
    for n in range(1000):
        f.attrs[f"x{n}"] = n


@hostile
def checksums_that_are_no_json(f: h5py.File, w: Path) -> None:
    f["000"].attrs["crc32"] = np.bytes_(b"[" * 60_000)


@hostile
def checksums_of_another_image(f: h5py.File, w: Path) -> None:
    f["000"].attrs["crc32"] = np.bytes_(json.dumps({"id": "001", "arrays": {"features": 0}, "source": None}))


# --- not HDF5, or changed behind its back --------------------------------------------------------------------------


@raw
def empty_file(path: Path) -> None:
    path.touch()


@raw
def a_web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


@raw
def a_pointer_of_git_lfs(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 43402656768\n")


@raw
def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@raw
def a_folder(path: Path) -> None:
    path.mkdir()


@raw
def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@raw
def cut_in_half(path: Path) -> None:
    sound(path)
    os.truncate(path, path.stat().st_size // 2)


@raw
def only_the_signature(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(88))


@raw
def signature_and_noise(path: Path) -> None:
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(5000))


@raw
def a_tree_that_is_its_own_neighbour(path: Path) -> None:
    """Whoever walks the names of the root by their nodes walks for ever."""
    sound(path, 200)
    data = bytearray(path.read_bytes())
    at = data.find(b"TREE")
    while at >= 0:
        struct.pack_into("<QQ", data, at + 8, at, at)  # left and right sibling
        at = data.find(b"TREE", at + 1)
    path.write_bytes(data)


@raw
def a_tree_that_is_its_own_child(path: Path) -> None:
    sound(path, 200)
    data = bytearray(path.read_bytes())
    at = data.find(b"TREE")
    while at >= 0:
        data[at + 5] = 1  # level
        struct.pack_into("<Q", data, at + 32, at)  # first child
        at = data.find(b"TREE", at + 1)
    path.write_bytes(data)


@raw
def an_image_whose_tree_is_its_own_child(path: Path) -> None:
    sound(path)
    data = bytearray(path.read_bytes())
    at = data.rfind(b"TREE")
    data[at + 5] = 1
    struct.pack_into("<Q", data, at + 32, at)
    path.write_bytes(data)


@raw
def a_text_attribute_of_four_gigabytes(path: Path) -> None:
    """The length of a text of any length, and the size of the heap it lies in, are whatever the file says."""
    sound(path)
    with h5py.File(path, "a") as file:
        file.attrs["dataset"] = "X" * 23
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack("<I", 23))
    while at >= 0:
        struct.pack_into("<I", data, at, 0xFFFFFFF0)
        at = data.find(struct.pack("<I", 23), at + 1)
    path.write_bytes(data)


@raw
def a_heap_of_sixteen_exabytes(path: Path) -> None:
    sound(path)
    with h5py.File(path, "a") as file:
        file.attrs["dataset"] = "X" * 23
    data = bytearray(path.read_bytes())
    for kind in (b"GCOL", b"HEAP"):
        at = data.find(kind)
        while at >= 0:
            struct.pack_into("<Q", data, at + 8, 0x7FFFFFFFFFFFFFF0)
            at = data.find(kind, at + 1)
    path.write_bytes(data)


@raw
def arrays_behind_the_end_of_the_file(path: Path) -> None:
    sound(path)
    with h5py.File(path) as file:
        offset = file["000/features"].id.get_offset()
    data = path.read_bytes().replace(struct.pack("<Q", offset), struct.pack("<Q", 1 << 40))
    path.write_bytes(data)


# --- reading ------------------------------------------------------------------------------------------------------


def as_readers_do(path: Path) -> str:
    """Open, list, provenance, every array of every image."""
    from feature_extraction.storage import store

    with store.open_features(path) as file:
        store.provenance(file)
        for image_id in store.image_ids(file):
            store.source_of(file, image_id)
            store.checksums_of(file, image_id)
            store.read_array(store.features_of(file, image_id))
            store.read_image(file, image_id)
    return "read"


def as_check_does(path: Path) -> str:
    from feature_extraction.storage.check import check_file

    return "findings: " + "; ".join(f"{f.level} {f.text}" for f in check_file(path))


def as_extending_does(path: Path) -> str:
    from helpers.storing import IDENTITY

    from feature_extraction.storage.output import Output

    Output(path, IDENTITY, {}).close()
    return "read"


def as_kmeans_does(path: Path) -> str:
    from kmeans.vectors import FeatureFile

    with FeatureFile(path, dim=D, grid_size=8) as file:
        file.read(0, file.count, np.empty((file.count, D), np.float32))
    return "read"


WAYS = (as_readers_do, as_check_does, as_extending_does, as_kmeans_does)


def build(folder: Path) -> Iterator[tuple[str, Path]]:
    for name, change in HOSTILE.items():
        place = folder / name
        place.mkdir()
        path = place / "f.h5"
        sound(path)
        # what a program that trusts the file would do here could take this one down with it
        if os.fork() == 0:
            with h5py.File(path, "r+") as file:
                change(file, place)
            os._exit(0)
        assert os.wait()[1] == 0, name
        if (place / "replace").exists():
            path = place / (place / "replace").read_text()
        yield name, path
    for name, make in RAW.items():
        place = folder / name
        place.mkdir()
        make(place / "f.h5")
        yield name, place / "f.h5"


def outcome(way: Callable[[Path], str], path: Path) -> str:
    """What reading comes to, in a child of its own."""
    from feature_extraction.errors import KitError

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(12)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
        try:
            said = way(path)
        except KitError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException as error:
            said = f"TRACEBACK {type(error).__name__}: {error}"
        with contextlib.suppress(BaseException):
            os.write(writing, said.encode("utf-8", "backslashreplace")[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "HANGS" if os.WTERMSIG(status) == signal.SIGALRM else f"SIGNAL {os.WTERMSIG(status)}"
    return said


def main() -> int:
    folder = Path(sys.argv[1])
    results: dict[str, dict[str, Any]] = {}
    for name, path in build(folder):
        results[name] = {way.__name__: outcome(way, path) for way in WAYS}
    print(json.dumps(results))
    return 0


def run(folder: Path) -> dict[str, dict[str, str]]:
    """All of it, in a process of its own."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "helpers.hostile_h5", str(folder)],
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    return json.loads(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
