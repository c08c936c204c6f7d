"""Weight files, checked before PyTorch reads them: what is in them is described by a pickle, which is followed here
without calling anything. Standard library only.

PyTorch's restricted unpickler runs no foreign code, but it builds what it is told: sparse, quantized and meta tensors,
views of 10^12 elements over one, buffers of any size. Here a file may hold dense tensors of plain types, each of them
inside a storage that the file really contains, and plain containers, numbers and texts around them.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .safe_zip import check_archive, read_member

MOST_PICKLE: Final = 4 << 20
"""Bytes; 805 tensors with their optimizer's state need 0.3 MB."""
LONGEST_NAME: Final = 512
MOST_DIMENSIONS: Final = 16
ITEM_SIZES: Final = {
    "DoubleStorage": 8, "FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2, "LongStorage": 8,
    "IntStorage": 4, "ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1,
}  # fmt: skip
"""Bytes of one element, by the name that PyTorch gives the storage of that type."""
STORAGE: Final = re.compile(r"torch\.(cuda\.)?(\w+Storage)")
DTYPES: Final = frozenset(
    f"torch.{name}"
    for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
)
LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL: Final = 1001


def check_weights(path: Path) -> None:
    """Raise ValueError, with the reason, unless ``path`` is a weight file that can be given to ``torch.load``."""
    with path.open("rb") as file:
        begin = file.read(4)
    if begin == b"PK\x03\x04":
        _check_zip(path)
    elif begin[:1] == b"\x80":
        _check_legacy(path)
    else:
        raise ValueError(f"it begins with {begin!a}, neither a zip archive nor a pickle")


def _check_zip(path: Path) -> None:
    """The format since PyTorch 1.6: NAME/data.pkl, and NAME/data/KEY for every storage."""
    members = check_archive(path)
    first = next(iter(members)).partition("/")[0]
    pickled = members.get(f"{first}/data.pkl")
    if pickled is None or any(name.partition("/")[0] != first for name in members):
        raise ValueError(f"the archive has no {first!a}/data.pkl, or files beside that folder")
    if pickled.size > MOST_PICKLE:
        raise ValueError(f"a description of {pickled.size} bytes")
    machine = _Machine()
    machine.run(io.BytesIO(read_member(path, pickled)))
    for key, storage in machine.storages.items():
        member = members.get(f"{first}/data/{key}")
        if member is None or member.size != storage.size:
            found = "nothing" if member is None else f"{member.size} bytes"
            raise ValueError(f"the storage {key!a} has {found}, {storage.size} are claimed")


def _check_legacy(path: Path) -> None:
    """The format before PyTorch 1.6: five pickles, then each storage: its number of elements, its bytes."""
    with path.open("rb") as file:
        text = io.BytesIO(file.read(MOST_PICKLE))
    if (_Machine().run(text), _Machine().run(text)) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise ValueError("a pickle, but not one of PyTorch")
    _Machine().run(text)  # of the machine that wrote it
    machine = _Machine()
    machine.run(text)
    keys = _Machine().run(text)
    if not isinstance(keys, list) or keys != list(dict.fromkeys(keys)) or set(keys) != set(machine.storages):
        raise ValueError("the list of storages is not that of the tensors")
    position, size = text.tell(), path.stat().st_size
    with path.open("rb") as file:
        for key in keys:
            storage = machine.storages[key]
            file.seek(position)
            if file.read(8) != struct.pack("<q", storage.numel):
                raise ValueError(f"the storage {key!a} has another number of elements than is claimed, or is cut off")
            position += 8 + storage.size
    if position != size:
        raise ValueError(f"{size} bytes are there, {position} are claimed")


@dataclass(frozen=True)
class _Global:
    """A name of a class or function: nothing but the name."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Elements of one type, in the file."""

    kind: str
    numel: int
    size: int
    """Bytes."""


class _Tensor:
    """A tensor that fits into its storage."""


class _Opaque:
    """A value that decides nothing."""


class _Machine:
    """Follows one pickle. Containers and plain values are what they are, all else stands for itself."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, text: io.BytesIO) -> Any:
        """The value of the pickle at the text's position, which moves behind it. Raises ValueError."""
        try:
            for code, argument, _ in pickletools.genops(text):
                if code.name == "STOP":
                    return self.stack.pop()
                step = STEPS.get(code.name)
                if step is None:
                    raise ValueError(f"the instruction {code.name}, which PyTorch does not write")
                step(self, argument)
        except (IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
            raise ValueError(f"a description that makes no sense ({type(error).__name__})") from error
        raise ValueError("a description without an end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            items = self.pop_mark()
        else:
            if len(self.stack) < count:
                raise IndexError
            items = self.stack[-count:]
            del self.stack[-count:]
        self.push(tuple(items))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict, Counter):
            raise TypeError
        target.update(_pairs(zip(items[::2], items[1::2], strict=True)))

    def build(self, _: Any) -> None:
        """Attributes of an object; a state_dict carries its modules' versions so."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not OrderedDict or type(state) is not dict:
            raise ValueError("attributes of something else than a state_dict")

    def reduce(self, _: Any) -> None:
        """A call: looked at, not made."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise TypeError
        self.push(CALLS[function.name](*arguments))

    def persistent(self, _: Any) -> None:
        """('storage', type, key, location, number of elements), and in old files a part of it or None."""
        what, kind, key, location, numel, *view = self.stack.pop()
        if what != "storage" or type(kind) is not _Global or type(key) is not str or type(location) is not str:
            raise ValueError("something else than a storage")
        name = kind.name.rpartition(".")[2]
        if name not in ITEM_SIZES:
            raise ValueError(f"a storage of type {kind.name[:100]!a}; known are {', '.join(ITEM_SIZES)}")
        if len(key) > LONGEST_NAME or location.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"a storage {key[:100]!a} on {location[:100]!a}")
        storage = _Storage(name, _count(numel), _count(numel) * ITEM_SIZES[name])
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f"the storage {key!a} with two sizes or types")
        if view and view[0] is not None:
            _, offset, length = view[0]
            if _count(offset) + _count(length) > storage.numel:
                raise ValueError(f"a view beyond the storage {key!a}")
            storage = _Storage(name, length, length * ITEM_SIZES[name])
        self.push(storage)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError("a size that is none")
    return value


def _pairs(items: Any) -> dict[Any, Any]:
    """Names and numbers only as keys: nested tuples could not even be hashed."""
    found = {}
    for key, value in items:
        if type(key) not in (str, int, float, bool) or (type(key) is str and len(key) > LONGEST_NAME):
            raise ValueError("a name that is neither a short text nor a number")
        found[key] = value
    return found


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    if type(storage) is not _Storage or type(size) is not tuple or type(stride) is not tuple:
        raise TypeError
    if len(size) > MOST_DIMENSIONS or len(size) != len(stride):
        raise ValueError(f"a tensor of {len(size)} dimensions")
    shape, steps = [_count(n) for n in size], [_count(n) for n in stride]
    elements = math.prod(shape)
    last = _count(offset) + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if elements and (last >= storage.numel or elements > storage.numel):
        raise ValueError(f"a tensor of shape {shape} in a storage of {storage.numel} elements")
    return _Tensor()


def _parameter(data: Any, *_: Any) -> _Tensor:
    if type(data) is not _Tensor:
        raise TypeError
    return data


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict(_pairs(items))


def _counter(items: Any = None) -> Counter[Any]:
    return Counter(_pairs((items or {}).items()))


def _size(dimensions: Any) -> tuple[int, ...]:
    return tuple(_count(n) for n in dimensions)


def _name(text: str) -> _Global:
    module, _, rest = text.partition(" ")
    name = f"{module}.{rest}"
    if name not in CALLS and not STORAGE.fullmatch(name) and name not in DTYPES:
        raise ValueError(f"{name[:100]!a}, which dense tensors do not need")
    return _Global(name)


CALLS: Final[dict[str, Callable[..., Any]]] = {
    "collections.OrderedDict": _ordered,
    "collections.Counter": _counter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.Size": _size,
    "torch.device": lambda *_: _Opaque(),
    "_codecs.encode": lambda *_: _Opaque(),
}
"""What a file may call; the calls are looked at, not made."""

Step = Callable[[_Machine, Any], object]
STEPS: Final[dict[str, Step]] = {
    "PROTO": lambda m, version: None,
    "MARK": _Machine.mark,
    "GLOBAL": lambda m, text: m.push(_name(text)),
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "TUPLE": lambda m, _: m.tuple_of(None),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.stack.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "BINGET": lambda m, place: m.push(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.push(m.memo[place]),
    "BINPUT": lambda m, place: m.memo.__setitem__(place, m.stack[-1]),
    "LONG_BINPUT": lambda m, place: m.memo.__setitem__(place, m.stack[-1]),
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"), _Machine.push
    ),
}
"""The instructions of protocol 2 that PyTorch's restricted unpickler takes, but for those that make objects."""
