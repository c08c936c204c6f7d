"""Configuration and weights: what is read, what is refused, and that nothing in a file is ever executed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from helpers.common import DATA

from feature_extraction.detector import checkpoint
from feature_extraction.detector.build import find_checkpoint
from feature_extraction.detector.config import DetectorConfig, read_config
from feature_extraction.errors import CheckpointError
from scripts.dev import synthetic_checkpoint


def config_of(name: str) -> DetectorConfig:
    return read_config(DATA / name / "config.yaml")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    shapes = checkpoint.expected_tensors(config_of("tiny"))
    return {n: torch.from_numpy(synthetic_checkpoint.tensor(n, s)) for n, s in shapes.items()}


@pytest.mark.parametrize("name", ["tiny", "x152"])
def test_names_and_shapes_are_those_of_the_original_model(name: str) -> None:
    original = json.loads((DATA / name / "state.json").read_text())["tensors"]
    assert checkpoint.expected_tensors(config_of(name)) == {k: tuple(v) for k, v in original.items()}


def test_published_configuration() -> None:
    c = config_of("x152")
    assert (c.depth, c.groups, c.width_per_group, c.fpn_channels) == (152, 32, 8, 512)
    assert (c.feature_dim, c.num_classes, c.stride_in_1x1, c.sampling_ratio) == (2048, 1601, False, 2)


def test_the_fork_writes_sequences_as_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, RPN: {ANCHOR_STRIDE: "(4, 8, 16, 32, 64)"}}')
    assert read_config(path).anchor_strides == (4, 8, 16, 32, 64)


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("", ["no MODEL section"]),
        ("[1, 2]", ["no MODEL section"]),
        ("{unclosed", ["not a YAML file"]),
        ("MODEL: !!python/object/apply:os.system ['true']", ["not a YAML file"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-34-FPN}}", ["CONV_BODY", "R-34-FPN", "R-152-FPN"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-C4}}", ["CONV_BODY", "R-50-C4"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, RESNETS: {NUM_GROUPS: many}}", ["NUM_GROUPS", "many"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, RESNETS: {NUM_GROUPS: -3}}", ["NUM_GROUPS", "positive"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, RESNETS: {STRIDE_IN_1X1: 7}}", ["STRIDE_IN_1X1", "7"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, RPN: {USE_FPN: false}}", ["RPN.USE_FPN", "False"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}, RPN: {ANCHOR_STRIDE: [16]}}", ["ANCHOR_STRIDE", "proposes on 5"]),
    ],
)
def test_bad_configurations_are_named(tmp_path: Path, text: str, fragments: list[str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        read_config(path)
    for fragment in fragments:
        assert fragment in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_layouts_of_the_file(tmp_path: Path, tensors: dict, prefix: str, zipped: bool) -> None:
    path = tmp_path / "m.pth"
    model = {prefix + name: tensor for name, tensor in tensors.items()}
    document = {"model": model, "optimizer": {"state": {0: torch.zeros(2)}}, "iteration": 7}
    torch.save(document, path, _use_new_zipfile_serialization=zipped)
    read = checkpoint.read_tensors(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_every_problem_is_named_in_one_error(tensors: dict) -> None:
    broken = dict(tensors)
    del broken["rpn.head.conv.bias"], broken["backbone.body.stem.bn1.running_var"]
    broken["roi_heads.box.predictor.cls_score.bias"] = torch.zeros(5)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.build(Path("weights.pth"), config_of("tiny"), broken)
    message = str(caught.value)
    assert "weights.pth" in message
    assert "3 problems" in message
    assert "missing: rpn.head.conv.bias [32]" in message
    assert "missing: backbone.body.stem.bn1.running_var [16]" in message
    assert "wrong shape: roi_heads.box.predictor.cls_score.bias is [5], expected [41]" in message


def test_extras_are_listed_and_passed_over(tensors: dict) -> None:
    extras = {
        "roi_heads.box.predictor.attr_linear1.weight": torch.zeros(3, 3),
        "rpn.anchor_generator.0": torch.zeros(3),
    }
    _, passed_over = checkpoint.build(Path("w"), config_of("tiny"), {**tensors, **extras})
    assert passed_over == sorted(extras)


def test_the_x101_file_of_the_same_name_is_refused_by_name() -> None:
    x101 = {f"backbone.body.layer3.{i}.conv1.weight": torch.zeros(1) for i in range(23)}
    with pytest.raises(CheckpointError, match=r"This is the X-101 model \(Pythia"):
        checkpoint.build(Path("detectron_model.pth"), config_of("x152"), x101)


class Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL_FOLDER"],)


@pytest.mark.parametrize("how", ["torch", "torch-legacy", "pickle"])
def test_code_in_a_checkpoint_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tensors: dict, how: str
) -> None:
    monkeypatch.setenv("EVIL_FOLDER", str(tmp_path / "executed"))
    path = tmp_path / "m.pth"
    document = {"model": tensors, "surprise": Evil()}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"surprise": Evil()}))
    else:
        torch.save(document, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="never executed"):
        checkpoint.read_tensors(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\x03\x04 not a zip", os.urandom(3000)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as PyTorch weights"):
        checkpoint.read_tensors(path)


def test_a_truncated_file_is_refused(tmp_path: Path, tensors: dict) -> None:
    path = tmp_path / "m.pth"
    torch.save({"model": tensors}, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="cannot be read as PyTorch weights"):
        checkpoint.read_tensors(path)


def test_files_are_found_under_both_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(tmp_path)
    for expected in ("detectron_model.pth", "model_final.pth", str(tmp_path), "make download"):
        assert expected in str(caught.value)
    (tmp_path / "model_final.pth").touch()
    (tmp_path / "e2e_faster_rcnn_X-152-32x8d-FPN_1x_MLP_2048_FPN_512_train.yaml").touch()
    assert find_checkpoint(tmp_path).model.name == "model_final.pth"
    (tmp_path / "detectron_model.pth").touch()
    assert find_checkpoint(tmp_path).model.name == "detectron_model.pth"


def test_frozen_batch_norm_has_no_epsilon() -> None:
    from feature_extraction.detector.layers import Weights

    parts = {"c.weight": torch.full((1, 1, 1, 1), 3.0), "b.weight": torch.tensor([2.0]), "b.bias": torch.tensor([5.0])}
    parts |= {"b.running_mean": torch.tensor([7.0]), "b.running_var": torch.tensor([1e-8])}
    weight, bias = Weights(parts).conv_bn("c", "b", 1, 1, 1)
    assert weight.item() == pytest.approx(3 * 2 / 1e-4)  # an epsilon of 1e-5 would make it 1900
    assert bias.item() == pytest.approx(5 - 7 * 2 / 1e-4)
