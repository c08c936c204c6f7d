"""make download-annotations: LXMERT's files from a server or folder, whole JSON documents, where x-lxmert reads."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.file_server import Server
from hypothesis import given
from hypothesis import strategies as st

from scripts.download import documents
from scripts.download.annotations import ANNOTATIONS
from scripts.download.documents import not_a_document

LARGE = [a for a in ANNOTATIONS if a.sha256 is None]
PINNED = [a for a in ANNOTATIONS if a.sha256 is not None]


def content(path: str) -> bytes:
    """Stands for the file: names tell them apart, as many are called train.json."""
    return json.dumps([{"img_id": path}]).encode() if path.endswith(".json") else path.encode()


def sums() -> list[str]:
    """What --sha256 demands of the stand-ins in place of the real sums."""
    return [word for a in PINNED for word in ("--sha256", f"{a.path}={hashlib.sha256(content(a.path)).hexdigest()}")]


def download(tmp_path: Path, base_url: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "scripts.download", "annotations", "--base-url", base_url, *more]
    folders = ["--datasets", str(tmp_path / "datasets"), "--lock", str(tmp_path / "lock.json")]
    patience = ["--tries", "2", "--first-wait", "0.01"]
    return subprocess.run(
        [sys.executable, *command, *folders, *patience], text=True, capture_output=True, check=False, timeout=120
    )


@pytest.fixture
def server(server: Server) -> Server:
    server.files |= {f"/{a.path}": content(a.path) for a in ANNOTATIONS}
    return server


def test_every_file_comes_to_its_place_and_is_resumed(tmp_path: Path, server: Server) -> None:
    server.trouble["/data/lxmert/vgnococo.json"] = ["cut:5", "status:503"]
    done = download(tmp_path, server.url(""), *sums())
    assert done.returncode == 0, done.stderr
    assert "next: make xlxmert" in done.stdout
    for annotation in ANNOTATIONS:
        assert (tmp_path / "datasets" / annotation.path).read_bytes() == content(annotation.path)
    assert ("GET", "/data/lxmert/vgnococo.json", "bytes=5-") in server.requests
    requests = len(server.requests)
    assert download(tmp_path, server.url(""), *sums()).returncode == 0
    assert len(server.requests) == requests, "what is there is not downloaded again"


def test_what_is_no_document_is_not_taken(tmp_path: Path, server: Server) -> None:
    broken = {
        "data/vqa/train.json": b'[{"img_id": 1}, {"img_id"',
        "data/gqa/train.json": b"<html>log in</html>",
        "data/nlvr2/train.json": b'[{"img_id": 1}] and a page behind it',
    }
    server.files |= {f"/{path}": wrong for path, wrong in broken.items()}
    done = download(tmp_path, server.url(""), *sums())
    assert done.returncode == 1
    assert "train.json: it is no JSON document: no value at character 16, or its end is missing" in done.stderr
    assert "train.json: it is no JSON document, it begins with b'<html>log in</ht': an error page" in done.stderr
    assert "train.json: it is no JSON document: something follows at character 16" in done.stderr
    assert not any((tmp_path / "datasets" / path).exists() for path in broken)
    assert (tmp_path / "datasets/data/gqa/valid.json").is_file(), "one failure does not keep the others"


def test_files_of_the_git_repositories_are_held_to_their_sums(tmp_path: Path, server: Server) -> None:
    done = download(tmp_path, server.url(""))
    assert done.returncode == 1
    for annotation in PINNED:
        assert f"expected {annotation.sha256}" in done.stderr
        assert not (tmp_path / "datasets" / annotation.path).exists()


def test_a_folder_has_to_tell_files_of_one_name_apart(tmp_path: Path) -> None:
    folder = tmp_path / "carried over"
    for annotation in ANNOTATIONS:
        path = folder / annotation.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(annotation.path))
    (folder / "data/gqa/train.json").rename(folder / "train.json")  # of VQA, GQA or NLVR2?
    done = download(tmp_path, str(folder), *sums())
    assert done.returncode == 1
    assert "train.json" in done.stderr
    assert not (tmp_path / "datasets/data/gqa/train.json").exists()
    assert (tmp_path / "datasets/data/vqa/train.json").read_bytes() == content("data/vqa/train.json")


def test_the_generators_weights_come_with_the_pretrained_ones(tmp_path: Path, server: Server) -> None:
    server.files |= {"/x-lxmert/Epoch20_LXRT.pth": b"PK\x03\x04a", "/image_generator/G_60.pth": b"PK\x03\x04b"}
    command = [sys.executable, "-m", "scripts.download", "pretrained", "--base-url", server.url("")]
    folders = ["--datasets", str(tmp_path), "--lock", str(tmp_path / "lock.json")]
    assert subprocess.run([*command, *folders], capture_output=True, check=False, timeout=60).returncode == 0
    assert (tmp_path / "x-lxmert/Epoch20_LXRT.pth").read_bytes() == b"PK\x03\x04a"
    assert (tmp_path / "x-lxmert/G_60.pth").read_bytes() == b"PK\x03\x04b"


def test_addresses_are_distinct_and_encrypted() -> None:
    assert len({a.url for a in ANNOTATIONS}) == len({a.path for a in ANNOTATIONS}) == len(ANNOTATIONS)
    assert all(a.url.startswith("https://") for a in ANNOTATIONS)


# --- documents in bounded memory ---------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("documents") / "file.json"


@given(document=JSON, indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_every_document_is_one_however_it_is_cut(
    place: Path, document: object, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK", 3)  # windows end everywhere: in numbers, escapes, between elements
        place.write_bytes(text)
        assert not_a_document(place) == _by_the_library(text)


@given(text=st.text(alphabet='[]{},:"1.e-5 \nabtrufln\\', max_size=30))
def test_the_library_and_we_agree_on_what_is_none(place: Path, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "BLOCK", 2)
        place.write_bytes(text.encode())
        assert (not_a_document(place) is None) == (_by_the_library(text.encode()) is None)


def _by_the_library(text: bytes) -> str | None:
    try:
        json.loads(text)
    except ValueError as error:
        return str(error)
    return None


def test_a_long_list_takes_little_memory_and_a_long_element_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "BLOCK", 64)
    monkeypatch.setattr(documents, "LONGEST", 256)
    held = []
    more = documents._Text._more

    def watched(text: documents._Text) -> bool:
        found = more(text)
        held.append(len(text._window))
        return found

    monkeypatch.setattr(documents._Text, "_more", watched)
    place.write_text(json.dumps([{"img_id": f"{number}"} for number in range(2000)]))
    assert not_a_document(place) is None
    assert max(held) < 256
    place.write_text(json.dumps(["a" * 2000]))
    wrong = not_a_document(place)
    assert wrong is not None
    assert "no value of at most 256 characters" in wrong
    assert max(held) <= 2 * 512


@pytest.mark.parametrize("text", [b"[" * 100_000, b"[1, " + b"9" * 5000 + b"]", b"\xff\xfe[\x00]\x00"])
def test_hostile_documents_are_refused_in_one_line(place: Path, text: bytes) -> None:
    place.write_bytes(text)
    wrong = not_a_document(place)
    assert wrong
    assert "\n" not in wrong
