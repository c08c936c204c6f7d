"""The detector's code walked on ``cuda`` tensors without a card: shapes and devices only, no numbers.

PyTorch's CUDA build refuses what mixes devices, also where no GPU is. The CPU build, which `make setup` installs,
cannot make such tensors; run it where the other one is (the gpu image, or a virtual environment with it).
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.common import DATA
from torch._subclasses.fake_tensor import FakeTensorMode

from feature_extraction.detector.build import build
from feature_extraction.detector.checkpoint import expected_tensors
from feature_extraction.detector.config import read_config
from feature_extraction.detector.faster_rcnn import ALL_LEVELS

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this is PyTorch's CPU build")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["tiny", "x152"])
def test_no_operation_mixes_devices(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda a, b: a.device == b.device)  # where values are waited for, it is cut
    config = read_config(DATA / name / "config.yaml")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode():
        weights = {key: torch.empty(shape) for key, shape in expected_tensors(config).items()}
        model = build(Path("x"), config, weights)[0].place(torch.device("cuda"), dtype)
        images = torch.empty(2, 3, 256, 320, device="cuda")
        pyramid = model._pyramid(images, ALL_LEVELS)
        assert {level.device.type for level in pyramid.values()} == {"cuda"}
        boxes, objectness = model.rpn(pyramid, (256, 320))
        assert boxes.device.type == objectness.device.type == "cuda"
        cells = torch.empty(64, 4, device="cuda")
        features = model.head.features({3: pyramid[3]}, [cells, cells], torch.full((128,), 3))
        assert (features.device.type, tuple(features.shape)) == ("cuda", (128, config.feature_dim))
        assert model.head.class_logits(model.head.fc7(features)).device.type == "cuda"
