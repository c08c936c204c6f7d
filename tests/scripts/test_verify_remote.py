"""A published file of 4 GB behind a server: 100 images cost what they weigh, and a bad server makes no verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.big_files import write_sparse_grid
from helpers.common import ROOT
from helpers.range_server import serving

from feature_extraction import catalog
from feature_extraction.errors import DownloadError, StoreError
from feature_extraction.storage import store
from scripts.verify import __main__ as verify
from scripts.verify import remote
from scripts.verify.files import spread

IDS = [f"COCO_train2014_{number * 7:012d}" for number in range(8_000)]
SAMPLED = spread(IDS, 100)
FEATURES = np.random.default_rng(0).random((8, 8, 2048), np.float32)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "maskrcnn_train_grid8.h5"
    write_sparse_grid(path, IDS, dict.fromkeys(SAMPLED, FEATURES))
    assert path.stat().st_size > 4e9
    return path


def write_ours(path: Path, ids: list[str], change: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for image_id in ids:
            file[f"{image_id}/features"] = FEATURES + np.float32(change)
    return path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ours(tmp_path_factory.mktemp("ours") / "grid.h5", SAMPLED)


def run(ours: Path, url: str, *more: str) -> int:
    return verify.main(["--ours", str(ours), "--published", url, *more])


def test_100_images_of_a_file_of_4_gb(
    tmp_path: Path, published: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(published) as server:
        address = server.url("/f.h5?sig=s3cr3t").replace("//", "//user:pa55word@")
        assert run(ours, address, "--json", str(tmp_path / "found.json")) == 0
    said = capsys.readouterr().out
    assert "ok, 100 images compared" in said
    told = said + (tmp_path / "found.json").read_text()
    assert not [secret for secret in ("user", "pa55word", "s3cr3t") if secret in told]
    assert server.sent < 120e6
    assert server.requests < 1_200
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert found["levels"]["equal"] == 100
    assert found["traffic"]["requests"] == server.requests
    assert 0 <= server.sent - found["traffic"]["bytes"] < 300 * server.requests, "headers apart, every byte is told"


def test_published_files_of_a_folder_behind_an_address(
    tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the names that the published downloads have; some images are not there, one is another."""
    file = next(f for f in catalog.feature_files() if f.name == "coco-train-grid")
    write_ours(file.path(tmp_path / "datasets"), [*SAMPLED[:3], "nowhere"], change=1.0)
    with serving(published) as server:
        code = run(tmp_path / "datasets", server.url("/butd_features"), "--sample", "4")
    said = capsys.readouterr().out
    assert code == 1
    assert f"{server.url('/butd_features')}/COCO/maskrcnn_train_grid8.h5" in said
    assert "1 image is not in the published file: nowhere" in said
    assert "3 images: 3 different" in said


TROUBLE = {
    "no-ranges": "the server has no range requests, it would send all 4,2",
    "shifted": "the server sends ",
    "longer": "and calls them",
    "shorter": "and calls them",
    "changed": "the file changed on the server",
    "grown": "the file changed on the server",
    "status:403": "the server answers 403",
    "status:404": "the server answers 404",
    "status:503": "could not be read in 3 tries (the server answers 503)",
    "cut": "could not be read in 3 tries",
    "unsized": "and calls them None bytes",
    "other": "without saying which",
}


@pytest.mark.parametrize("since", [0, 150], ids=["at once", "later"])
@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_bad_server_is_one_line_and_no_verdict(
    published: Path, ours: Path, capsys: pytest.CaptureFixture[str], trouble: str, since: int
) -> None:
    if since == 0 and trouble in ("changed", "grown"):
        pytest.skip("from the start another version is the version")
    with serving(published, trouble, since) as server:
        assert run(ours, server.url()) == 1
    said, complaints = capsys.readouterr()
    assert said.count("\n") == 1
    assert TROUBLE[trouble] in said
    assert "WRONG: " in said
    assert "Traceback" not in complaints
    assert server.sent < 60e6, "what was not asked for is not waited for"


def test_a_server_that_gives_other_bytes_than_it_says_makes_no_verdict(
    published: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(published, "lying") as server:
        assert run(ours, server.url()) == 1
    assert "is not an HDF5 file" in capsys.readouterr().out


def test_a_line_that_breaks_now_and_then_costs_tries_only(
    published: Path, ours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(published, "broken") as server:
        assert run(ours, server.url(), "--sample", "5") == 0
    assert "ok, 5 images compared" in capsys.readouterr().out


def test_a_file_that_is_shorter_than_it_says(tmp_path: Path, ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.h5"
    short.write_bytes(ours.read_bytes()[:1_000_000])
    with serving(short) as server:
        assert run(ours, server.url()) == 1
    assert "shorter than it says" in capsys.readouterr().out


def test_a_web_page_and_nobody(tmp_path: Path, ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page"
    page.write_bytes(b"<html>log in first</html>" + bytes(100))
    with serving(page) as server:
        assert run(ours, server.url()) == 1
        assert "a web page or a pointer" in capsys.readouterr().out
    assert run(ours, server.url()) == 1
    assert "could not be read in 3 tries" in capsys.readouterr().out


def test_a_tree_of_names_that_leads_back_into_itself_is_refused_before_hdf5_walks_it(tmp_path: Path) -> None:
    """As of local files; HDF5 would follow it until it crashes."""
    path = tmp_path / "looped.h5"
    with h5py.File(path, "w") as file:
        for number in range(2_000):
            file.create_group(f"{number:06d}")
    content = bytearray(path.read_bytes())
    root = content.find(b"TREE")
    while root >= 0 and content[root + 5] == 0:  # the first node above the lists of names
        root = content.find(b"TREE", root + 1)
    assert root > 0
    content[root + 32 : root + 40] = root.to_bytes(8, "little")
    path.write_bytes(content)
    with serving(path) as server, pytest.raises(StoreError, match="names cannot be read"):
        store.open_remote_features(remote.RemoteFile(server.url()))


def test_a_password_in_the_address_is_not_printed(published: Path) -> None:
    with serving(published, "status:403") as server:
        url = server.url("/f.h5?token=secret").replace("//", "//user:secret@")
        with pytest.raises(DownloadError) as caught:
            remote.RemoteFile(url)
    assert "secret" not in str(caught.value)


def test_an_address_that_is_none_of_http_is_told(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ours, "s3://bucket/f.h5") == 1
    assert "s3://bucket/f.h5: only http(s) is read in pieces" in capsys.readouterr().out


def test_without_the_libraries_the_message_says_what_to_install(ours: Path) -> None:
    program = (
        "import sys; sys.modules['fsspec'] = None; from scripts.verify.__main__ import main; "
        f"sys.exit(main(['--ours', {str(ours)!r}, '--published', 'http://127.0.0.1:9/x.h5']))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'xlxmert-features[remote]'" in done.stdout


def test_help_and_local_files_need_neither_fsspec_nor_torch() -> None:
    program = (
        "import sys; from scripts.verify import __main__; "
        "print(sorted({'torch', 'fsspec', 'aiohttp', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
