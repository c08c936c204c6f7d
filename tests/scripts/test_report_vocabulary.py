"""The vocabulary on the page: its words, their nearest cells and neighbours, its figures; damage is told."""

from __future__ import annotations

import os
import pickle
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.album import CENTROIDS, HEAD, TAIL, K, coco_id, grids_of, page, words_file
from PIL import Image

from feature_extraction.errors import UnknownName, UsageError
from kmeans.nearest_cells import KEPT
from scripts.report import files, nearest, words
from scripts.report.nearest import Chosen
from scripts.report.photographs import Photographs, Thumbnail
from scripts.report.plots import Plots
from scripts.report.vocabulary_rows import choose_words

# --- the vocabulary ----------------------------------------------------------------------------------


def vocabulary_in(datasets: Path) -> words.Vocabulary:
    (found,), _ = words.vocabularies_in(datasets, files.entries_in(datasets))
    return found


def test_words_are_counted(album: Path) -> None:
    vocabulary = vocabulary_in(album)
    assert (vocabulary.k, vocabulary.d, vocabulary.grid_size, vocabulary.cells) == (K, 64, 8, 8 * 64)
    index = np.concatenate(
        [
            np.load(album / "cluster_centroids" / f"{HEAD}_{t}_cluster_index_centroids{TAIL}.npy")
            for t in ("mscoco_valid", "vg")
        ]
    )
    assert vocabulary.sizes.tolist() == np.bincount(index.ravel(), minlength=K).tolist()
    assert vocabulary.used == len(np.unique(index))
    assert [vocabulary.sizes[w] for w in vocabulary.by_size] == sorted(vocabulary.sizes[vocabulary.sizes > 0])[::-1]


def rows_of(text: str) -> dict[str, str]:
    return {m[1]: m[0] for m in re.finditer(r'<article class="row" id="w(\d+)">.*?</article>', text, re.S)}


def test_every_word_of_a_grid_has_a_row(album: Path) -> None:
    text = page(album)
    in_grids = set(re.findall(r'<a href="#w(\d+)" aria-label="row', text))
    assert in_grids <= set(rows_of(text))
    vocabulary = vocabulary_in(album)
    for word, row in rows_of(text).items():
        assert f"{vocabulary.sizes[int(word)]} cell" in row
        cells = len(re.findall(r'<svg viewBox="\d+ 0 \d+ 56"', row))
        assert cells == min(12, vocabulary.sizes[int(word)])


def test_the_nearest_cells_are_the_nearest(album: Path) -> None:
    vocabulary = vocabulary_in(album)
    entries = {e.label: e for e in files.entries_in(album) if e.whole and e.spec == "grid"}
    found = nearest.nearest_cells(vocabulary, words.Postings(vocabulary), Chosen([0], range(K)), entries)
    assert "of all cells of 8 images of mscoco_valid and vg." in found.how
    grids = {**grids_of(album, "COCO", "valid_"), **grids_of(album, "VG", "")}
    for word in range(K):
        every = []
        for target in vocabulary.targets:
            for image_id, ids in zip(target.ids, target.words, strict=True):
                for cell in np.flatnonzero(ids == word):
                    away = grids[image_id][cell].astype(float) - vocabulary.centroids[word]
                    every.append((float(away @ away), target.name, image_id, int(cell)))
        expected = sorted(every)[:KEPT]
        got = [(c.distance, c.target, c.image_id, c.cell) for c in found.cells.get(word, [])]
        assert [g[1:] for g in got] == [e[1:] for e in expected]
        np.testing.assert_allclose([g[0] for g in got], [e[0] for e in expected], rtol=1e-5)


def test_reading_is_bounded_and_said(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "MAX_IMAGES", 3)
    vocabulary = vocabulary_in(album)
    rarest = int(vocabulary.by_size[-1])
    entries = {e.label: e for e in files.entries_in(album) if e.whole and e.spec == "grid"}
    found = nearest.nearest_cells(vocabulary, words.Postings(vocabulary), Chosen([rarest], range(K)), entries)
    assert "those in 3 of 8 images" in found.how
    assert len({c.image_id for cells in found.cells.values() for c in cells}) <= 3
    assert rarest in found.cells  # the word that matters most is looked for first


def test_cells_are_cut_where_they_lie(datasets: Path) -> None:
    from scripts.report.photographs import CellCut

    pixels = np.zeros((160, 240, 3), np.uint8)
    pixels[40:60, 90:120] = (255, 0, 0)  # row 2, column 3 of an 8 x 8 grid of 20 x 30 pixels
    path = datasets / "red.png"
    Image.fromarray(pixels).save(path)
    photographs = Photographs(datasets)
    wanted = [CellCut(path, 8, 2 * 8 + 3), CellCut(path, 8, 2 * 8 + 4)]
    for what in wanted:
        photographs.want(what)
    photographs.load()
    red, black = (photographs.get(what).image for what in wanted)
    assert red is not None
    assert black is not None
    assert red.size == (84, 56)
    assert np.asarray(red)[8:-8, 8:-8, 0].min() >= 250
    assert np.asarray(black)[:, 12:].max() == 0  # beside the seam, which the smoothing blurs


def test_large_photographs_are_read_small(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)).save(path)
    photographs = Photographs(tmp_path)
    photographs.want(what := Thumbnail(path, 200))
    photographs.load()
    picture = photographs.get(what)
    assert picture.size == (2000, 1500)
    assert picture.image is not None
    assert picture.image.size == (200, 150)


def test_similar_images_share_most_words(album: Path) -> None:
    vocabulary = vocabulary_in(album)
    found = words.Postings(vocabulary).similar_images(vocabulary.targets[0].words[2], ("mscoco_valid", coco_id(3)), 5)
    mine = Counter(vocabulary.targets[0].words[2].tolist())
    every = sorted(
        (
            (-sum((mine & Counter(ids.tolist())).values()), n, row, target.ids[row])
            for n, target in enumerate(vocabulary.targets)
            for row, ids in enumerate(target.words)
        )
    )
    expected = [(image_id, -common) for common, _, _, image_id in every if image_id != coco_id(3) and common][:5]
    assert [(image_id, common) for _, image_id, common in found] == expected


def test_nearest_words_are_those_of_the_nearest_centroids(album: Path) -> None:
    centroids = vocabulary_in(album).centroids
    found = words.nearest_words(centroids, list(range(K)), 4)
    away = np.linalg.norm(centroids[:, None].astype(float) - centroids[None], axis=-1)
    np.fill_diagonal(away, np.inf)
    for word in range(K):
        assert [w for w, _ in found[word]] == np.argsort(away[word], kind="stable")[:4].tolist()
    assert words.nearest_words(centroids[:1], [0], 4) == {0: []}


def test_words_by_size_and_those_asked_for(album: Path) -> None:
    vocabulary = vocabulary_in(album)
    by_size = vocabulary.by_size.tolist()
    lists = choose_words(vocabulary, (by_size[0], by_size[-1]), [])
    assert lists["Asked for"] == [by_size[0], by_size[-1]]
    assert lists["The largest"] == by_size[1:8]
    assert sorted(word for found in lists.values() for word in found) == sorted(by_size)
    text = page(album, words=(3,))
    assert re.search(r'<h3>Asked for</h3>\s*<article class="row" id="w3">', text)
    for wrong in (-1, K):
        with pytest.raises(UsageError, match=f"no word {wrong}; .* has 0 to {K - 1}"):
            page(album, words=(wrong,))


def test_words_without_cells_still_have_a_row(album: Path) -> None:
    text = page(album, rows=4)
    rows = rows_of(text)
    assert len(rows) == K
    bare = [row for row in rows.values() if "--words" in row]
    assert len(bare) == K - 4
    assert not any("<use" in row for row in bare)


def test_a_word_that_nothing_has(datasets: Path) -> None:
    for target in ("mscoco_valid", "vg"):
        with np.load(words_file(datasets, target)) as file:
            content = dict(file)
        content["cluster_ids"][content["cluster_ids"] == 5] = 4
        np.savez(words_file(datasets, target), **content)
    text = page(datasets, words=(5,))
    assert "vocabulary of 12 words, 11 used" in text
    assert "1 unused word" in text
    others = "".join(row for word, row in rows_of(page(datasets)).items() if word != "5")
    assert 'href="#w5"' not in others  # it has no row unless it is asked for
    assert re.search(r"</span>5</a>", others)
    assert "No cell has this word." in rows_of(text)["5"]


def test_the_published_indices_suffice(datasets: Path) -> None:
    before = page(datasets)
    for target in ("mscoco_valid", "vg"):
        words_file(datasets, target).unlink()
    after = page(datasets)
    assert rows_of(after).keys() == rows_of(before).keys()
    assert [len(r) for r in rows_of(after).values()] == [len(r) for r in rows_of(before).values()]


def test_pickles_are_never_opened(datasets: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return os.system, (f"touch {datasets / 'opened'}",)

    path = words_file(datasets, "vg")
    path.with_suffix(".pkl").write_bytes(pickle.dumps(Evil()))
    np.savez(path, image_ids=np.array(["1", "2"]), cluster_ids=np.array([Evil(), Evil()], dtype=object))
    text = page(datasets)
    assert not (datasets / "opened").exists()
    assert "the words of vg cannot be used" in text


@pytest.mark.parametrize(
    "wrong",
    [np.full((2, 64), K), np.full((2, 64), -1), np.zeros((2, 63), int), np.zeros((2, 64))],
    ids=["k", "-1", "63", "float"],
)
def test_words_of_another_vocabulary_are_told(datasets: Path, wrong: np.ndarray) -> None:
    np.savez(words_file(datasets, "vg"), image_ids=np.array(["1", "2"]), cluster_ids=wrong)
    text = page(datasets)
    assert "the words of vg cannot be used" in text
    assert f'aria-label="Grid of {coco_id(1)}' in text


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04cut"], ids=["empty", "cut npy", "cut zip"])
def test_damaged_results_do_not_stop_the_page(datasets: Path, content: bytes) -> None:
    words_file(datasets, "vg").write_bytes(content)
    (datasets / "cluster_centroids" / "maskrcnn_vg_centroids5_iter20_d64_grid8.npy").write_bytes(content)
    (datasets / "cluster_centroids" / f"{CENTROIDS}.stats.json").write_bytes(content)
    assert "the words of vg cannot be used" in page(datasets)


def test_centroids_that_are_not_what_their_name_says_are_told(datasets: Path) -> None:
    np.save(datasets / "cluster_centroids" / CENTROIDS, np.ones((K, 32), np.float32))
    text = page(datasets)
    assert "holds an array of shape (12, 32), expected (12, 64)" in text
    assert "no vocabulary yet" in text


def test_features_of_another_width_do_not_stop_the_page(datasets: Path) -> None:
    with h5py.File(datasets / "VG/features/maskrcnn_grid8.h5", "a") as file:
        del file["2/features"]
        file["2/features"] = np.ones((8, 8, 32), np.float32)
    text = page(datasets)
    assert "Of vg not all could be read" in text
    assert "features of shape (8, 8, 32) for 64 cells of 64 values" in text


@pytest.mark.parametrize("name", ["features", "boxes"])
def test_nothing_outside_a_feature_file_is_read(datasets: Path, tmp_path: Path, name: str) -> None:
    path = datasets / "COCO/features" / f"maskrcnn_valid_{'grid8' if name == 'features' else 'boxes36'}.h5"
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["values"] = np.full((8, 8, 64) if name == "features" else (36, 4), 7, np.float32)
    with h5py.File(path, "a") as file:
        del file[coco_id(1)][name]
        file[coco_id(1)][name] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "values")
    text = page(datasets)
    assert '<p class="remark">' in text
    assert f'aria-label="Photograph {coco_id(1)}"' in text
    if name == "boxes":
        assert f'aria-label="The 36 boxes of {coco_id(1)}, listed below"' not in text


def kept_of(datasets: Path, target: str, digest: str | None = None) -> None:
    """Nearest cells of a target as the k-means keeps them: here word w's are the cells w and w + 1 of image 0."""
    vocabulary = vocabulary_in(datasets)
    image, cell = np.full((K, KEPT), -1, np.int32), np.full((K, KEPT), -1, np.int32)
    distance = np.full((K, KEPT), np.inf, np.float32)
    image[:, :2], cell[:, 0], cell[:, 1] = 0, np.arange(K), np.arange(K) + 1
    distance[:, :2] = [1, 4]
    ids = next(t for t in vocabulary.targets if t.name == target).ids[:1]
    np.savez(
        datasets / "cluster_centroids" / f"{HEAD}_{target}_nearest_cells_{TAIL}.npz",
        image_ids=np.array(ids), image=image, cell=cell, distance=distance,
        centroids_sha256=np.array(digest or vocabulary.digest),
    )  # fmt: skip


def test_cells_that_the_kmeans_kept_are_shown_without_reading_features(
    datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target in ("mscoco_valid", "vg"):
        kept_of(datasets, target)
    monkeypatch.setattr(nearest, "_Reader", None)
    text = page(datasets)
    assert "of all cells of mscoco_valid and vg, as the k-means kept them." in text
    shown = re.findall(r'<svg viewBox="[^"]*" role="img"><title>([^<]*)<', rows_of(text)["3"])
    expected = [(coco_id(1), 3, 1), ("1", 3, 1), (coco_id(1), 4, 2), ("1", 4, 2)]
    assert shown == [f"{image}, cell {cell}, distance {away}" for image, cell, away in expected]


def test_kept_cells_of_other_centroids_are_not_shown(datasets: Path) -> None:
    kept_of(datasets, "vg", digest="0" * 64)
    text = page(datasets)
    assert "as the k-means kept them" not in text
    assert "of all cells of 8 images of mscoco_valid and vg." in text


def test_kept_cells_that_are_damaged_are_told(datasets: Path) -> None:
    path = datasets / "cluster_centroids" / f"{HEAD}_vg_nearest_cells_{TAIL}.npz"
    path.write_bytes(b"PK\x03\x04cut")
    text = page(datasets)
    assert "an .npz file of nearest cells" in text
    assert "of all cells of 8 images of mscoco_valid and vg." in text


def test_words_made_with_other_centroids_are_told(datasets: Path) -> None:
    path = words_file(datasets, "vg")
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **content, centroids_sha256=np.array("0" * 64))
    assert "the words of vg cannot be used: they were made with other centroids" in page(datasets)


def test_the_words_of_a_longer_source_are_not_ours(datasets: Path) -> None:
    """With sources mscoco and mscoco_valid, mscoco_valid_vg is target vg of the second."""
    folder = datasets / "cluster_centroids"
    for target in ("mscoco_valid", "vg"):
        words_file(datasets, target).unlink()
    (folder / f"maskrcnn_mscoco_centroids{TAIL}.npy").write_bytes((folder / CENTROIDS).read_bytes())
    found, _ = words.vocabularies_in(datasets, files.entries_in(datasets))
    assert {v.name: [t.name for t in v.targets] for v in found} == {
        CENTROIDS.removesuffix(".npy"): ["mscoco_valid", "vg"],
        f"maskrcnn_mscoco_centroids{TAIL}": [],
    }
    assert [v.remarks for v in found] == [[], []]


def test_another_vocabulary_can_be_chosen(datasets: Path) -> None:
    other = "maskrcnn_vg_centroids5_iter20_d64_grid8"
    np.save(datasets / "cluster_centroids" / f"{other}.npy", np.ones((5, 64), np.float32))
    assert f"<code>--vocabulary {other}</code>" in page(datasets)
    text = page(datasets, vocabulary=f"{other}.npy")
    assert "vocabulary of 5 words, no images assigned to it yet" in text
    with pytest.raises(UnknownName, match=other):
        page(datasets, vocabulary="none")


# --- figures -----------------------------------------------------------------------------------------


def texts_of(svg: str) -> list[str]:
    return ["".join(e.itertext()).strip() for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 20])
def test_iterations_are_whole_numbers(count: int) -> None:
    svg = str(Plots().objective([1000.0 / (i + 1) for i in range(count)]))
    svg = svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    numbers = [t for t in texts_of(svg) if t not in ("iteration", "objective")]
    assert numbers
    assert all(re.fullmatch(r"-?[\d,]+", t.replace("\N{MINUS SIGN}", "-")) for t in numbers), numbers


@pytest.mark.parametrize("sizes", [[5, 5, 5], [1], [100_000, 3, 1], [1] * 5000])
def test_sizes_are_whole_numbers(sizes: list[int]) -> None:
    svg = str(Plots().sizes(np.array(sizes))).replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    numbers = [t for t in texts_of(svg) if not re.search("[a-z]", t)]
    assert numbers
    assert all(re.fullmatch(r"[\d,]+", t) for t in numbers), numbers


def test_a_single_word_is_seen() -> None:
    svg = str(Plots().sizes(np.array([0, 384, 0])))
    assert re.search(r'<use [^>]*style="fill: var\(--accent\)', svg)  # a point


def test_figures_have_the_colours_of_the_page() -> None:
    svg = str(Plots().objective([2.0, 1.0]))
    assert "currentColor" in svg
    assert "var(--accent)" in svg
    assert "#000000" not in svg
    assert "<style" not in svg


def test_features_that_are_not_finite_have_no_figures(datasets: Path) -> None:
    with h5py.File(datasets / "COCO/features/maskrcnn_valid_grid8.h5", "a") as file:
        file[coco_id(1)]["features"][0, 0, 0] = np.nan
    assert "Figures of" in page(datasets)
