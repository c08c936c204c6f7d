"""Whether the names of an HDF5 group can be walked: HDF5 follows a tree that leads back into itself until it crashes.

A group of the classic form, which all files of this kit and the published ones have, keeps its names in a tree of nodes
(``TREE``), whose leaves are lists of names (``SNOD``). Here the nodes are followed first, each once, level by level
downwards, their neighbours compared. Groups of the newer form keep no such tree. Standard library only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
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


class Looped(ValueError):
    """The tree of a group is no tree."""


def check_group(fd: int, base: int, header: int) -> None:
    """Raise Looped unless the tree of the group whose header lies at ``base + header`` is one. OSError as the system
    gives it."""
    tree = next(_trees(fd, base, header), None)
    if tree is not None:
        _check(fd, base, tree)


def _check(fd: int, base: int, top: int) -> None:
    end = os.fstat(fd).st_size
    seen: set[int] = set()
    level, nodes = None, [top]
    while nodes:
        below: list[int] = []
        for place, address in enumerate(nodes):
            if address in seen or not 0 <= address < end:
                raise Looped(f"node {address:#x} of its tree of names is met twice, or lies outside of the file")
            seen.add(address)
            head = os.pread(fd, NODE.size, base + address)
            if len(head) < NODE.size or head[:4] != b"TREE":
                raise Looped(f"node {address:#x} of its tree of names is none")
            _, kind, height, children, left, right = NODE.unpack(head)
            neighbours = (
                nodes[place - 1] if place else NOWHERE,
                nodes[place + 1] if place + 1 < len(nodes) else NOWHERE,
            )
            if kind or (level is not None and height != level) or (left, right) != neighbours:
                raise Looped(f"node {address:#x} of its tree of names does not fit to those around it")
            level = height
            if height:
                entries = os.pread(fd, 16 * children, base + address + NODE.size)
                if len(entries) < 16 * children:
                    raise Looped(f"node {address:#x} of its tree of names is cut off")
                below += struct.unpack(f"<{2 * children}Q", entries)[1::2]
        nodes, level = below, level - 1 if level else None


def _trees(fd: int, base: int, header: int) -> Iterator[int]:
    """Addresses of the trees of a classic group: one; none for other objects."""
    begin = os.pread(fd, 16, base + header)
    if len(begin) < 16 or begin[0] != 1:  # the newer form begins with "OHDR"
        return
    blocks = [(header + 16, struct.unpack_from("<I", begin, 8)[0])]
    for address, size in blocks:
        data = os.pread(fd, min(size, 1 << 20), base + address)
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
