"""The reference engine, against a stand-in for the fork: our own detector under the fork's names.

What this shows is that the fork is called as the published scripts call it; what the fork computes is shown in the
image (`make parity`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from feature_extraction.detector import reference
from feature_extraction.detector.build import load_detector
from feature_extraction.detector.checkpoint import expected_tensors, read_tensors
from feature_extraction.detector.config import read_config
from feature_extraction.detector.files import CheckpointFiles, find_checkpoint
from feature_extraction.errors import CheckpointError, DeviceError
from feature_extraction.regions import grid_cells

CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(7)) * 200 - 100


class BoxList:
    def __init__(self, bbox: Tensor, image_size: tuple[int, int], mode: str = "xyxy") -> None:
        assert mode == "xyxy"
        self.bbox, self.size = bbox, image_size
        self.fields: dict[str, Tensor] = {}

    def get_field(self, name: str) -> Tensor:
        return self.fields[name]

    def __len__(self) -> int:
        return len(self.bbox)


class ImageList:
    def __init__(self, tensors: Tensor, image_sizes: list[tuple[int, int]]) -> None:
        self.tensors, self.image_sizes = tensors, image_sizes


class Config:
    def __init__(self) -> None:
        self.path = Path()
        self.settings: dict[str, Any] = {}

    def clone(self) -> Config:
        return Config()

    def merge_from_file(self, path: str) -> None:
        if "unknown" in Path(path).read_text():
            raise KeyError("Non-existent config key: unknown")
        self.path = Path(path)

    def merge_from_list(self, pairs: list[Any]) -> None:
        assert len(pairs) % 2 == 0
        self.settings = dict(zip(pairs[::2], pairs[1::2], strict=True))


class Model(nn.Module):
    """The names of the fork's model, as parameters; computing is left to the native detector."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        shapes = expected_tensors(read_config(config.path))
        self.names = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self.names["rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
        self.seen: list[Any] = []

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        return self.names

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        self.names |= state

    def native(self) -> Any:
        from feature_extraction.detector.checkpoint import build

        files = SimpleNamespace(path=self.config.path)
        return build(files.path, read_config(files.path), self.names)[0].place(CPU, torch.float32)

    def backbone(self, images: Tensor) -> list[Tensor]:
        assert images.is_contiguous()
        assert images.dtype == torch.float32
        self.seen = [images]
        # channels last, as oneDNN may return it: the engine has to hand RoIAlign contiguous maps
        return [torch.zeros(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)]

    def roi_heads(self, pyramid: list[Tensor], proposals: list[BoxList]) -> tuple[dict[str, Tensor], Any, Any]:
        assert all(level.is_contiguous() for level in pyramid)
        (images,) = self.seen
        assert all(p.size == (images.shape[3], images.shape[2]) for p in proposals), "(W, H)"
        said = self.native().describe(images, [p.bbox for p in proposals])
        return self.head(said), None, {}

    @staticmethod
    def head(said: list[Any]) -> dict[str, Any]:
        """What the fork's box head returns: one dictionary for all images."""
        names = (("fc6", "fc6"), ("fc7", "fc7"), ("scores", "logits"))
        return {key: torch.cat([getattr(one, name) for one in said]) for key, name in names}

    def forward(self, images: ImageList) -> tuple[dict[str, Any], Any]:
        assert images.image_sizes == [tuple(images.tensors.shape[2:])] * len(images.tensors), "(H, W), padded"
        found = self.native().detect(images.tensors)
        boxes = []
        for one in found:
            box = BoxList(one.proposals, (images.tensors.shape[3], images.tensors.shape[2]))
            box.fields["objectness"] = one.objectness
            boxes.append(box)
        return {"proposals": boxes, **self.head(found)}, None


@pytest.fixture
def fork(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], None]:
    """Install the stand-in; its extension's content is the argument."""

    def install(extension: bytes = b"\x7fELF .nv_fatbin") -> None:
        (tmp_path / "_C.so").write_bytes(extension)
        for name, content in {
            "maskrcnn_benchmark": {},
            "maskrcnn_benchmark._C": {"__file__": str(tmp_path / "_C.so")},
            "maskrcnn_benchmark.config": {"cfg": Config()},
            "maskrcnn_benchmark.modeling": {},
            "maskrcnn_benchmark.modeling.detector": {"build_detection_model": Model},
            "maskrcnn_benchmark.structures": {},
            "maskrcnn_benchmark.structures.bounding_box": {"BoxList": BoxList},
            "maskrcnn_benchmark.structures.image_list": {"ImageList": ImageList},
        }.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)

    return install


def test_without_the_fork(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "maskrcnn_benchmark"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "maskrcnn_benchmark", None)  # not to be had, though it may be installed
    files = find_checkpoint(tiny_checkpoint)
    with pytest.raises(ImportError, match=r"original detector.*make docker-build"):
        load_detector(files, engine="reference", device=CPU, precision="float32")


def test_same_as_native(tiny_checkpoint: Path, fork: Callable[[], None]) -> None:
    fork()
    files = find_checkpoint(tiny_checkpoint)
    oracle = load_detector(files, engine="reference", device=CPU, precision="float32")
    native = load_detector(files, engine="native", device=CPU, precision="float32")
    channels_last = IMAGES.contiguous(memory_format=torch.channels_last)
    cells = [grid_cells(64, 96)] * 2
    torch.testing.assert_close(
        oracle.region_features(channels_last, cells), native.region_features(IMAGES, cells), rtol=1e-4, atol=1e-4
    )
    for one, other in zip(oracle.detect(channels_last), native.detect(IMAGES), strict=True):
        assert one.proposals.shape == other.proposals.shape
        torch.testing.assert_close(one.fc6.mean(0), other.fc6.mean(0), rtol=1e-3, atol=1e-3)
        assert one.logits.shape == other.logits.shape
        assert one.objectness.shape == (len(one.proposals),)


def test_weights_that_do_not_fit_are_named(tiny_checkpoint: Path, tmp_path: Path, fork: Callable[[], None]) -> None:
    fork()
    files = find_checkpoint(tiny_checkpoint)
    tensors = dict(read_tensors(files.model))
    del tensors["backbone.fpn.fpn_inner1.weight"]
    tensors["roi_heads.box.feature_extractor.fc6.weight"] = torch.zeros(3, 3)
    torch.save({"model": tensors}, tmp_path / "detectron_model.pth")
    (tmp_path / "detectron_config.yaml").write_text(files.config.read_text())
    with pytest.raises(
        CheckpointError, match=r"in 2 tensors: .*fpn_inner1.weight .*missing.*fc6.weight.*found \[3, 3\]"
    ):
        reference.load(find_checkpoint(tmp_path), CPU)


def test_a_configuration_the_fork_refuses(tiny_checkpoint: Path, tmp_path: Path, fork: Callable[[], None]) -> None:
    fork()
    files = find_checkpoint(tiny_checkpoint)
    config = tmp_path / "config.yaml"
    config.write_text(files.config.read_text() + "unknown: 1\n")
    with pytest.raises(CheckpointError, match=r"not a configuration the fork accepts.*unknown"):
        reference.load(CheckpointFiles(config, files.model), CPU)


def test_the_fork_is_told_what_it_needs(tiny_checkpoint: Path, tmp_path: Path, fork: Callable[[], None]) -> None:
    """Its own defaults for what a configuration is silent about make another model."""
    fork()
    files = find_checkpoint(tiny_checkpoint)
    needed = {"FEATURE_EXTRACTOR": "FPN2MLPFeatureExtractor", "PREDICTOR": "FPNPredictor", "RETURN_FC_FEATS": True}
    silent = tmp_path / "config.yaml"
    silent.write_text(
        "\n".join(line for line in files.config.read_text().splitlines() if not any(key in line for key in needed))
    )
    settings = reference.load(CheckpointFiles(silent, files.model), CPU).model.config.settings
    assert {key: settings[f"MODEL.ROI_BOX_HEAD.{key}"] for key in needed} == needed
    assert settings["MODEL.DEVICE"] == "cpu"
    assert settings["MODEL.RPN.USE_FPN"] is True
    assert settings["MODEL.ROI_BOX_HEAD.ATTR"] is False


def test_a_configuration_that_says_otherwise_is_refused_by_both(
    tiny_checkpoint: Path, tmp_path: Path, fork: Callable[[], None]
) -> None:
    fork()
    files = find_checkpoint(tiny_checkpoint)
    other = tmp_path / "config.yaml"
    other.write_text(files.config.read_text().replace("PREDICTOR: FPNPredictor", "PREDICTOR: FastRCNNPredictor"))
    for name in ("native", "reference"):
        with pytest.raises(CheckpointError, match=r"PREDICTOR is 'FastRCNNPredictor'; .* 'FPNPredictor' only"):
            load_detector(CheckpointFiles(other, files.model), engine=name, device=CPU, precision="float32")


def test_an_extension_without_cuda_is_named(tiny_checkpoint: Path, fork: Callable[[bytes], None]) -> None:
    fork(b"\x7fELF")
    with pytest.raises(ImportError, match=r"compiled without CUDA.*FORCE_CUDA"):
        reference.load(find_checkpoint(tiny_checkpoint), torch.device("cuda"))


def test_the_forks_own_message_is_explained(tiny_checkpoint: Path, fork: Callable[[], None]) -> None:
    fork()
    oracle = reference.load(find_checkpoint(tiny_checkpoint), CPU)

    def backbone(_: Tensor) -> None:
        raise RuntimeError("Not compiled with GPU support")

    oracle.model.backbone = backbone
    with pytest.raises(ImportError, match="without its CUDA part"):
        oracle.region_features(IMAGES, [grid_cells(64, 96)] * 2)


def test_only_the_precisions_it_was_written_for(tiny_checkpoint: Path, fork: Callable[[], None]) -> None:
    fork()
    with pytest.raises(DeviceError, match="float32 or tf32"):
        load_detector(find_checkpoint(tiny_checkpoint), engine="reference", device=CPU, precision="bfloat16")
