"""What a run leaves behind: links, safe formats, statistics; and how the vocabulary is read back."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest
from helpers.kmeans_cases import cluster, environment, features, write_features

from feature_extraction.errors import VocabularyError
from kmeans import load_vocabulary
from kmeans import results as formats


@pytest.fixture
def results(tmp_path):
    """A finished run over 12 images of 4 x 4 cells; returns the folder of its results."""
    path = write_features(tmp_path / "some.h5", features(12, 4, 5))
    cluster(path, tmp_path, 6, grid=4)
    return tmp_path / "cluster_centroids"


def test_importing_loads_neither_torch_nor_faiss():
    code = (
        "import sys, kmeans, kmeans.cli, kmeans.pipeline, kmeans.vocabulary;"
        "print(sorted({'torch', 'faiss'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_relative_link_makes_both_folders_one(results):
    link = results.parent / "clustering"
    assert link.is_symlink()
    assert str(link.readlink()) == "cluster_centroids"


def test_a_folder_that_exists_gets_relative_links(tmp_path):
    (tmp_path / "clustering").mkdir()
    (tmp_path / "clustering" / "mine.npy").write_bytes(b"kept")
    path = write_features(tmp_path / "some.h5", features(12, 4, 5))
    for _ in range(2):
        cluster(path, tmp_path, 6, grid=4, restart=True)
        links = [p for p in (tmp_path / "clustering").iterdir() if p.name != "mine.npy"]
        assert len(links) == 5  # centroids, index, .npz, .pkl, nearest cells
        assert all(str(p.readlink()) == f"../cluster_centroids/{p.name}" and p.exists() for p in links)
    assert (tmp_path / "clustering" / "mine.npy").read_bytes() == b"kept"


@pytest.mark.parametrize("folder_exists", [False, True])
def test_copies_where_links_fail(tmp_path, monkeypatch, folder_exists):
    def fail(*_, **__):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", fail)
    if folder_exists:
        (tmp_path / "clustering").mkdir()
    path = write_features(tmp_path / "some.h5", features(12, 4, 5))
    for _ in range(2):
        cluster(path, tmp_path, 6, grid=4, restart=True)
        for copy in (tmp_path / "clustering").iterdir():
            assert not copy.is_symlink()
            assert copy.read_bytes() == (tmp_path / "cluster_centroids" / copy.name).read_bytes()
        assert len(list((tmp_path / "clustering").iterdir())) == 5


def test_something_in_the_way_is_not_removed(tmp_path):
    (tmp_path / "clustering").write_text("mine")
    path = write_features(tmp_path / "some.h5", features(12, 4, 5))
    with pytest.raises(VocabularyError, match="in the way"):
        cluster(path, tmp_path, 6, grid=4)
    assert (tmp_path / "clustering").read_text() == "mine"


def test_the_pickle_names_only_what_every_numpy_has(results):
    """numpy 2 would write ``numpy._core``, which the numpy of the published readers' time does not know."""
    (path,) = results.glob("*.pkl")
    names = set()

    class Names(pickle.Unpickler):
        def find_class(self, module, name):
            names.add((module, name))
            return super().find_class(module, name)

    with open(path, "rb") as file:
        found = Names(file).load()
    assert names == {("numpy", "ndarray"), ("numpy", "dtype")}
    assert {v.dtype for v in found.values()} == {np.dtype(np.int64)}
    assert {v.shape for v in found.values()} == {(16,)}


def test_the_statistics(results):
    stats = json.loads(next(results.glob("*.stats.json")).read_text())
    assert stats["training"]["source"]["images"] == 12
    assert stats["training"]["faiss"] == faiss.__version__
    assert (stats["rows"], stats["rows_used"]) == (192, 192)
    assert stats["threads"] >= 1
    assert stats["source_provenance"] == {}
    rows = features(12, 4, 5).reshape(-1, 5)
    kmeans = faiss.Kmeans(5, 6, niter=20)
    kmeans.train(rows)
    assert [i["objective"] for i in stats["iterations"]] == kmeans.obj.tolist()
    assert [i["empty_split"] for i in stats["iterations"]] == [s["nsplit"] for s in kmeans.iteration_stats]
    imbalance = [s["imbalance_factor"] for s in kmeans.iteration_stats]
    assert np.allclose([i["imbalance"] for i in stats["iterations"]], imbalance)
    assert stats["targets"]["some"]["rows"] == 192
    assert stats["targets"]["some"]["clusters_used"] == 6


def test_provenance_of_the_source_is_kept(tmp_path):
    import h5py

    path = write_features(tmp_path / "some.h5", features(12, 4, 5))
    with h5py.File(path, "a") as file:
        file.attrs["engine"] = "native"
        file.attrs["schema_version"] = 1
    cluster(path, tmp_path, 6, grid=4)
    stats = json.loads(next((tmp_path / "cluster_centroids").glob("*.stats.json")).read_text())
    assert stats["source_provenance"] == {"engine": "native", "schema_version": 1}


# --- the vocabulary ----------------------------------------------------------------------------------


def test_the_vocabulary(results):
    vocabulary = load_vocabulary(next(results.glob("*_some_centroids6_*.npy")))
    values = features(12, 4, 5)
    assert vocabulary.centroids.shape == (6, 5)
    ids = vocabulary.assign(values)
    assert ids.shape == (12, 4, 4)
    assert ids.dtype == np.int64
    for i in range(12):
        assert np.array_equal(vocabulary.ids(f"{i + 1:06}"), ids[i].ravel())
        assert np.array_equal(vocabulary.ids(f"{i + 1:06}", target="some"), ids[i].ravel())
    assert np.array_equal(vocabulary.assign(vocabulary.centroids), np.arange(6))
    assert vocabulary.assign(values[0, 0, 0]).shape == ()
    assert vocabulary.assign(values[:0]).shape == (0, 4, 4)
    with pytest.raises(KeyError, match="no image 'x'"):
        vocabulary.ids("x")
    with pytest.raises(KeyError, match="loaded: some"):
        vocabulary.ids("000001", target="vg")
    with pytest.raises(ValueError, match="should be 5"):
        vocabulary.assign(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="NaN"):
        vocabulary.assign(np.full((3, 5), np.nan))


def test_a_vocabulary_goes_to_other_processes_and_is_told_in_one_line(results):
    vocabulary = load_vocabulary(next(results.glob("*_some_centroids6_*.npy")))
    words = vocabulary.assign(vocabulary.centroids)  # from here on it holds a search, which has threads
    again = pickle.loads(pickle.dumps(vocabulary))
    assert np.array_equal(again.assign(vocabulary.centroids), words)
    assert np.array_equal(again.ids("000001"), vocabulary.ids("000001"))
    assert repr(vocabulary) == "Vocabulary(6 words of 5 numbers; some (12 images))"


def test_an_image_of_two_targets_needs_the_targets_name(tmp_path):
    np.save(tmp_path / "c.npy", np.eye(3, dtype=np.float32))
    for name, ids in (("a", [0, 1]), ("b", [2, 2])):
        formats.save_image_clusters(tmp_path / f"{name}.pkl", tmp_path / "w", ["7", "8"], np.array([ids, [1, 1]]), "")
    files = {name: tmp_path / f"{name}.npz" for name in "ab"}
    vocabulary = load_vocabulary(tmp_path / "c.npy", files)
    assert vocabulary.ids("8").tolist() == [1, 1]
    assert vocabulary.ids("7", target="b").tolist() == [2, 2]
    with pytest.raises(KeyError, match="a and b"):
        vocabulary.ids("7")


def test_pickles_and_other_files_are_never_opened(results, tmp_path):
    path = next(results.glob("*_some_centroids6_*.npy"))
    with pytest.raises(VocabularyError, match="pickles are not read"):
        load_vocabulary(path, list(results.glob("*.pkl")))
    with pytest.raises(VocabularyError, match="does not exist"):
        load_vocabulary(path, [tmp_path / "no.npz"])
    formats.save_image_clusters(tmp_path / "other.pkl", tmp_path / "w", ["1"], np.array([[6]]), "")
    with pytest.raises(VocabularyError, match="names clusters"):
        load_vocabulary(path, [tmp_path / "other.npz"])


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_damaged_notes_count_as_none(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert formats.load_json(tmp_path / "x.json") == {}
    assert formats.load_json(tmp_path / "no.json") == {}
    (tmp_path / "x.npz").write_bytes(content)
    assert formats.load_checkpoint(tmp_path / "x.npz") is None


def test_a_checkpoint_is_what_was_saved_or_nothing(tmp_path):
    centroids = np.eye(2, dtype=np.float32)
    formats.save_checkpoint(tmp_path / "c.npz", {"k": 2}, centroids, {"history": []})
    found, state, key = formats.load_checkpoint(tmp_path / "c.npz")
    assert np.array_equal(found, centroids)
    assert (state, key) == ({"history": []}, {"k": 2})
    whole = (tmp_path / "c.npz").read_bytes()
    for at in range(0, len(whole), 7):  # a flipped bit anywhere: the same or none, never another
        (tmp_path / "c.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        again = formats.load_checkpoint(tmp_path / "c.npz")
        assert again is None or (np.array_equal(again[0], centroids) and again[1:] == (state, key))


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    (tmp_path / "x").write_bytes(b"old")

    def fail():
        with formats.published(tmp_path / "x", tmp_path / "work") as file:
            file.write(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["work", "x"]
    assert list((tmp_path / "work").iterdir()) == []
    assert (tmp_path / "x").read_bytes() == b"old"


def test_centroids_that_were_changed_since_are_not_taken_for_those_of_the_run(results, tmp_path):
    (path,) = (p for p in results.glob("*_centroids*.npy") if "_cluster_index_" not in p.name)
    expected = np.load(path)
    np.save(path, expected[::-1])
    cluster(tmp_path / "some.h5", tmp_path, 6, grid=4)
    assert np.array_equal(np.load(path), expected)
