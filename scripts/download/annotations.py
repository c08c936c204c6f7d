"""The annotation files that x-lxmert and VL-T5 read beside the features: where they are documented to be had.

x-lxmert's README names none of them. They are LXMERT's: the large ones on its authors' server, the small ones in git
repositories, taken here at one commit and held to their SHA-256. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SERVER: Final = "https://nlp.cs.unc.edu/data/lxmert_data"
GIT: Final = "https://raw.githubusercontent.com"
LXMERT: Final = f"{GIT}/airsplay/lxmert/0db1182b9030da3ce41f17717cc628e1cd0a95d5"
X_LXMERT: Final = f"{GIT}/allenai/x-lxmert/a066944bae787d95c453b1b7b5db99f4f39b1cd9/x-lxmert"
"""Its branch inference_dev; the branch master holds no annotations."""
BOTTOM_UP: Final = f"{GIT}/peteanderson80/bottom-up-attention/514e561b7179be38f7f93ada102cdf98a5e32c72"


@dataclass(frozen=True)
class Annotation:
    """One file to have."""

    path: str
    """Below the folder ``datasets``, as x-lxmert reads it; also its name at a mirror."""
    url: str
    sha256: str | None = None
    """Of the small files; of the large ones none is known, so that the first download decides."""


def _on_the_server(folder: str, *names: str) -> tuple[Annotation, ...]:
    return tuple(Annotation(f"data/{folder}/{name}.json", f"{SERVER}/{folder}/{name}.json") for name in names)


def _in_git(root: str, path: str, sha256: str | None) -> Annotation:
    return Annotation(path, f"{root}/{path}", sha256)


ANNOTATIONS: Final = (
    *_on_the_server("lxmert", "mscoco_train", "mscoco_nominival", "mscoco_minival", "vgnococo"),
    *_on_the_server("vqa", "train", "nominival", "minival", "test"),
    *_on_the_server("gqa", "train", "valid", "testdev", "submit"),
    _in_git(LXMERT, "data/lxmert/all_ans.json", "b860c6cd7b8fe3afa1e5308933664c37bc8728eff967e9845543169a06d012b8"),
    _in_git(
        LXMERT, "data/vqa/trainval_ans2label.json", "ab3b0707b4c78ff28587f0131cee4d63b0e0c0d22ad82a89e809521abdc412dc"
    ),
    _in_git(
        LXMERT, "data/vqa/trainval_label2ans.json", "e72e568a6303130f5a627db06360605ee3b306366ff463aa5153d782adc12a7d"
    ),
    _in_git(
        LXMERT, "data/gqa/trainval_ans2label.json", "5d9d8353151c1b7bcb6e612fc532af2e7d418fa8c92056de4a4b5da2ba9fdf9a"
    ),
    _in_git(
        LXMERT, "data/gqa/trainval_label2ans.json", "3ba2e3668760dfcfcfe40dc58711a7c551ca7da48be87a7fdd3fae9963f8264d"
    ),
    _in_git(X_LXMERT, "data/nlvr2/train.json", None),
    _in_git(X_LXMERT, "data/nlvr2/valid.json", "1de87ab7cd82b565b11bd3b56f7f61e4523b4f2acc47ec31b4f54a149b73583d"),
    _in_git(X_LXMERT, "data/nlvr2/test.json", "ed828271f8abe9f08780c64c09ff418647a388fa6b87172036b509fff8b5d0c7"),
    *(
        Annotation(f"{name}_vocab.txt", f"{BOTTOM_UP}/data/genome/1600-400-20/{name}_vocab.txt", sha256)
        for name, sha256 in (
            ("objects", "d985096938db111f585a311ff0a2ee9092fbc325c3a619ac9622e57e5389722f"),
            ("attributes", "19981b5a288f284c576545a21de78634f1a78c26b6949f7acf12b924739fdc66"),
        )
    ),
)
