"""Weight files made to harm: refused in one line, soon, without memory; and that sound ones of any kind are read."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.within_bounds import outcome

from feature_extraction.detector.checkpoint import read_tensors

# --- pickles by hand -------------------------------------------------------------------------------------

NONE, FALSE, EMPTY_DICT, REDUCE, STOP = b"N", b"\x89", b"}", b"R", b"."
ORDERED = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def several(*values: bytes) -> bytes:
    return b"(" + b"".join(values) + b"t"


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def called(module: str, function: str, *arguments: bytes) -> bytes:
    return name(module, function) + several(*arguments) + REDUCE


def storage(numel: int = 6, key: str = "0", kind: str = "FloatStorage", location: str = "cpu", *more: bytes) -> bytes:
    return several(text("storage"), name("torch", kind), text(key), text(location), number(numel), *more) + b"Q"


def tensor(
    of: bytes | None = None, offset: int = 0, shape: tuple[int, ...] = (2, 3), stride: tuple[int, ...] = (3, 1)
) -> bytes:
    sizes = (several(*map(number, shape)), several(*map(number, stride)))
    return called("torch._utils", "_rebuild_tensor_v2", of or storage(), number(offset), *sizes, FALSE, ORDERED)


def document(value: bytes) -> bytes:
    """{"model": {"weight": value}}, protocol 2."""
    inner = EMPTY_DICT + b"(" + text("weight") + value + b"u"
    return b"\x80\x02" + EMPTY_DICT + b"(" + text("model") + inner + b"u" + STOP


NUMBERS = np.arange(6, dtype=np.float32).tobytes()


def zipped(
    path: Path, described: bytes, storages: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED
) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", described)
        archive.writestr("archive/byteorder", b"little")
        for key, content in ({"0": NUMBERS} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", b"3\n")


def of(value: bytes, storages: dict[str, bytes] | None = None) -> Callable[[Path], None]:
    """An archive with this value in place of a tensor."""
    return lambda path: zipped(path, document(value), storages)


def edited(change: Callable[[bytearray], Any]) -> Callable[[Path], None]:
    """A sound archive whose bytes are changed."""

    def write(path: Path) -> None:
        zipped(path, document(tensor()))
        content = bytearray(path.read_bytes())
        change(content)
        path.write_bytes(content)

    return write


def put(signature: bytes, offset: int, form: str, value: int) -> Callable[[Path], None]:
    """A number in the last header that begins with ``signature``."""
    return edited(lambda c: struct.pack_into(form, c, c.rindex(signature) + offset, value))


CENTRAL, LOCAL, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"


def added(*members: tuple[str, bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        zipped(path, document(tensor()))
        with zipfile.ZipFile(path, "a") as archive:
            for member, content in members:
                archive.writestr(member, content)

    return write


def deep(levels: int) -> bytes:
    """A tuple in a tuple in a tuple ..., as a key: hashing it needs the stack."""
    return EMPTY_DICT + b")" + b"\x85" * levels + NONE + b"s"


def bomb(path: Path) -> None:
    zipped(path, document(tensor(storage(10**9))), {"0": bytes(4 * 10**6) * 100}, zipfile.ZIP_DEFLATED)


ZIPPED: dict[str, tuple[Callable[[Path], Any], str]] = {
    # the archive
    "compressed": (lambda p: zipped(p, document(tensor()), method=zipfile.ZIP_DEFLATED), "is compressed"),
    "a bomb": (bomb, "is compressed"),
    "a flipped bit in a tensor": (edited(lambda c: c.__setitem__(c.index(NUMBERS) + 5, 255)), "CRC-32"),
    "another checksum": (put(CENTRAL, 16, "<I", 12345), "CRC-32"),
    "encrypted": (put(CENTRAL, 8, "<H", 1), "encrypted"),
    "bytes behind it": (edited(lambda c: c.extend(b"more")), "damaged|does not end where it should"),
    "a comment": (edited(lambda c: (c.__setitem__(slice(-2, None), b"\4\0"), c.extend(b"more"))), "does not end"),
    "bytes before it": (edited(lambda c: c.__setitem__(slice(0, 0), LOCAL + bytes(60))), "lies over|damaged|beyond"),
    "half of it": (edited(lambda c: c.__delitem__(slice(len(c) // 2, None))), "damaged"),
    "a list without end": (put(END, 12, "<I", 4_000_000_000), "damaged"),
    "many files": (put(END, 10, "<H", 65_000), "damaged|CRC|no sense|claimed|data.pkl|archive"),
    "two members in one place": (put(CENTRAL, 42, "<I", 0), "lies over another"),
    "a member beyond the end": (put(CENTRAL, 42, "<I", 10**9), "damaged|beyond"),
    "a longer member": (put(CENTRAL, 24, "<I", 10**9), "compressed|beyond"),
    "another name in the local header": (
        edited(lambda c: c.__setitem__(c.index(b"archive/data/0"), ord("x"))),
        "damaged",
    ),
    "a member twice": (added(("archive/data/0", NUMBERS)), "twice"),
    "a member twice but for its case": (added(("archive/DATA.pkl", document(tensor()))), "twice"),
    "a second folder": (added(("other/data.pkl", document(tensor()))), "files beside that folder"),
    "no description": (lambda p: zipfile.ZipFile(p, "w").writestr("archive/data/0", NUMBERS), "no|damaged"),
    "a large description": (of(text("x" * (5 << 20))), "a description of 5242"),
    # the storages
    "a storage that is not there": (of(tensor(), {}), "has nothing"),
    "a short storage": (of(tensor(), {"0": NUMBERS[:-4]}), "has 20 bytes, 24 are claimed"),
    "a long storage": (of(tensor(), {"0": NUMBERS + NUMBERS}), "has 48 bytes, 24 are claimed"),
    "a storage of 10^12 elements": (of(tensor(storage(10**12))), "has 24 bytes, 4000000000000 are claimed"),
    "a storage of 2^60 elements": (of(tensor(storage(2**60))), "a size that is none"),
    "a storage of -1 elements": (of(tensor(storage(-1))), "a size that is none"),
    "a storage under a path": (of(tensor(storage(key="../../x"))), "has nothing"),
    "a complex storage": (of(tensor(storage(3, kind="ComplexFloatStorage"))), "a storage of type"),
    "a quantized storage": (of(tensor(storage(6, kind="QInt8Storage")), {"0": bytes(6)}), "a storage of type"),
    "a storage on meta": (of(tensor(storage(location="meta"))), "on 'meta'"),
    "one storage, two sizes": (of(several(tensor(), tensor(storage(5)))), "two sizes"),
    "no storage": (of(several(text("module"), NONE, text("0"), text("cpu"), number(1)) + b"Q"), "else than a storage"),
    # the tensors
    "a view of 10^12 elements": (of(tensor(shape=(10**6, 10**6), stride=(0, 0))), "in a storage of 6 elements"),
    "beyond the storage": (of(tensor(offset=1)), "in a storage of 6 elements"),
    "far beyond the storage": (of(tensor(stride=(2**40, 1))), "in a storage of 6 elements"),
    "a negative size": (of(tensor(shape=(-2, 3))), "a size that is none"),
    "a negative stride": (of(tensor(stride=(-3, 1))), "a size that is none"),
    "two sizes, one stride": (of(tensor(stride=(1,))), "2 dimensions"),
    "100 dimensions": (of(tensor(shape=(1,) * 100, stride=(1,) * 100)), "100 dimensions"),
    "a tensor of no storage": (of(called("torch._utils", "_rebuild_tensor_v2", NONE)), "no sense"),
    "sparse": (of(called("torch._utils", "_rebuild_sparse_tensor", NONE, NONE)), "_rebuild_sparse_tensor"),
    "quantized": (of(called("torch._utils", "_rebuild_qtensor", NONE)), "_rebuild_qtensor"),
    "meta": (of(called("torch._utils", "_rebuild_meta_tensor_no_storage", NONE)), "_rebuild_meta_tensor"),
    "nested": (of(called("torch._utils", "_rebuild_nested_tensor", NONE)), "_rebuild_nested_tensor"),
    # what else a description can say
    "a command": (of(called("os", "system", text("touch harmed"))), "os.system"),
    "a command of another kind": (of(name("builtins", "eval") + several(text("1")) + b"\x81"), "builtins.eval"),
    "ten gigabytes": (of(called("builtins", "bytearray", number(10**10))), "builtins.bytearray"),
    "a name that moves the cursor": (of(name("torch", "\x1b[2J")), "x1b"),
    "a nested name": (of(deep(200_000)), "neither a short text nor a number"),
    "a long name": (of(EMPTY_DICT + text("x" * 1000) + NONE + b"s"), "neither a short text nor a number"),
    "attributes of a tensor": (of(tensor() + EMPTY_DICT + b"b"), "attributes of something else"),
    "an instruction of another protocol": (of(b"\x96" + struct.pack("<Q", 10**10)), "BYTEARRAY8|expected"),
    "a text of 4 GB": (of(b"X\xff\xff\xff\xff"), "expected 4294967295 bytes"),
    "no end": (lambda p: zipped(p, document(tensor())[:-1]), "pickle exhausted|without an end"),
    "an empty stack": (lambda p: zipped(p, b"\x80\x02R."), "no sense"),
    "a code archive": (added(("archive/constants.pkl", b"\x80\x02)."), ("archive/code/x.py", b"")), "TorchScript"),
}  # fmt: skip


def legacy(path: Path, numel: int = 6, keys: tuple[str, ...] = ("0",), behind: bytes | None = None) -> None:
    """The format before PyTorch 1.6."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    content = b"".join(pickle.dumps(value, 2) for value in head)
    content += document(tensor(storage(numel, "0", "FloatStorage", "cpu", NONE))) + pickle.dumps(list(keys), 2)
    path.write_bytes(content + (struct.pack("<q", 6) + NUMBERS if behind is None else behind))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for member in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(member), io.BytesIO())


OTHERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "legacy: 10^12 elements": (lambda p: legacy(p, 10**12), "another number of elements than is claimed"),
    "legacy: another number": (lambda p: legacy(p, behind=struct.pack("<q", 7) + NUMBERS), "another number of"),
    "legacy: cut off": (lambda p: legacy(p, behind=struct.pack("<q", 6) + NUMBERS[:9]), "bytes are there, "),
    "legacy: nothing behind it": (lambda p: legacy(p, behind=b""), "or is cut off"),
    "legacy: more behind it": (lambda p: legacy(p, behind=struct.pack("<q", 6) + NUMBERS + b"x"), "bytes are there, "),
    "legacy: another storage": (lambda p: legacy(p, keys=("1",)), "list of storages"),
    "legacy: a storage twice": (lambda p: legacy(p, keys=("0", "0")), "list of storages"),
    "legacy: a command": (lambda p: p.write_bytes(b"\x80\x02" + called("os", "system", text("x")) + STOP), "os.system"),
    "a plain pickle": (lambda p: p.write_bytes(pickle.dumps({"model": {}}, 2)), "exhausted"),
    "a new pickle": (lambda p: p.write_bytes(pickle.dumps({"model": {}}, 5)), "FRAME|not write"),
    "a tar archive": (tar, "neither a zip archive nor a pickle"),
    "zeros": (lambda p: p.write_bytes(bytes(1000)), "neither a zip archive nor a pickle"),
}  # fmt: skip
HOSTILE = ZIPPED | OTHERS


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("write", "reads"), HOSTILE.values(), ids=HOSTILE)
def test_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any], reads: str) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    write(path)
    said = outcome(read_tensors, path)
    assert said.startswith(f"CheckpointError: {path} cannot be read as PyTorch weights (")
    assert re.search(reads, said), said
    assert said.isprintable()
    assert [p.name for p in tmp_path.iterdir()] == ["model.pth"], "something was run"


def test_the_hand_made_files_are_sound_otherwise(tmp_path: Path) -> None:
    """So that each of the above is refused for its own reason."""
    zipped(tmp_path / "a.pth", document(tensor()))
    legacy(tmp_path / "b.pth")
    for path in tmp_path.iterdir():
        assert outcome(read_tensors, path) == "accepted"
        assert read_tensors(path)["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]


def state() -> dict[str, Any]:
    """Everything that training programs write."""
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    layer(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    whole = torch.randn(5, 4)
    model: dict[str, Any] = OrderedDict(layer.state_dict())
    model |= {
        "parameter": layer[0].weight,
        "transposed": whole.T,
        "part": whole[1:3, 2:],
        "strided": whole[::2],
        "shared": whole,
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 7),
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)},
        **{str(dtype): torch.ones(3).to(dtype) for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8)},
        "bool": torch.tensor([True, False]),
    }
    return {
        "model": model,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "iteration": 90_000,
        "notes": ["text", 1.5, None, True, (1, 2), torch.Size([3]), torch.float32, torch.device("cpu"), b"bytes"],
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_sound_files_of_every_kind_are_read(tmp_path: Path, zipped: bool) -> None:
    written = state()
    torch.save(written, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    found = read_tensors(tmp_path / "model.pth")
    assert found.keys() == written["model"].keys()
    for key, value in written["model"].items():
        assert found[key].dtype == value.dtype
        torch.testing.assert_close(found[key], value.detach(), rtol=0, atol=0)


def test_every_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """The description, the names, the sizes, the numbers: whatever byte is hit."""
    path = tmp_path / "model.pth"
    torch.save({"model": {"weight": torch.arange(6.0)}}, path)
    whole = path.read_bytes()
    padding = len(whole) // 40  # PyTorch aligns tensors with bytes that nobody reads
    assert padding

    def flipped() -> None:
        wrong = []
        for place in range(0, len(whole), 11):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
            try:
                found = read_tensors(path)
            except Exception as error:
                if type(error).__name__ != "CheckpointError":
                    wrong.append(f"{place}: {error!r}")
            else:
                if found["weight"].tolist() != [0, 1, 2, 3, 4, 5]:
                    wrong.append(f"{place}: {found}")
        assert not wrong, wrong

    assert outcome(flipped) == "accepted"
