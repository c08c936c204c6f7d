"""Every format by its name."""

from __future__ import annotations

from typing import Final

from .arrays import Npz, Safetensors, WebDataset
from .fga import FgaH5
from .form import Format
from .lxmert import LxmertTsv
from .mmf import MmfLmdb, MmfNpy
from .vilbert import VilbertLmdb, VilbertNpy

FORMS: Final[dict[str, type[Format]]] = {
    "vilbert-npy": VilbertNpy,
    "vilbert-lmdb": VilbertLmdb,
    "mmf-npy": MmfNpy,
    "mmf-lmdb": MmfLmdb,
    "lxmert-tsv": LxmertTsv,
    "fga-h5": FgaH5,
    "npz": Npz,
    "safetensors": Safetensors,
    "webdataset": WebDataset,
}
