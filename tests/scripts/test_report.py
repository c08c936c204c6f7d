"""The page about what was made: what it shows is right, nothing of a user's names acts, damage is told, not raised."""

from __future__ import annotations

import base64
import errno
import functools
import hashlib
import io
import itertools
import json
import os
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.album import K, coco_id, image_file, make_album, page, words_file
from PIL import Image

from feature_extraction.errors import KitError, StoreError, UsageError
from scripts.report import __main__ as report
from scripts.report import files
from scripts.report.options import PageOptions
from scripts.report.photographs import Photographs, Thumbnail, recorded_path
from scripts.report.verdict import verdict, warnings_of

VOID = {"meta", "input", "br", "img", "link", "wbr"}


@functools.cache
def sound(album: Path) -> str:
    """The page of the folder that nothing changes."""
    return page(album)


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
    text = re.sub(r"<[^>]+>", "", re.search(r"<h1>(.*?)</h1>", sound(album), re.S)[1])
    assert text.split("; ") == [
        "4 of 16 files", "6 of 40,504 images of COCO valid", "2 of 108,077 images of Visual Genome",
        "SYNTHETIC weights", "0 images failed", "vocabulary of 12 words, 12 used. ",
    ]  # fmt: skip


def test_real_weights_are_not_called_synthetic(tmp_path: Path) -> None:
    assert "SYNTHETIC" not in page(make_album(tmp_path / "d", synthetic=False))


def test_synthetic_weights_are_loud(album: Path) -> None:
    text = sound(album)
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
    elements = Elements(sound(album))
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/")), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert not elements.all("link")
    assert "@import" not in sound(album)


def test_only_the_pages_own_script_may_run(album: Path) -> None:
    text = sound(album)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(m["content"] for m in Elements(text).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_ids_are_unique_and_links_lead_somewhere(album: Path) -> None:
    elements = Elements(sound(album))
    ids = Counter(a["id"] for _, a in elements.found if "id" in a)
    assert [i for i, count in ids.items() if count > 1] == []
    for _, attributes in elements.found:
        link = attributes.get("href") or attributes.get("xlink:href") or ""
        if link.startswith("#"):
            assert link[1:] in ids, link


def test_pictures_have_words_for_those_who_do_not_see_them(album: Path) -> None:
    elements = Elements(sound(album))
    for (tag, attributes), (after, _) in itertools.pairwise(elements.found):
        if tag == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true" or after == "title", (
                attributes
            )
    assert elements.all("html")[0]["lang"] == "en"
    assert any(m.get("name") == "viewport" for m in elements.all("meta"))
    assert "row 1, column 1: word " in sound(album)


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
    levels = [int(tag[1]) for tag, _ in Elements(sound(album)).found if re.fullmatch("h[1-6]", tag)]
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
    text = sound(album)
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
    sprites = re.findall(r'<image id="(p\d+)" href="data:image/jpeg;base64,([^"]+)"', sound(album))
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


# --- the command -------------------------------------------------------------------------------------


def test_the_command(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new/report.html"
    assert report.main(["--datasets", str(album), "--output", str(output), "--words", "1,2", "--per_file", "1"]) == 0
    assert capsys.readouterr().out == f"{output}: open it in a browser\n"
    assert output.read_text().startswith("<!doctype html>")


def test_no_room_leaves_the_former_page(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "report.html"
    output.write_text("the former page")
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(StoreError, match=r"report\.html cannot be written: No space left on device"):
        report.write(PageOptions(datasets=album, per_file=1), output)
    assert os.listdir(tmp_path) == ["report.html"]
    assert output.read_text() == "the former page"


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
    code = 1 if told.startswith("/") else 2
    assert report.main(["--datasets", str(album), "--output", "/dev/null", *flags]) == code
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
