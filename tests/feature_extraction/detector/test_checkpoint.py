"""Configuration and weights: what is read, what is refused, and that nothing in a file is ever executed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.common import DATA

from feature_extraction.detector import checkpoint
from feature_extraction.detector.build import load_detector
from feature_extraction.detector.config import FIXED, KEYS, DetectorConfig, fork_settings, read_config
from feature_extraction.detector.files import find_checkpoint
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


def altered(name: str, **values: Any) -> dict[str, Any]:
    """The configuration of tests/data/NAME with keys (dots written as __) set, or left out where the value is ...."""
    document: dict[str, Any] = yaml.safe_load((DATA / name / "config.yaml").read_text())
    for key, value in values.items():
        *parents, leaf = key.split("__")
        node = document
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
        if value is ...:
            del node[leaf]
    return document


def written(folder: Path, document: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def refusal(path: Path) -> str:
    """The message of what is refused: always one line."""
    with pytest.raises(CheckpointError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))
    return message


def test_the_fork_writes_sequences_as_text(tmp_path: Path) -> None:
    path = written(tmp_path, altered("tiny", MODEL__RPN__ANCHOR_STRIDE="(4, 8, 16, 32, 64)"))
    assert read_config(path) == config_of("tiny")


def test_silence_about_what_the_recipe_needs_is_accepted(tmp_path: Path) -> None:
    """The published file states three of these keys; ours and files of before did not."""
    said = [key for key in FIXED if key.rpartition(".")[2] in (DATA / "tiny/config.yaml").read_text()]
    assert {key.rpartition(".")[2] for key in said} >= {"FEATURE_EXTRACTOR", "PREDICTOR", "RETURN_FC_FEATS", "USE_FPN"}
    silent = altered("tiny", **{key.replace(".", "__"): ... for key in said})
    assert read_config(written(tmp_path, silent)) == config_of("tiny")


@pytest.mark.parametrize("key", FIXED)
def test_another_recipe_is_refused(tmp_path: Path, key: str) -> None:
    only = FIXED[key]
    other = (not only) if isinstance(only, bool) else f"Other{only}" if isinstance(only, str) else only + 3
    message = refusal(written(tmp_path, altered("tiny", **{key.replace(".", "__"): other})))
    assert key in message
    assert repr(other) in message
    assert f"{only!r} only" in message


# what the fork builds where a file is silent: maskrcnn_benchmark/config/defaults.py
FORK_DEFAULTS = {
    "NUM_GROUPS": 1, "WIDTH_PER_GROUP": 64, "STRIDE_IN_1X1": True, "STEM_OUT_CHANNELS": 64, "RES2_OUT_CHANNELS": 256,
    "OUT_CHANNELS": 1024, "ANCHOR_STRIDE": (16,), "ANCHOR_SIZES": (32, 64, 128, 256, 512), "ASPECT_RATIOS": (0.5, 1, 2),
    "PRE_NMS_TOP_N_TEST": 6000, "POST_NMS_TOP_N_TEST": 1000, "FPN_POST_NMS_TOP_N_TEST": 2000, "NMS_THRESH": 0.7,
    "POOLER_RESOLUTION": 14, "POOLER_SCALES": (1 / 16,), "POOLER_SAMPLING_RATIO": 0, "MLP_HEAD_DIM": 1024,
    "NUM_CLASSES": 81,
}  # fmt: skip


@pytest.mark.parametrize("name", KEYS)
def test_silence_means_what_it_means_to_the_fork(tmp_path: Path, name: str) -> None:
    key = KEYS[name]
    path = written(tmp_path, altered("x152", **{key.path.replace(".", "__"): None}))
    fork = FORK_DEFAULTS[key.path.rpartition(".")[2]]
    if key.default is None:  # a model that this detector is not: never built in its place
        message = refusal(path)
        assert f"says nothing of {key.path}" in message
        assert repr(key.published) in message
    else:
        assert getattr(read_config(path), name) == fork
        assert key.default == fork


def test_the_forks_defaults_are_as_written_here() -> None:
    cfg = pytest.importorskip("maskrcnn_benchmark.config", reason="the fork is not installed").cfg
    for key in KEYS.values():
        node = cfg
        for part in key.path.split("."):
            node = node[part]
        assert FORK_DEFAULTS[key.path.rpartition(".")[2]] == node, key.path
    cfg.clone().merge_from_list(fork_settings())  # every key exists there and has this type


BASE = "MODEL: {BACKBONE: {CONV_BODY: R-50-FPN}}"


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("", ["no MODEL section"]),
        ("[1, 2]", ["no MODEL section"]),
        ("MODEL: 3", ["no MODEL section"]),
        ("{unclosed", ["not a YAML file"]),
        ("MODEL: !!python/object/apply:os.system ['true']", ["not a YAML file"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-34-FPN}}", ["CONV_BODY", "R-34-FPN", "R-152-FPN"]),
        ("MODEL: {BACKBONE: {CONV_BODY: R-50-C4}}", ["CONV_BODY", "R-50-C4"]),
        ("MODEL: {BACKBONE: R-50-FPN}", ["CONV_BODY", "None"]),
        (BASE, ["says nothing of MODEL.RPN.ANCHOR_STRIDE", "(4, 8, 16, 32, 64)"]),
    ],
)
def test_bad_configurations_are_named(tmp_path: Path, text: str, fragments: list[str]) -> None:
    message = refusal(written(tmp_path, text))
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(
    ("key", "value", "fragments"),
    [
        ("RESNETS.NUM_GROUPS", "many", ["NUM_GROUPS", "many"]),
        ("RESNETS.NUM_GROUPS", -3, ["NUM_GROUPS", "positive"]),
        ("RESNETS.NUM_GROUPS", True, ["NUM_GROUPS", "True"]),
        ("RESNETS.NUM_GROUPS", 8.5, ["NUM_GROUPS", "8.5"]),
        ("RESNETS.NUM_GROUPS", [32], ["NUM_GROUPS", "[32]"]),
        ("RESNETS.STRIDE_IN_1X1", 7, ["STRIDE_IN_1X1", "7"]),
        ("RPN.ANCHOR_STRIDE", [16], ["ANCHOR_STRIDE", "proposes on 5"]),
        ("RPN.ANCHOR_STRIDE", 16, ["ANCHOR_STRIDE", "(4, 8, 16, 32, 64)"]),
        ("RPN.ANCHOR_STRIDE", {"a": 1}, ["ANCHOR_STRIDE"]),
        ("RPN.ANCHOR_STRIDE", [4, 8, 16, 32, [64]], ["ANCHOR_STRIDE"]),
        ("RPN.ASPECT_RATIOS", [], ["ASPECT_RATIOS"]),
        ("ROI_BOX_HEAD.POOLER_SCALES", [0.0625], ["POOLER_SCALES", "4 pyramid levels"]),
        ("ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 0, ["POOLER_SAMPLING_RATIO", "positive"]),
        ("ROI_BOX_HEAD.MLP_HEAD_DIM", float("inf"), ["MLP_HEAD_DIM", "inf"]),
        ("ROI_BOX_HEAD.MLP_HEAD_DIM", 10**30, ["MLP_HEAD_DIM", "at most"]),
        ("RPN.NMS_THRESH", float("nan"), ["NMS_THRESH", "nan"]),
        ("RPN.NMS_THRESH", 10**400, ["NMS_THRESH"]),
        ("RPN.PRE_NMS_TOP_N_TEST", 10**7, ["PRE_NMS_TOP_N_TEST", "at most"]),
    ],
)
def test_bad_values_are_named(tmp_path: Path, key: str, value: Any, fragments: list[str]) -> None:
    message = refusal(written(tmp_path, altered("tiny", **{f"MODEL.{key}".replace(".", "__"): value})))
    for fragment in fragments:
        assert fragment in message


def laughs(levels: int) -> str:
    """Ten times ten times ten ... of one list, by aliases."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(levels)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        "x: " + "[" * 3000 + "]" * 3000,
        "x: " + "[" * 3000,
        "? " * 3000 + "x",
        "- " * 3000 + "x",
        laughs(8) + "\nMODEL: {BACKBONE: {CONV_BODY: *a8}}",
        laughs(8) + "\n" + BASE.replace("R-50-FPN", "R-50-FPN}, ROI_BOX_HEAD: {NUM_CLASSES: *a8"),
        "x: &x [*x]",
        "x: 2001-99-99",
        "x: !!int ''",
        "x: !!timestamp never",
        "x: !!bool perhaps",
        "x: !!float 1e",
        "x: !!binary '*'",
        "x: " + "9" * 5000,
        "x: 0x" + "f" * 4090,
        "MODEL: {BACKBONE: {CONV_BODY: R-" + "9" * 4000 + "-FPN}}",
        "MODEL: {BACKBONE: {CONV_BODY: 0x" + "f" * 4090 + "}}",
        "'" + "(" * 4000 + "': 1",
        BASE.replace("}}", "}, RPN: {ANCHOR_STRIDE: '" + "(" * 4000 + "'}}"),
        BASE.replace("}}", "}, RPN: {ANCHOR_STRIDE: '" + "-" * 4000 + "1'}}"),
        "x: '" + "y" * 300_000 + "'",
        "MODEL:\n" + "  K: 1\n" * 100_000,
        "\0",
        "x: \x1b[31m",
        "x: y: z",
    ],
)
def test_hostile_configurations_are_refused_soon_in_one_line(tmp_path: Path, text: str) -> None:
    start = time.process_time()
    message = refusal(written(tmp_path, text))
    assert message.isprintable()
    assert time.process_time() - start < 10


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xff\xfeMODEL")
    assert "not a YAML file" in refusal(path)
    assert "cannot be read" in refusal(tmp_path)


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


def test_a_file_may_lie_under_any_name(tmp_path: Path, tensors: dict) -> None:
    """Of another encoding, from an older disk; PyTorch itself opens names in UTF-8 only."""
    path = tmp_path / os.fsdecode(b"caf\xe9.pth")
    with path.open("wb") as file:
        torch.save({"model": tensors}, file)
    assert checkpoint.read_tensors(path).keys() == tensors.keys()


def test_what_another_user_has_closed_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A colleague's checkpoint, made under umask 077: to download it again would not help."""

    def closed(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    for name, read in (("open", checkpoint.read_tensors), ("is_file", find_checkpoint)):
        monkeypatch.setattr(Path, name, closed)
        with pytest.raises(CheckpointError, match=r"Permission denied; let its owner make it readable \(chmod"):
            read(tmp_path)


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


@pytest.mark.parametrize("name", ["detectron_model", "detectron_model_x152"])
def test_pythias_and_mmfs_files_are_found_under_their_own_names(tmp_path: Path, name: str) -> None:
    for suffix in (".pth", ".yaml"):
        (tmp_path / f"{name}{suffix}").touch()
    found = find_checkpoint(tmp_path)
    assert (found.config.name, found.model.name) == (f"{name}.yaml", f"{name}.pth")


def test_pythias_network_is_built_from_its_files(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A narrow X-101 of 64 groups: as deep, with all its names, and a configuration like the published one."""
    config = (tiny_checkpoint / "detectron_config.yaml").read_text()
    config = re.sub("CONV_BODY: [^,}]+", "CONV_BODY: R-101-FPN", config)
    for key, value in (("NUM_GROUPS", 64), ("WIDTH_PER_GROUP", 1)):
        config = re.sub(f"{key}: [0-9]+", f"{key}: {value}", config)
    (tmp_path / "detectron_model.yaml").write_text(config)
    shapes = checkpoint.expected_tensors(read_config(tmp_path / "detectron_model.yaml"))
    tensors = {name: torch.from_numpy(synthetic_checkpoint.tensor(name, shape)) for name, shape in shapes.items()}
    torch.save({"model": tensors}, tmp_path / "detectron_model.pth")
    assert tensors["backbone.body.layer3.22.conv2.weight"].shape[1] == 4, "64 groups of 4 channels"
    files = find_checkpoint(tmp_path)
    detector = load_detector(files, engine="native", device=torch.device("cpu"), precision="float32")
    (found,) = detector.detect(torch.rand(1, 3, 64, 96) * 200 - 100)
    assert found.fc6.shape == found.fc7.shape
    assert torch.isfinite(found.logits).all()


def test_frozen_batch_norm_has_no_epsilon() -> None:
    from feature_extraction.detector.layers import Weights

    parts = {"c.weight": torch.full((1, 1, 1, 1), 3.0), "b.weight": torch.tensor([2.0]), "b.bias": torch.tensor([5.0])}
    parts |= {"b.running_mean": torch.tensor([7.0]), "b.running_var": torch.tensor([1e-8])}
    weight, bias = Weights(parts).conv_bn("c", "b", 1, 1, 1)
    assert weight.item() == pytest.approx(3 * 2 / 1e-4)  # an epsilon of 1e-5 would make it 1900
    assert bias.item() == pytest.approx(5 - 7 * 2 / 1e-4)
