"""Results of a former vocabulary never lie beside a new one as if they were its own."""

import json
import shutil

import numpy as np
import pytest
from helpers.kmeans_cases import features, write_features

from feature_extraction.errors import VocabularyError
from kmeans import cli, load_vocabulary, results
from kmeans.results import ResultNames

DIM, GRID, K = 6, 4, 5


def names(folder, source="train"):
    return ResultNames(folder, "maskrcnn", source, K, 20, DIM, GRID, None)


def make(path, seed, images=40):
    return write_features(path, features(images, GRID, DIM, seed=seed))


@pytest.fixture
def run(tmp_path, capsys):
    """``run(source, *targets)`` -> (exit status, everything said)."""

    def run(source, *targets, more=(), folder=tmp_path):
        status = cli.main(
            [
                *(f"--src={source}", "--tgt", *map(str, targets), f"--datasets_dir={folder}", f"--n_centroids={K}"),
                *(f"--feat_dim={DIM}", f"--grid_size={GRID}", *more),
            ]
        )
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def two_targets(tmp_path, run):
    """A vocabulary with its source and another file assigned; returns both paths."""
    source, other = make(tmp_path / "train.h5", 1), make(tmp_path / "vg.h5", 2)
    assert run(source, source, other)[0] == 0
    return source, other


def right(vocabulary, path, target):
    """Whether every stored word is the nearest to the centroids that stand beside it."""
    import h5py

    with h5py.File(path) as file:
        return all(
            np.array_equal(vocabulary.ids(i, target), vocabulary.assign(file[i]["features"][()]).ravel()) for i in file
        )


def test_the_other_targets_of_a_new_vocabulary_are_moved_aside_and_said(tmp_path, two_targets, run):
    source, other = two_targets
    before = results.load_centroids(names(tmp_path).centroids)
    make(source, 7)
    status, said = run(source, source)
    assert status == 0
    former = tmp_path / "cluster_centroids" / f"former_{results.digest(before)[:8]}"
    assert f"results of a former vocabulary, made with other centroids, were moved to {former}" in said
    vocabulary = load_vocabulary(names(tmp_path).centroids)
    assert list(vocabulary.images) == ["train"]
    assert right(vocabulary, source, "train")
    old = load_vocabulary(former / names(tmp_path).centroids.name)  # nothing was lost, and it is whole there
    assert np.array_equal(old.centroids, before)
    assert set(old.images) == {"train", "vg"}
    assert right(old, other, "vg")
    assert not any("vg" in p.name for p in (tmp_path / "clustering").iterdir())


@pytest.mark.parametrize("copies", [False, True])
def test_a_folder_of_its_own_for_the_readers_is_cleared_too(tmp_path, run, copies, monkeypatch):
    (tmp_path / "clustering").mkdir()
    if copies:
        monkeypatch.setattr("pathlib.Path.symlink_to", lambda *_, **__: (_ for _ in ()).throw(OSError("no links")))
    source, other = make(tmp_path / "train.h5", 1), make(tmp_path / "vg.h5", 2)
    assert run(source, source, other)[0] == 0
    assert sum("_vg_" in p.name for p in (tmp_path / "clustering").iterdir()) == 4
    make(source, 7)
    assert run(source, source)[0] == 0
    left = [p for p in (tmp_path / "clustering").iterdir() if p.is_file() or p.is_symlink()]
    assert left
    assert all(p.exists() and "_vg_" not in p.name for p in left)
    assert list(load_vocabulary(tmp_path / "clustering" / names(tmp_path).centroids.name).images) == ["train"]


def test_the_same_centroids_again_move_nothing(tmp_path, two_targets, run):
    source, _ = two_targets
    status, said = run(source, source, more=["--restart"])
    assert status == 0
    assert "former" not in said
    assert set(load_vocabulary(names(tmp_path).centroids).images) == {"train", "vg"}


def test_given_centroids_do_not_serve_what_others_made(tmp_path, two_targets, run):
    """--assign_only with centroids put in place by hand."""
    source, other = two_targets
    given = np.random.default_rng(0).random((K, DIM), np.float32)
    np.save(names(tmp_path).centroids, given)
    with pytest.raises(VocabularyError, match="other centroids"):
        load_vocabulary(names(tmp_path).centroids)
    status, said = run(source, other, more=["--assign_only"])
    assert status == 0
    assert "former vocabulary" in said
    vocabulary = load_vocabulary(names(tmp_path).centroids)
    assert list(vocabulary.images) == ["vg"]
    assert right(vocabulary, other, "vg")


def test_what_nobody_knows_the_centroids_of_stays_with_given_ones(tmp_path, two_targets, run):
    """As the published script leaves it: no statistics, and nothing in the files."""
    source, _ = two_targets
    for path in [*tmp_path.rglob("*.npz"), *tmp_path.rglob("*.json")]:
        path.unlink()
    assert run(source, source, more=["--assign_only"])[0] == 0
    assert names(tmp_path).cluster_index("vg").exists()


def test_a_mixture_is_refused_in_files_of_earlier_versions_too(tmp_path, two_targets):
    """Earlier versions wrote no digest into the .npz, and forgot the other targets when they clustered anew."""
    for target in ("train", "vg"):
        path = names(tmp_path).image_clusters(target).with_suffix(".npz")
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("image_ids", "cluster_ids")}
        np.savez(path, **arrays)
    assert set(load_vocabulary(names(tmp_path).centroids).images) == {"train", "vg"}
    stats = json.loads(names(tmp_path).stats.read_text())
    del stats["targets"]["vg"]
    names(tmp_path).stats.write_text(json.dumps(stats))
    with pytest.raises(VocabularyError, match=r"vg.*other centroids"):
        load_vocabulary(names(tmp_path).centroids)


def test_a_single_foreign_index_is_refused(tmp_path, two_targets, run):
    _, other = two_targets
    stranger = make(tmp_path / "b" / "train.h5", 9)
    assert run(stranger, other, folder=tmp_path / "b")[0] == 0
    for path in (names(tmp_path / "b").image_clusters("vg").with_suffix(".npz"),):
        shutil.copy(path, names(tmp_path).folder)
    with pytest.raises(VocabularyError, match="other centroids"):
        load_vocabulary(names(tmp_path).centroids)


def test_a_source_whose_name_goes_on_is_another_vocabulary(tmp_path, run):
    """maskrcnn_coco_train_vg_... is target vg of coco_train, not target train_vg of coco."""
    short, longer, other = (make(tmp_path / f"{n}.h5", i) for i, n in enumerate(("coco", "coco_train", "vg")))
    assert run(short, short)[0] == run(longer, other)[0] == 0
    assert list(load_vocabulary(names(tmp_path, "coco").centroids).images) == ["coco"]
    make(short, 9)
    assert run(short, short)[0] == 0
    assert list(load_vocabulary(names(tmp_path, "coco_train").centroids).images) == ["vg"]


def test_two_sources_with_one_stem_do_not_overwrite_each_other(tmp_path, two_targets, run):
    source, _ = two_targets
    before = {p: p.read_bytes() for p in (tmp_path / "cluster_centroids").iterdir() if p.is_file()}
    other = make(tmp_path / "b" / "train.h5", 9)
    status, said = run(other, other)
    assert status == 2
    assert f"is of {source}, and {other} would get the same name" in said
    assert before == {p: p.read_bytes() for p in (tmp_path / "cluster_centroids").iterdir() if p.is_file()}
    assert run(other, other, more=["--restart"])[0] == 0  # asked for by name, it takes the name, and nothing is lost
    assert len(list((tmp_path / "cluster_centroids").glob("former_*/*.npy"))) == 3
    source.unlink()
    assert run(other, other)[0] == 0


def test_nor_does_one_overwrite_the_other_ones_interrupted_run(tmp_path, run, monkeypatch):
    source, other = make(tmp_path / "train.h5", 1), make(tmp_path / "b" / "train.h5", 9)
    with monkeypatch.context() as patch:
        patch.setattr("kmeans.train.iteration_line", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(source, source)[0] == 130
    status, said = run(other, other)
    assert status == 2
    assert "would get the same name" in said
    status, said = run(source, source)
    assert status == 0
    assert "resuming after iteration 1" in said


def test_two_targets_with_one_stem_do_not_overwrite_each_other(tmp_path, two_targets, run):
    source, target = two_targets
    other = make(tmp_path / "b" / "vg.h5", 9)
    index = names(tmp_path).cluster_index("vg").read_bytes()
    status, said = run(source, other)
    assert status == 2
    assert f"for vg are of {target}, and {other} would get the same name" in said
    assert names(tmp_path).cluster_index("vg").read_bytes() == index


def test_killed_while_it_makes_way_the_next_run_ends_it(tmp_path, two_targets, run, monkeypatch):
    from pathlib import Path

    source, _ = two_targets
    make(source, 7)
    real, moves = Path.replace, []

    def replace(self, target):
        if "former_" in str(target):
            moves.append(target)
            if len(moves) == 4:
                raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        assert run(source, source)[0] == 130
    assert set(load_vocabulary(names(tmp_path).centroids).images) <= {"train", "vg"}  # whatever is left fits
    assert run(source, source)[0] == 0
    assert list(load_vocabulary(names(tmp_path).centroids).images) == ["train"]
    assert len(list((tmp_path / "cluster_centroids").glob("former_*"))) == 1
    assert not [p for p in (tmp_path / "cluster_centroids").iterdir() if "_vg_" in p.name]
