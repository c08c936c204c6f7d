"""Whether the names of an HDF5 group can be walked: HDF5 follows a tree that leads back into itself until it crashes.

A group of the classic form, which all files of this kit and the published ones have, keeps its names in a tree of nodes
(``TREE``), whose leaves are lists of names (``SNOD``). Here the nodes are followed first, each once, level by level
downwards, their neighbours compared; those of one level are asked for together, since a server far away answers a
hundred questions as soon as one. Groups of the newer form keep no such tree. Standard library only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

NOWHERE: Final = 0xFFFFFFFFFFFFFFFF
"""The address of nothing."""
NODE: Final = struct.Struct("<4sBBHQQ")
"""TREE, kind (0: of a group), level above the lists, children, left and right neighbour."""
MESSAGE: Final = struct.Struct("<HHB3x")
"""Kind and size of one message of an object's header, flags."""
CONTINUATION, SYMBOL_TABLE = 0x10, 0x11
MOST_BLOCKS: Final = 64
"""Pieces of one object's header."""


Pread = Callable[[Sequence[tuple[int, int]]], list[bytes]]
"""Reads pieces of a file, each (offset, bytes); a piece that lies beyond the end is cut off. Raises OSError."""


class Looped(ValueError):
    """The tree of a group is no tree."""


def check_group(read: Pread, end: int, base: int, header: int) -> None:
    """Raise Looped unless the tree of the group whose header lies at ``base + header`` of a file of ``end`` bytes is
    one. OSError as ``read`` gives it."""
    tree = next(_trees(read, base, header), None)
    if tree is not None:
        _check(read, end, base, tree)


def _check(read: Pread, end: int, base: int, top: int) -> None:
    seen: set[int] = set()
    level, nodes = None, [top]
    while nodes:
        for address in nodes:
            if address in seen or not 0 <= address < end:
                raise Looped(f"node {address:#x} of its tree of names is met twice, or lies outside of the file")
            seen.add(address)
        heads = read([(base + address, NODE.size) for address in nodes])
        level, counts = _level(nodes, heads, level)
        nodes = _below(read, base, nodes, counts) if level else []
        level -= 1


def _level(nodes: list[int], heads: list[bytes], expected: int | None) -> tuple[int, list[int]]:
    """The level above the lists of names that all of these neighbours are on, and how many children each has."""
    counts = []
    for place, (address, head) in enumerate(zip(nodes, heads, strict=True)):
        if len(head) < NODE.size or head[:4] != b"TREE":
            raise Looped(f"node {address:#x} of its tree of names is none")
        _, kind, height, children, left, right = NODE.unpack(head)
        neighbours = (
            nodes[place - 1] if place else NOWHERE,
            nodes[place + 1] if place + 1 < len(nodes) else NOWHERE,
        )
        if kind or (expected is not None and height != expected) or (left, right) != neighbours:
            raise Looped(f"node {address:#x} of its tree of names does not fit to those around it")
        expected = height
        counts.append(children)
    assert expected is not None
    return expected, counts


def _below(read: Pread, base: int, nodes: list[int], counts: list[int]) -> list[int]:
    """Addresses of all children."""
    lists = read([(base + address + NODE.size, 16 * n) for address, n in zip(nodes, counts, strict=True)])
    below: list[int] = []
    for address, children, entries in zip(nodes, counts, lists, strict=True):
        if len(entries) < 16 * children:
            raise Looped(f"node {address:#x} of its tree of names is cut off")
        below += struct.unpack(f"<{2 * children}Q", entries)[1::2]
    return below


def _trees(read: Pread, base: int, header: int) -> Iterator[int]:
    """Addresses of the trees of a classic group: one; none for other objects."""
    (begin,) = read([(base + header, 16)])
    if len(begin) < 16 or begin[0] != 1:  # the newer form begins with "OHDR"
        return
    blocks = [(header + 16, struct.unpack_from("<I", begin, 8)[0])]
    for address, size in blocks:
        (data,) = read([(base + address, min(size, 1 << 20))])
        at = 0
        while at + MESSAGE.size <= len(data):
            kind, length, _ = MESSAGE.unpack_from(data, at)
            at += MESSAGE.size
            if kind in (CONTINUATION, SYMBOL_TABLE) and at + 16 <= len(data):
                first, second = struct.unpack_from("<QQ", data, at)
                if kind == SYMBOL_TABLE:
                    yield first
                elif len(blocks) < MOST_BLOCKS:
                    blocks.append((first, second))
            at += length
