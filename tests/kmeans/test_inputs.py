"""Wrong input is refused at once, in words that help, and nothing that exists is lost."""

import os

import h5py
import numpy as np
import pytest
from helpers.kmeans_cases import features, write_features

from feature_extraction import catalog
from feature_extraction.errors import UsageError
from feature_extraction.storage import files, store
from kmeans import cli
from kmeans.options import Options, feature_path
from kmeans.results import ResultNames
from kmeans.vectors import FeatureFile

DIM, GRID = 6, 4


@pytest.fixture
def good(tmp_path):
    return write_features(tmp_path / "good.h5", features(40, GRID, DIM))


@pytest.fixture
def refused(tmp_path, capsys):
    """Run the command; returns what it says on the way out, and checks that it left no results."""

    def run(*arguments, src, tgt=None, k=5, code=1):
        tgt = tgt or [src]
        status = cli.main(
            [
                *(f"--src={src}", "--tgt", *map(str, tgt), f"--datasets_dir={tmp_path}"),
                *(f"--n_centroids={k}", f"--feat_dim={DIM}", f"--grid_size={GRID}", *arguments),
            ]
        )
        said = capsys.readouterr()
        assert status == code, said
        assert said.err.startswith("error: ")
        assert not list(tmp_path.rglob("*.npy"))
        assert "iteration" not in said.out
        return said.err

    return run


def test_unknown_names_list_the_known(refused, good):
    for arguments in ({"src": "mscoco_trian"}, {"src": good, "tgt": ["mscoco_trian"]}):
        error = refused(**arguments, code=2)
        assert "did you mean 'mscoco_train'?" in error
        for name in catalog.kmeans_sources():
            assert name in error


def test_a_missing_file(refused, tmp_path, good):
    assert f"{tmp_path / 'no.h5'} does not exist" in refused(src=tmp_path / "no.h5")
    assert "maskrcnn_grid4.h5 does not exist" in refused(src=good, tgt=["vg"])
    assert not (tmp_path / "cluster_centroids").exists(), "a mistyped --datasets_dir is not made"


def test_a_truncated_file(refused, good):
    os.truncate(good, good.stat().st_size - 1000)
    assert "shorter than it says" in refused(src=good)


def test_an_unfinished_file(refused, tmp_path):
    store.work_dir(tmp_path / "new.h5").mkdir()
    assert "is unfinished" in refused(src=tmp_path / "new.h5")


def test_another_dimension_or_grid(refused, good):
    error = refused("--feat_dim=7", src=good)
    assert "(4, 4, 6)" in error
    assert "--feat_dim 7" in error
    error = refused("--grid_size=8", src=good)
    assert "(4, 4, 6), expected (8, 8, 6)" in error


def test_images_of_another_shape_type_or_none(refused, tmp_path, good):
    values = list(features(4, GRID, DIM))
    values[2] = values[2][:3]
    assert "image '000003'" in refused(src=write_features(tmp_path / "shape.h5", values))
    whole = [(1000 * v).astype(np.int32) for v in features(4, GRID, DIM)]
    error = refused(src=write_features(tmp_path / "type.h5", whole))
    assert "int32, expected float32" in error
    with h5py.File(good, "a") as file:
        del file["000007/features"]
    assert "image '000007' has no features" in refused(src=good)
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    assert "holds no images" in refused(src=tmp_path / "empty.h5")


@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity"), (3e38, "3e+38")]
)
@pytest.mark.parametrize("memory", [8, 0.001])
def test_what_is_not_finite_is_named_by_its_image(refused, tmp_path, value, name, memory):
    values = features(40, GRID, DIM)
    values[16, 2, 1, 3] = value
    error = refused(f"--memory={memory}", src=write_features(tmp_path / "bad.h5", values))
    assert f"image '000017' contain {name}" in error
    assert "row 9 of 16" in error


def test_a_bad_target_is_named_and_the_centroids_stay(tmp_path, capsys, good):
    values = features(40, GRID, DIM)
    values[39, 3, 3, 5] = np.nan
    bad = write_features(tmp_path / "bad.h5", values)
    command = [f"--src={good}", "--tgt", str(good), str(bad), f"--datasets_dir={tmp_path}", "--n_centroids=5"]
    command += [f"--feat_dim={DIM}", f"--grid_size={GRID}"]
    assert cli.main(command) == 1
    assert "image '000040' contain NaN" in capsys.readouterr().err
    write_features(bad, features(40, GRID, DIM))
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "iteration" not in said
    assert "good is assigned already" in said
    assert "bad: 640 rows assigned" in said


def test_fewer_rows_than_centroids(refused, good, tmp_path, capsys):
    error = refused(src=good, k=641, code=2)
    assert "640 rows (40 images x 16), fewer than --n_centroids 641" in error
    command = [f"--src={good}", f"--tgt={good}", f"--datasets_dir={tmp_path}", "--n_centroids=17"]
    assert cli.main([*command, f"--feat_dim={DIM}", f"--grid_size={GRID}"]) == 0
    assert "warning: 640 rows for 17 centroids; a stable vocabulary takes at least 663" in capsys.readouterr().err


def test_no_space(refused, good, monkeypatch):
    usage = files.shutil.disk_usage("/")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    error = refused(src=good)
    assert "0.0 MB free" in error
    assert "not enough space" in error


def test_a_disk_that_fills_up_midway(good, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    command = [f"--src={good}", f"--tgt={good}", f"--datasets_dir={tmp_path}", "--n_centroids=5"]
    command += [f"--feat_dim={DIM}", f"--grid_size={GRID}"]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        assert cli.main(command) == 1
    assert "no space left on the disk" in capsys.readouterr().err
    assert cli.main(command) == 0


def test_two_targets_of_one_name(refused, tmp_path, good):
    other = write_features(tmp_path / "other" / "good.h5", features(2, GRID, DIM))
    assert "the same name" in refused(src=good, tgt=[good, other], code=2)


def test_assign_only_without_centroids(refused, good):
    assert "make kmeans (without --assign_only) makes them" in refused("--assign_only", src=good)


def test_assign_only_with_other_centroids(tmp_path, good, capsys):
    names = ResultNames(tmp_path, "maskrcnn", "good", 5, 20, DIM, GRID, None)
    command = [
        f"--src={good}",
        f"--tgt={good}",
        f"--datasets_dir={tmp_path}",
        "--n_centroids=5",
        "--assign_only",
    ]
    command += [f"--feat_dim={DIM}", f"--grid_size={GRID}"]
    for wrong, said in (
        (np.zeros((5, DIM + 1), np.float32), "shape (5, 7), expected (5, 6)"),
        (np.zeros((5, DIM)), "float64"),
        (np.full((5, DIM), np.nan, np.float32), "finite"),
        (np.array([{}]), "pickles are not read"),
    ):
        names.folder.mkdir(exist_ok=True)
        np.save(names.centroids, wrong)
        assert cli.main(command) == 1
        assert said in capsys.readouterr().err


def test_a_second_run_at_the_same_time(refused, tmp_path, good):
    names = ResultNames(tmp_path, "maskrcnn", "good", 5, 20, DIM, GRID, None)
    names.work.mkdir(parents=True)
    with files.exclusive(names.work / "lock"):
        assert "another process is making" in refused(src=good)


def test_a_gpu_where_there_is_none(refused, good, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "finds no GPU" in refused("--device=cuda", src=good)


@pytest.mark.parametrize("arguments", [["--n_centroids=0"], ["--memory=0"], ["--memory=x"], ["--verbose=maybe"]])
def test_flags_that_cannot_be_read(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.parse(arguments)
    assert exit_.value.code == 2
    assert arguments[0].split("=")[0] in capsys.readouterr().err


# --- names -----------------------------------------------------------------------------------------


def test_the_published_defaults():
    options = cli.parse(["--verbose=true"])
    assert options == Options()
    assert (options.n_centroids, options.n_iter, options.feat_dim, options.grid_size) == (10_000, 20, 2048, 8)
    assert (options.encoder, options.src, options.tgt) == ("maskrcnn", "mscoco_train", ("mscoco_train",))
    assert options.verbose
    assert not options.assign_only
    assert options.imsize is None
    assert options.datasets_dir is None


def test_data_sets_are_found_where_they_were_published_and_from_the_top(tmp_path, monkeypatch):
    monkeypatch.delenv("DATASETS", raising=False)
    (tmp_path / "kmeans").mkdir()
    (tmp_path / "datasets").mkdir()
    monkeypatch.chdir(tmp_path / "kmeans")
    assert str(Options().datasets) == "../datasets"
    monkeypatch.chdir(tmp_path)
    assert str(Options().datasets) == "datasets"
    monkeypatch.setenv("DATASETS", str(tmp_path))
    assert Options().datasets == tmp_path
    assert Options(datasets_dir=tmp_path / "x").datasets == tmp_path / "x"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n_iter": 0}, "n_iter"),
        ({"device": "gpu"}, "device"),
        ({"assignment": "fais"}, "assignment"),
        ({"tgt": ()}, "no target"),
        ({"encoder": "a/b"}, "encoder"),
        ({"encoder": ""}, "encoder"),
    ],
)
def test_python_callers_are_told_too(wrong, said):
    with pytest.raises(UsageError, match=said):
        Options(**wrong)


def test_the_readmes_targets(capsys):
    words = ["mscoco_train", "mscoco", "valid", "nlvr_train", "nlvr_valid", "vg"]
    assert cli.join_names(words) == ["mscoco_train", "mscoco_valid", "nlvr_train", "nlvr_valid", "vg"]
    assert capsys.readouterr().out == "--tgt mscoco valid: understood as mscoco_valid\n"
    assert cli.join_names(["vg", "valid"]) == ["vg", "valid"]
    assert cli.join_names(["vg", "gqa", "vg"]) == ["vg", "gqa"]


def test_every_feature_file_of_the_catalogue_has_a_name(tmp_path):
    expected = {
        "mscoco_train": "COCO/features/maskrcnn_train_grid8.h5",
        "mscoco_valid": "COCO/features/maskrcnn_valid_grid8.h5",
        "mscoco_test": "COCO/features/maskrcnn_test_grid8.h5",
        "vg": "VG/features/maskrcnn_grid8.h5",
        "gqa": "GQA/features/maskrcnn_grid8.h5",
        "nlvr_train": "nlvr2/features/maskrcnn_train_grid8.h5",
        "nlvr_valid": "nlvr2/features/maskrcnn_valid_grid8.h5",
        "nlvr_test": "nlvr2/features/maskrcnn_test_grid8.h5",
    }
    options = Options(datasets_dir=tmp_path)
    assert {n: str(feature_path(n, options).relative_to(tmp_path)) for n in catalog.kmeans_sources()} == expected
    published = tmp_path / "NLVR2/features/maskrcnn_train_grid8.h5"  # the folder of the published download
    published.parent.mkdir(parents=True)
    published.touch()
    assert feature_path("nlvr_train", options) == published


def test_imsize_names_the_input_and_the_results(tmp_path):
    options = cli.parse(["--imsize=512", f"--datasets_dir={tmp_path}"])
    assert feature_path("vg", options).name == "maskrcnn_grid8_imsize512.h5"
    names = ResultNames(tmp_path, "maskrcnn", "vg", 10_000, 20, 2048, 8, 512)
    assert names.centroids.name == "maskrcnn_vg_centroids10000_iter20_d2048_grid8_imsize512.npy"
    assert names.cluster_index("gqa").name == (
        "maskrcnn_vg_gqa_cluster_index_centroids10000_iter20_d2048_grid8_imsize512.npy"
    )
    assert names.image_clusters("gqa").name == (
        "maskrcnn_vg_gqa_img_id_to_cluster_id_10000_iter20_d2048_grid8_imsize512.pkl"
    )


# --- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "plain"),
    [
        ({}, True),
        ({"compression": "gzip"}, False),
        ({"chunks": (2, 2, 6)}, False),
        ({"dtype": ">f4"}, False),
        ({"dtype": "f2"}, False),
    ],
)
def test_rows_are_the_same_however_they_are_stored(tmp_path, dataset, plain):
    values = np.round(features(30, GRID, DIM) * 8) / 8  # exact in float16 too
    with FeatureFile(write_features(tmp_path / "f.h5", values, **dataset), dim=DIM, grid_size=GRID) as file:
        assert file.plain is plain
        rows = values.reshape(-1, DIM)
        for start, stop in ((0, 480), (0, 1), (15, 17), (479, 480), (100, 333)):
            assert np.array_equal(file.read(start, stop, np.empty((stop - start, DIM), np.float32)), rows[start:stop])
        wanted = np.random.default_rng(0).permutation(480)[:77]
        found = np.full((77, DIM), np.nan, np.float32)
        file.gather(wanted, found.__setitem__)
        assert np.array_equal(found, rows[wanted])


def test_row_order_is_that_of_the_ids(tmp_path):
    path = write_features(tmp_path / "f.h5", features(3, GRID, DIM), ids=["9", "10", "COCO_1"])
    with FeatureFile(path, dim=DIM, grid_size=GRID) as file:
        assert file.ids == ["10", "9", "COCO_1"]
        first = file.read(0, 16, np.empty((16, DIM), np.float32))
    assert np.array_equal(first, features(3, GRID, DIM)[1].reshape(16, DIM))


def test_box_files_can_be_clustered_too(tmp_path):
    path = write_features(tmp_path / "boxes.h5", features(4, 6, DIM).reshape(4, 36, DIM))
    with FeatureFile(path, dim=DIM, grid_size=GRID) as file:
        assert (file.count, file.rows_per_image) == (144, 36)
