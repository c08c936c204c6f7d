"""Stand-ins for X-LXMERT's published weights (Epoch20_LXRT.pth): its names, small shapes, made-up numbers."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

HIDDEN = 12


def state(centroids: NDArray[np.float32], prefix: str = "module.", tied: bool = True) -> OrderedDict[str, Any]:
    """What ``model.state_dict()`` gives: names as LXMERT has them, the visual words twice, as one tensor."""
    generator = torch.Generator().manual_seed(0)
    k, d = centroids.shape
    words = torch.from_numpy(centroids.copy())
    shapes: dict[str, tuple[int, ...]] = {
        "mask_feat": (d,),
        "bert.embeddings.word_embeddings.weight": (99, HIDDEN),
        "bert.embeddings.position_embeddings.weight": (20, HIDDEN),
        "bert.encoder.visn_fc.visn_fc.weight": (HIDDEN, d),
        "bert.encoder.visn_fc.visn_fc.bias": (HIDDEN,),
        **{f"bert.encoder.layer.{n}.attention.self.query.weight": (HIDDEN, HIDDEN) for n in range(9)},
        "cls.predictions.decoder.weight": (99, HIDDEN),
        "obj_predict_head.linear_feat.weight": (d, HIDDEN),
        "obj_predict_head.out_cluster.weight": (k, d),
        "obj_predict_head.out_cluster.bias": (k,),
        "answer_head.logit_fc.3.weight": (50, 2 * HIDDEN),
    }
    found: OrderedDict[str, Any] = OrderedDict()
    for name, shape in shapes.items():
        found[prefix + name] = torch.randn(shape, generator=generator)
    found[prefix + "bert.embeddings.position_ids"] = torch.arange(20)[None]
    found[prefix + "vis_emb.weight"] = words
    if tied:
        found[prefix + "obj_predict_head.out_cluster.weight"] = words
    found._metadata = OrderedDict({"": {"version": 1}})  # as a module leaves it
    return found


def write(path: Path, document: object, legacy: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
    return path
