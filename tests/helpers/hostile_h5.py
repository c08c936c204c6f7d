"""HDF5 files that nobody should trust, as HDF5 itself can be made to write them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

D = 16
SHAPE = (8, 8, D)
BYTES = 64 * D * 4
Build = Callable[[h5py.File, Path], None]
HOSTILE: dict[str, Build] = {}
"""What each does to a sound file, given the folder that it lies in."""


def hostile(build: Build) -> Build:
    HOSTILE[build.__name__] = build
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
