"""The page about what was made: what it shows is right, nothing of a user's names acts, damage is told, not raised."""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import os
import pickle
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.album import CENTROIDS, HEAD, TAIL, K, coco_id, grids_of, image_file, make_album, words_file
from PIL import Image

from feature_extraction.errors import KitError, StoreError, UnknownName, UsageError
from kmeans.nearest_cells import KEPT
from scripts.report import __main__ as report
from scripts.report import files, nearest, words
from scripts.report.nearest import Chosen
from scripts.report.page import PageOptions, page_of
from scripts.report.photographs import Photographs, Thumbnail, recorded_path
from scripts.report.plots import Plots
from scripts.report.verdict import verdict, warnings_of
from scripts.report.vocabulary_rows import choose_words

VOID = {"meta", "input", "br", "img", "link", "wbr"}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole and sound; for tests that only look."""
    return make_album(tmp_path_factory.mktemp("album") / "datasets")


@pytest.fixture
def datasets(tmp_path: Path) -> Path:
    """The same, to be changed."""
    return make_album(tmp_path / "datasets")


def page(datasets: Path, **options: object) -> str:
    return page_of(PageOptions(datasets=datasets, **options))  # type: ignore[arg-type]


class Elements(HTMLParser):
    """Every tag of a page with its attributes; tags are closed in the order in which they were opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self._open[-3:])

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


# --- files and the verdict ---------------------------------------------------------------------------


def test_states_of_the_files(datasets: Path) -> None:
    coco = datasets / "COCO/features"
    (coco / "maskrcnn_test_grid8.h5.work").mkdir()
    (coco / "maskrcnn_test_boxes36.h5").write_bytes(b"\x89HDF cut")
    (coco / "maskrcnn_valid_boxes100.h5").write_bytes((coco / "maskrcnn_valid_boxes36.h5").read_bytes())
    (coco / "maskrcnn_train_boxes100.h5.work").mkdir()
    entries = {e.name: e for e in files.entries_in(datasets)}
    assert len(entries) == 18
    assert entries["COCO/features/maskrcnn_valid_grid8.h5"].whole
    assert entries["COCO/features/maskrcnn_valid_grid8.h5"].ids == [coco_id(n) for n in range(1, 7)]
    assert entries["COCO/features/maskrcnn_test_grid8.h5"].state == "unfinished"
    assert entries["COCO/features/maskrcnn_test_boxes36.h5"].state == "damaged"
    assert "HDF5" in entries["COCO/features/maskrcnn_test_boxes36.h5"].why
    assert entries["GQA/features/maskrcnn_grid8.h5"].state == "missing"
    further = entries["COCO/features/maskrcnn_valid_boxes100.h5"]
    assert (further.spec, further.row, further.whole) == ("boxes", None, True)
    clauses = verdict(list(entries.values()), None)
    assert clauses[0] == "4 of 16 files"
    assert {"1 further file", "2 files unfinished", "1 file damaged", "no vocabulary yet"} <= set(clauses)
    (told,) = warnings_of(list(entries.values()), None)
    assert told.startswith("damaged: COCO/features/maskrcnn_test_boxes36.h5 ")
    assert str(datasets) not in told


def test_the_verdict_is_a_sentence(album: Path) -> None:
    text = re.sub(r"<[^>]+>", "", re.search(r"<h1>(.*?)</h1>", page(album), re.S)[1])  # type: ignore[index]
    assert text.split("; ") == [
        "4 of 16 files", "6 of 40,504 images of COCO valid", "2 of 108,077 images of Visual Genome",
        "SYNTHETIC weights", "0 images failed", "vocabulary of 12 words, 12 used. ",
    ]  # fmt: skip


def test_real_weights_are_not_called_synthetic(tmp_path: Path) -> None:
    assert "SYNTHETIC" not in page(make_album(tmp_path / "d", synthetic=False))


def test_synthetic_weights_are_loud(album: Path) -> None:
    text = page(album)
    assert text.count("SYNTHETIC weights") == 1 + 1 + 4  # the verdict, the banner, each file


def test_different_checkpoints_and_settings_are_told(datasets: Path) -> None:
    with h5py.File(datasets / "VG/features/maskrcnn_grid8.h5", "a") as file:
        file.attrs["checkpoint_sha256"] = "00"
        file.attrs["precision"] = "tf32"
    text = page(datasets)
    assert "made with 2 different checkpoints" in text
    assert "the files differ in precision: float32, tf32" in text


def test_the_folder_of_the_published_downloads_is_known(tmp_path: Path, album: Path) -> None:
    folder = tmp_path / "d/NLVR2/features"
    folder.mkdir(parents=True)
    (folder / "maskrcnn_valid_grid8.h5").write_bytes((album / "VG/features/maskrcnn_grid8.h5").read_bytes())
    whole = [e for e in files.entries_in(tmp_path / "d") if e.whole]
    assert [(e.name, e.label) for e in whole] == [("NLVR2/features/maskrcnn_valid_grid8.h5", "nlvr_valid")]


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "0 of 16 files" in text
    assert "make kmeans" in text
    assert "16 of the published files are not here" in text


# --- the page as a document --------------------------------------------------------------------------


def test_the_page_needs_nothing_else(album: Path) -> None:
    elements = Elements(page(album))
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not elements.all("link")
    assert "@import" not in page(album)


def test_only_the_pages_own_script_may_run(album: Path) -> None:
    text = page(album)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in Elements(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_ids_are_unique_and_links_lead_somewhere(album: Path) -> None:
    elements = Elements(page(album))
    ids = Counter(a["id"] for _, a in elements.found if "id" in a)
    assert [i for i, count in ids.items() if count > 1] == []
    for _, attributes in elements.found:
        link = attributes.get("href") or attributes.get("xlink:href") or ""
        if link.startswith("#"):
            assert link[1:] in ids, link


def test_pictures_have_words_for_those_who_do_not_see_them(album: Path) -> None:
    elements = Elements(page(album))
    for attributes in elements.all("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true", attributes
    assert elements.all("html")[0]["lang"] == "en"
    assert any(m.get("name") == "viewport" for m in elements.all("meta"))
    assert "row 1, column 1: word " in page(album)


def test_the_pages_own_colours_can_be_read() -> None:
    """WCAG 2: text 4.5 to 1, the ring of the focus and the edges of fields 3 to 1; in light and dark."""
    style = (Path(report.__file__).parent / "report.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6})", rules)) for rules in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(schemes) == 2
    texts = [(ink, ground) for ink in ("ink", "quiet", "accent", "loud", "warn") for ground in ("paper", "raised")]
    texts += [("loud", "loud-paper"), ("warn", "warn-paper"), ("absent-ink", "absent")]
    for colours in schemes:
        for ink, ground in texts:
            dark, light = sorted(luminance(colours[name]) for name in (ink, ground))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def luminance(colour: str) -> float:
    channels = np.frombuffer(bytes.fromhex(colour), np.uint8) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_headings_go_down_one_by_one(album: Path) -> None:
    levels = [int(tag[1]) for tag, _ in Elements(page(album)).found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_hostile_names_and_attributes_are_only_text(datasets: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202e'
    features = datasets / "COCO/features"
    with h5py.File(features / "maskrcnn_valid_grid8.h5", "a") as file:
        file.attrs[evil[:60]] = evil
        file.attrs["device_name"] = evil
        file.attrs["numbers"] = np.arange(5)
        file[f"{evil[:20]}/features"] = np.ones((8, 8, 64), np.float32)
    failure = {"id": evil, "path": f"/none/{evil}.jpg", "reason": f"truncated & more {evil}"}
    (features / "maskrcnn_valid_grid8.report.json").write_text(json.dumps({"failed": [failure]}))
    (features / f"{evil[:20].replace('/', '')}.h5").write_bytes(b"cut")
    path = words_file(datasets, "mscoco_valid")
    with np.load(path) as file:
        ids, found = file["image_ids"].tolist(), file["cluster_ids"]
    np.savez(path, image_ids=np.array([*ids, evil]), cluster_ids=np.concatenate([found, found[:1]]))
    text = page(datasets)
    elements = Elements(text)
    assert len(elements.all("script")) == 1
    assert not elements.all("img")
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert "&lt;script&gt;alert(1)" in text
    assert "truncated &amp; more" in text
    assert "\\x1b[2J\\u202e" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)


# --- images ------------------------------------------------------------------------------------------


def test_an_image_is_shown_three_times(album: Path) -> None:
    text = page(album)
    for n in range(1, 7):
        assert f'aria-label="Photograph {coco_id(n)}"' in text
        assert f'aria-label="The 36 boxes of {coco_id(n)}, listed below"' in text
        assert f'aria-label="Grid of {coco_id(n)}, tinted by visual word; arrow keys move"' in text
    with np.load(words_file(album, "mscoco_valid")) as file:
        expected = [f"#w{word}" for word in file["cluster_ids"][0]]
    grid = re.search(rf'aria-label="Grid of {coco_id(1)}.*?</svg>', text, re.S)
    assert grid is not None
    assert re.findall(r'<a href="(#w\d+)"', grid[0]) == expected


def test_photographs_are_small_jpegs_each_once(album: Path) -> None:
    sprites = re.findall(r'<image id="(p\d+)" href="data:image/jpeg;base64,([^"]+)"', page(album))
    images = [Image.open(io.BytesIO(base64.b64decode(content))) for _, content in sprites]
    assert len(images) == 8 + 8 + K  # photographs, small ones of the similar images, a strip for each word
    assert max(max(i.size) for i in images[:8]) == 360
    assert len({content for _, content in sprites}) == len(sprites)


def test_images_are_spread_over_a_file() -> None:
    assert files.spread(100, 12) == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert files.spread(5, 12) == [0, 1, 2, 3, 4]
    assert files.spread(7, 1) == [0]
    assert files.spread(0, 12) == []


def test_the_number_of_images_can_be_chosen(album: Path) -> None:
    text = page(album, per_file=2)
    shown = re.findall(r'aria-label="Photograph ([^"]+)"', text)
    assert shown == [coco_id(1), coco_id(6), "1", "2"]


def test_absent_images_are_gray_with_their_id(datasets: Path) -> None:
    image_file(datasets, coco_id(2)).unlink()
    text = page(datasets)
    assert f'aria-label="No photograph of {coco_id(2)}"' in text
    assert re.search(rf'<text class="absent-id"[^>]*>{coco_id(2)}</text>', text)
    assert "no image of this id was found" in text
    assert f'aria-label="The 36 boxes of {coco_id(2)}, listed below"' in text


def test_images_may_lie_elsewhere(datasets: Path, tmp_path: Path) -> None:
    (datasets / "COCO/images").rename(tmp_path / "elsewhere")
    assert f'aria-label="No photograph of {coco_id(1)}"' in page(datasets)
    assert f'aria-label="Photograph {coco_id(1)}"' in page(datasets, images=(tmp_path / "elsewhere",))
    with pytest.raises(KitError, match="none"):
        page(datasets, images=(tmp_path / "none",))


def test_images_are_found_where_the_features_were_made_from(datasets: Path, tmp_path: Path) -> None:
    """A user's own files: no folder of the catalogue has their images."""
    features = datasets / "COCO/features"
    own = tmp_path / "own.jpg"
    image_file(datasets, coco_id(1)).rename(own)
    info = own.stat()
    source = {"path": str(own), "size": info.st_size, "mtime_ns": info.st_mtime_ns, "sha256": "0" * 64}
    with h5py.File(features / "maskrcnn_valid_grid8.h5", "a") as file:
        file[coco_id(1)].attrs["source"] = np.bytes_(json.dumps(source))
    text = page(datasets)
    assert f'aria-label="Photograph {coco_id(1)}"' in text
    assert not re.search(rf'aria-label="{coco_id(1)}, cell[^"]*: no photograph"', text)
    assert f'aria-label="image {coco_id(1)}: no picture"' not in text


def test_a_photograph_that_was_replaced_is_told(datasets: Path) -> None:
    Image.new("RGB", (300, 200)).save(image_file(datasets, coco_id(1)))
    assert "the photograph has 300 x 200 pixels" in page(datasets)


def test_the_recorded_file_is_looked_into_only_if_it_is_the_same(tmp_path: Path) -> None:
    image = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(image)
    info = image.stat()
    source = {"path": str(image), "size": info.st_size, "mtime_ns": info.st_mtime_ns, "sha256": "0" * 64}
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, change in (("same", {}), ("other", {"size": 1}), ("evil", {"path": 7}), ("gone", {"path": "/none"})):
            file.create_group(name).attrs["source"] = np.bytes_(json.dumps({**source, **change}))
        file.create_group("published")
        found = {name: recorded_path(file, name) for name in file}
    assert found == {"same": image, "other": None, "evil": None, "gone": None, "published": None}


@pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "fifo"])
def test_files_that_are_no_photographs_do_no_harm(datasets: Path, content: bytes | None) -> None:
    path = image_file(datasets, coco_id(3))
    path.unlink()
    os.mkfifo(path) if content is None else path.write_bytes(content)
    assert f'aria-label="No photograph of {coco_id(3)}"' in page(datasets)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("boxes", np.full((36, 4), np.nan, np.float32)),
        ("boxes", np.zeros((36, 3), np.float32)),
        ("boxes", np.zeros((36, 4), "S3")),
        ("obj_id", np.zeros(35, np.int64)),
        ("img_w", np.int64(-1)),
        ("img_w", np.arange(3)),
        ("features", np.full((36, 64), np.inf, np.float32)),
        ("obj_id", None),
    ],
    ids=["NaN", "3 columns", "text", "35 classes", "width -1", "three widths", "infinite features", "no classes"],
)
def test_arrays_that_are_wrong_are_told(datasets: Path, name: str, value: object) -> None:
    with h5py.File(datasets / "COCO/features/maskrcnn_valid_boxes36.h5", "a") as file:
        del file[coco_id(1)][name]
        if value is not None:
            file[coco_id(1)][name] = value
    text = page(datasets)
    Elements(text)
    assert f'aria-label="Photograph {coco_id(1)}"' in text
    assert f'aria-label="The 36 boxes of {coco_id(2)}, listed below"' in text
    if name != "features":
        assert '<p class="remark">' in text


def test_boxes_have_names_where_the_file_is(datasets: Path) -> None:
    with h5py.File(datasets / "COCO/features/maskrcnn_valid_boxes36.h5") as file:
        best = int(file[coco_id(1)]["obj_id"][0])
    assert f"<title>1: class {best}</title>" in page(datasets)
    names = [f"thing {i},other" for i in range(1600)]
    (datasets / "objects_vocab.txt").write_text("\n".join(names))
    assert f"<title>1: thing {best}</title>" in page(datasets)
    with pytest.raises(UsageError, match="No such file"):
        page(datasets, names=datasets / "none.txt")


def test_scores_are_shown_where_they_are_stored(datasets: Path) -> None:
    with h5py.File(datasets / "COCO/features/maskrcnn_valid_boxes36.h5", "a") as file:
        best = int(file[coco_id(1)]["obj_id"][0])
        file[f"{coco_id(1)}/cls_prob"] = np.tile(np.float32([0.9, 0.05, 0.25]), (36, 1))
    assert f"<title>1: class {best} 0.25</title>" in page(datasets)


def test_failures_come_with_what_can_be_seen_of_them(datasets: Path, tmp_path: Path) -> None:
    cut = image_file(datasets, coco_id(3))
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(content)
    failures = [
        {"id": coco_id(3), "path": str(cut), "reason": "truncated"},
        {"id": "secret", "path": str(secret), "reason": "outside"},
        {"id": "gone", "path": str(cut.parent / "gone.jpg"), "reason": "vanished"},
    ]
    (datasets / "COCO/features/maskrcnn_valid_boxes36.report.json").write_text(json.dumps({"failed": failures}))
    text = page(datasets)
    shown = re.search(r'<ul class="tiles">.*?</ul>', text, re.S)
    assert shown is not None
    one, outside, gone = re.findall(r"<li>.*?</li>", shown[0], re.S)
    assert "<use href=" in one
    assert "no picture" in outside
    assert "no picture" in gone
    assert all(reason in shown[0] for reason in ("truncated", "outside", "vanished"))
    assert "3 images failed" in text
    half = Photographs(datasets)
    half.want(what := Thumbnail(cut, 100, damaged=True))
    half.load()
    seen = half.get(what).image
    assert seen is not None
    assert np.asarray(seen)[: seen.height // 3].std() > 10


def test_many_failures_are_counted_not_listed(datasets: Path) -> None:
    failures = [{"id": str(i), "path": f"/x/{i}.jpg", "reason": "r" if i else "s"} for i in range(1000)]
    for name in ("maskrcnn_grid8", "maskrcnn_boxes36"):
        (datasets / f"VG/features/{name}.report.json").write_text(json.dumps({"failed": failures}))
    text = page(datasets)
    assert "1,000 images gave no features" in text
    assert "and 988 more, in the .report.json" in text
    assert "<li><strong>999</strong> r</li><li><strong>1</strong> s</li>" in text


def test_an_image_that_failed_for_grid_and_boxes_is_one(datasets: Path) -> None:
    failures = [{"id": str(i), "path": f"/x/{i}.jpg", "reason": "r"} for i in (7, 8)]
    for name in ("maskrcnn_grid8", "maskrcnn_boxes36"):
        (datasets / f"VG/features/{name}.report.json").write_text(json.dumps({"failed": failures}))
    text = page(datasets)
    assert '<span class="state">2 images failed;</span>' in text
    assert "the same as of <code>VG/features/maskrcnn_grid8.h5</code>" in text
    assert len(re.findall(r'<details open class="failures">', text)) == 1


def test_where_every_image_failed_that_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "COCO/features"
    folder.mkdir(parents=True)
    failed = [{"id": "1", "path": "/x/1.jpg", "reason": "truncated"}]
    (folder / "maskrcnn_valid_grid8.report.json").write_text(json.dumps({"images": 0, "failed": failed}))
    (folder / "maskrcnn_valid_boxes36.report.json").write_text(
        json.dumps({"images": 5, "failed": failed})
    )  # taken away
    text = page(tmp_path)
    assert "0 of 16 files;" in text
    assert "1 image failed;" in text
    assert "15 of the published files are not here" in text
    assert re.search(r'<article class="file failed">.*truncated', text, re.S)
    assert "No feature file yet" not in text


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"failed": 3}', b"[" * 100_000, b'{"failed": [7]}'])
def test_a_report_that_cannot_be_read_is_told(datasets: Path, content: bytes) -> None:
    (datasets / "VG/features/maskrcnn_grid8.report.json").write_bytes(content)
    text = page(datasets)
    assert "VG/features/maskrcnn_grid8.report.json cannot be read, which images failed is not known" in text
    assert "0 images failed" in text


def test_the_rate_is_told_where_it_was_recorded(datasets: Path) -> None:
    assert "images/s" not in page(datasets)
    path = datasets / "VG/features/maskrcnn_grid8.report.json"
    path.write_text(json.dumps({"failed": [], "images_per_second": 12.5}))
    assert "12.5 images/s" in page(datasets)


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
    shown = re.findall(r'<svg viewBox="[^"]*" role="img" aria-label="([^"]*)"', rows_of(text)["3"])
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


# --- the command -------------------------------------------------------------------------------------


def test_the_command(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new/report.html"
    assert report.main(["--datasets", str(album), "--output", str(output), "--words", "1,2", "--per_file", "1"]) == 0
    assert capsys.readouterr().out == f"{output}: open it in a browser\n"
    assert output.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--datasets", "/none"], "is not a folder"),
        (["--words", "99"], "no word 99"),
        (["--vocabulary", "x"], "no vocabulary 'x'"),
        (["--images", "/none"], "/none"),
        (["--output", "/proc/none/x.html"], "/proc/none"),
    ],
)
def test_mistakes_are_one_line(album: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str) -> None:
    assert report.main(["--datasets", str(album), "--output", "/dev/null", *flags]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_wrong_numbers_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        report.main(["--words", "a,b"])
    assert end.value.code == 2
    assert "expected whole numbers and commas" in capsys.readouterr().err


def test_what_h5py_meets_inside_a_file_is_a_store_error(album: Path) -> None:
    entry = next(e for e in files.entries_in(album) if e.whole)
    with pytest.raises(StoreError, match=r"maskrcnn_valid_grid8\.h5"), files.opened(entry) as file:
        file["none"]["features"]
