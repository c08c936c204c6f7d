"""docker/port_fork.py: every rule on lines written here, and the whole on a small extension of our own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers.common import ROOT
from helpers.common import load_docker as load

MINIFORK = ROOT / "tests" / "data" / "minifork"
GXX = shutil.which("g++")
NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


port_fork = load("port_fork")

# rule -> lines before, lines after
CASES = {
    "header THC/THC.h": (
        "#include <THC/THC.h>\n",
        "#include <ATen/ceil_div.h>\n#include <ATen/cuda/CUDAContext.h>\n"
        "#include <c10/cuda/CUDACachingAllocator.h>\n#include <c10/cuda/CUDAException.h>\n",
    ),
    "header THC/THCDeviceUtils.cuh": (
        "#  include <THC/THCDeviceUtils.cuh>\n",
        "#include <ATen/ceil_div.h>\n",
    ),
    "header THC/THCAtomics.cuh": ("#include <THC/THCAtomics.cuh>\n", "#include <ATen/cuda/Atomic.cuh>\n"),
    "THCCeilDiv": ("int k = THCCeilDiv(n, 64);", "int k = at::ceil_div(n, 64);"),
    "copy after the NMS kernel": (
        "  THCudaCheck(cudaMemcpy(&a[0],\n   b, n, cudaMemcpyDeviceToHost));",
        "  C10_CUDA_CHECK(cudaStreamSynchronize(at::cuda::getCurrentCUDAStream()));\n"
        "  C10_CUDA_CHECK(cudaMemcpy(&a[0],\n   b, n, cudaMemcpyDeviceToHost));",
    ),
    "launch on the default stream": (
        "pick<<<blocks, threads>>>(n, x); other<float><<<g, 512, 0, stream>>>(y);",
        "pick<<<blocks, threads, 0, at::cuda::getCurrentCUDAStream()>>>(n, x); other<float><<<g, 512, 0, stream>>>(y);",
    ),
    "THCudaCheck": ("THCudaCheck(cudaGetLastError());", "C10_CUDA_CHECK(cudaGetLastError());"),
    "THCState": (
        "a;\n  THCState *state = at::globalContext().lazyInitCUDA(); // why\n  b;\n",
        "a;\n  b;\n",
    ),
    "THCudaMalloc": (
        "m = (T*) THCudaMalloc(state, rows * sizeof(T));",
        "m = (T*) c10::cuda::CUDACachingAllocator::raw_alloc(rows * sizeof(T));",
    ),
    "THCudaFree": ("THCudaFree(state, m);", "c10::cuda::CUDACachingAllocator::raw_delete(m);"),
    "x.type().is_cuda()": ("if (!x.type().is_cuda())", "if (!x.is_cuda())"),
    "x.type() as a dispatch argument": (
        'AT_DISPATCH_FLOATING_TYPES(boxes.type(), "k", [&] {',
        'AT_DISPATCH_FLOATING_TYPES(boxes.scalar_type(), "k", [&] {',
    ),
    "x.data<T>()": (
        "f(x.contiguous().data<scalar_t>(), k.data<int64_t>())",
        "f(x.contiguous().data_ptr<scalar_t>(), k.data_ptr<int64_t>())",
    ),
    "AT_ASSERTM": ('AT_ASSERTM(a, "b");', 'TORCH_CHECK(a, "b");'),
    "torch._six.PY3": ("if torch._six.PY3:\n", "if True:\n"),
    "np.float": (
        "a = np.array(s, dtype=np.float); b = np.float32(1)",
        "a = np.array(s, dtype=float); b = np.float32(1)",
    ),
    "_download_url_to_file": (
        "from torch.hub import _download_url_to_file",
        "from torch.hub import download_url_to_file",
    ),
    "names that left torch.utils.model_zoo": (
        "from torch.utils.model_zoo import urlparse",
        "from torch.hub import urlparse",
    ),
    "CUDA forced by FORCE_CUDA=1": (
        "if torch.cuda.is_available() and CUDA_HOME:",
        'if (os.getenv("FORCE_CUDA", "0") == "1" or torch.cuda.is_available()) and CUDA_HOME:',
    ),
}


@pytest.fixture
def minifork(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MINIFORK, tmp_path / "fork"))


def test_every_rule_has_a_case() -> None:
    assert set(CASES) == {rule.name for rule in port_fork.RULES}


@pytest.mark.parametrize("rule", port_fork.RULES, ids=lambda rule: rule.name)
def test_rule(rule: port_fork.Rule) -> None:
    before, after = CASES[rule.name]
    assert port_fork.apply(rule, before)[0] == after
    assert port_fork.apply(rule, after) == (after, 0), "not idempotent"


def test_types_that_are_compared_stay() -> None:
    """`a.type() == b.type()` still compiles; only dispatch arguments lost it."""
    line = 'TORCH_CHECK(dets.type() == scores.type(), "same");\n'
    for rule in port_fork.RULES:
        assert port_fork.apply(rule, line) == (line, 0), rule.name
    assert port_fork.left_over(line, port_fork.NATIVE) == []


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_whole(minifork: Path) -> None:
    """Every rule finds work, the second run none, and nothing old is left."""
    first, _ = port_fork.port(minifork)
    assert all(first.values()), first
    ported = contents(minifork)
    assert not any(port_fork.port(minifork)[0].values())
    assert ported == contents(minifork)


@pytest.mark.parametrize("rule", [r for r in port_fork.RULES if r.required], ids=lambda rule: rule.name)
def test_rule_that_finds_nothing_is_named(minifork: Path, rule: port_fork.Rule) -> None:
    for path, text in port_fork.sources_below(minifork).items():
        if port_fork.reads(rule, path):
            (minifork / path).write_text(port_fork.re.sub(f"{rule.old}|{rule.done}", "1", text))
    untouched = contents(minifork)
    with pytest.raises(port_fork.PortError, match=port_fork.re.escape(f"rule '{rule.name}' found nothing")):
        port_fork.port(minifork)
    assert untouched == contents(minifork)


@pytest.mark.parametrize(
    ("name", "line", "symbol"),
    [
        ("csrc/cuda/above_cuda.cu", "THCDeviceTensor<float, 2> t;", "THCDeviceTensor"),
        ("csrc/ops.h", 'AT_CHECK(true, "x");', "AT_CHECK"),
        ("csrc/cuda/above_cuda.cu", "at::globalContext().lazyInitCUDA();", "lazyInitCUDA"),
        ("utils/old_names.py", "t = torch._six.string_classes", "torch._six"),
    ],
)
def test_what_is_left_is_named_with_its_place(minifork: Path, name: str, line: str, symbol: str) -> None:
    path = minifork / "maskrcnn_benchmark" / name
    text = path.read_text()
    path.write_text(f"{text}{line}\n")
    with pytest.raises(port_fork.PortError) as error:
        port_fork.port(minifork)
    where = f"maskrcnn_benchmark/{name}:"
    assert where in str(error.value)
    assert f"{symbol} is left" in str(error.value)
    assert path.read_text() == f"{text}{line}\n", "a failing port writes nothing"


def test_comments_are_not_code(minifork: Path) -> None:
    path = minifork / "maskrcnn_benchmark" / "csrc" / "ops.h"
    path.write_text(path.read_text() + "// once THCTensor\n/* and\n THCStorage */\n")
    port_fork.port(minifork)


def test_what_the_build_does_not_use_stops_nothing(minifork: Path) -> None:
    """Tools beside the package may use what is gone, and may never have parsed: told, and left as they are."""
    tool = minifork / "tools" / "old_tool.py"
    tool.parent.mkdir()
    tool.write_text("import torch\n\nnames = torch._six.string_classes\n")
    _, remarks = port_fork.port(minifork)
    assert remarks == ["tools/old_tool.py:3: torch._six is left"]
    assert tool.read_text().endswith("torch._six.string_classes\n")


NEVER_PARSED = {
    "an assignment in a condition": b"if a = 1:\n    pass\n",
    "Python 2": b"print 'old'\n",
    "an unfinished merge": b"<<<<<<< HEAD\na = 1\n=======\na = 2\n>>>>>>> other\n",
    "a zero byte": b"a = 1\0\n",
    "bytes of no encoding": b"# \xff\xfe\na = '\xe9'\n",
    "UTF-16": "a = 1\n".encode("utf-16"),
    "an unknown encoding": b"# -*- coding: nosuch -*-\na = 1\n",
    "brackets deeper than the parser goes": b"a = " + b"(" * 5000 + b")" * 5000 + b"\n",
}


@pytest.mark.parametrize("folder", ["", "tools", "maskrcnn_benchmark/utils"])
@pytest.mark.parametrize("what", NEVER_PARSED)
def test_a_file_that_never_parsed_is_left_alone(minifork: Path, what: str, folder: str) -> None:
    """The published fork carries such a file beside its package."""
    path = minifork / folder / "never.py"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(NEVER_PARSED[what])
    port_fork.port(minifork)
    assert path.read_bytes() == NEVER_PARSED[what]


def test_a_file_that_never_parsed_is_ported_all_the_same(minifork: Path) -> None:
    path = minifork / "old_tool.py"
    path.write_bytes(b"print np.float\n")
    port_fork.port(minifork)
    assert path.read_bytes() == b"print float\n"


def test_python_that_the_port_breaks_is_named(minifork: Path) -> None:
    path = minifork / "tools.py"
    path.write_text("import torch\ntorch._six.PY3 = 1\n")  # becomes: True = 1
    untouched = contents(minifork)
    with pytest.raises(port_fork.PortError, match=r"tools\.py:2: no longer parses"):
        port_fork.port(minifork)
    assert contents(minifork) == untouched


def test_setup_without_os_is_named(minifork: Path) -> None:
    """What the port writes there needs it; a file that the port does not change may do as it likes."""
    path = minifork / "setup.py"
    path.write_text("import torch\n\nif torch.cuda.is_available():\n    pass\n")
    (minifork / "tool.py").write_text("os.getenv('HOME')\n")
    with pytest.raises(port_fork.PortError) as error:
        port_fork.port(minifork)
    assert str(error.value) == "setup.py: uses os.getenv without `import os`"


def test_every_byte_that_no_rule_is_about_stays(minifork: Path) -> None:
    """Encodings, line ends and a byte order mark, in Python, C++ and CUDA alike; a large notebook and table."""
    files = {
        "maskrcnn_benchmark/latin.py": (
            b"# -*- coding: latin-1 -*-\nname = 'caf\xe9'\na = np.float\n",
            b"# -*- coding: latin-1 -*-\nname = 'caf\xe9'\na = float\n",
        ),
        "maskrcnn_benchmark/mark.py": (b"\xef\xbb\xbfa = np.float\r\nb = 1\r\n", b"\xef\xbb\xbfa = float\r\nb = 1\r\n"),
        "maskrcnn_benchmark/csrc/mixed.cu": (
            b"#include <THC/THCAtomics.cuh>\r\n// \xff\x80 \xe9\nint a;\r",
            b"#include <ATen/cuda/Atomic.cuh>\r\n// \xff\x80 \xe9\nint a;\r",
        ),
        "maskrcnn_benchmark/csrc/dos.cu": (
            b"#include <THC/THC.h>\r\nint a;\r\n",
            b"#include <ATen/ceil_div.h>\r\n#include <ATen/cuda/CUDAContext.h>\r\n"
            b"#include <c10/cuda/CUDACachingAllocator.h>\r\n#include <c10/cuda/CUDAException.h>\r\nint a;\r\n",
        ),
        "maskrcnn_benchmark/table.py": (b"table = [\n" + b"    np.float,\n" * 20_000 + b"]\n",) * 2,
        "demo/notebook.ipynb": (b'{"cells": ["' + b"np.float " * 500_000 + b'"]}',) * 2,
    }
    files["maskrcnn_benchmark/table.py"] = (
        files["maskrcnn_benchmark/table.py"][0],
        files["maskrcnn_benchmark/table.py"][0].replace(b"np.", b""),
    )
    for name, (before, _) in files.items():
        (minifork / name).parent.mkdir(exist_ok=True)
        (minifork / name).write_bytes(before)
    port_fork.port(minifork)
    for name, (_, after) in files.items():
        assert (minifork / name).read_bytes() == after, name


def test_links_are_not_followed(minifork: Path, tmp_path: Path) -> None:
    """Neither out of the sources, nor round in circles, nor to nothing."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.py").write_text("a = np.float\n")
    (minifork / "mine.py").symlink_to(outside / "mine.py")
    (minifork / "outside").symlink_to(outside)
    (minifork / "circle").symlink_to(minifork)
    (minifork / "nothing.py").symlink_to("nosuch.py")
    (minifork / "folder.py").mkdir()
    port_fork.port(minifork)
    assert (outside / "mine.py").read_text() == "a = np.float\n"


def test_a_file_that_cannot_be_written_is_one_line(
    minifork: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(port_fork.Path, "write_bytes", full)
    assert port_fork.main([str(minifork)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "No space left on device" in said


def test_command(minifork: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "docker" / "port_fork.py")]
    done = subprocess.run([*command, str(minifork)], check=False, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "THCCeilDiv" in done.stdout
    empty = tmp_path / "empty"
    empty.mkdir()
    done = subprocess.run([*command, str(empty)], check=False, text=True, capture_output=True)
    assert done.returncode == 1
    assert "holds no setup.py" in done.stderr
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2


# --- the compilers' word ----------------------------------------------------------------------------


def includes() -> list[str]:
    torch = Path(sysconfig.get_paths()["purelib"]) / "torch" / "include"
    return [f"-I{torch}", f"-I{torch}/torch/csrc/api/include", f"-I{sysconfig.get_paths()['include']}"]


@pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ on this machine: the CPU half of the port is not compiled"
)
def test_cpp_is_refused_before_and_compiled_after(minifork: Path) -> None:
    """g++ against the pinned PyTorch's headers: refused as it is; ported, it builds, imports and computes."""
    source = minifork / "maskrcnn_benchmark" / "csrc" / "cpu" / "halve_cpu.cpp"
    refused = subprocess.run(
        [str(GXX), "-std=c++20", "-fsyntax-only", *includes(), str(source)],
        check=False,
        text=True,
        capture_output=True,
    )
    assert refused.returncode != 0
    assert "DeprecatedTypeProperties" in refused.stderr

    port_fork.port(minifork)
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "-j2"]
    quick = {**os.environ, "CFLAGS": "-O0 -g0"}  # optimizing and describing PyTorch's headers is most of the work
    built = subprocess.run(build, cwd=minifork, env=quick, check=False, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
    use = (
        "import torch, maskrcnn_benchmark.utils.old_names as names; from maskrcnn_benchmark import _C\n"
        "print(_C.halve(torch.tensor([3.0, 4.0])).tolist(), names.generation, names.halves([1]).tolist())"
    )
    used = subprocess.run([sys.executable, "-c", use], cwd=minifork, check=False, text=True, capture_output=True)
    assert used.stdout == "[1.5, 2.0] 3 [0.5]\n", used.stderr


# PyTorch's CUDA headers name these libraries' handles; neither they nor the libraries are needed to compile.
LIBRARY_HEADERS = {
    "c10/cuda/impl/cuda_cmake_macros.h": "",
    "cublas_v2.h": "typedef struct cublas* cublasHandle_t; typedef int cublasStatus_t;",
    "cublasLt.h": "typedef struct cublasLt* cublasLtHandle_t;",
    "cusparse.h": "typedef struct cusparse* cusparseHandle_t; typedef int cusparseStatus_t;\n"
    "const char* cusparseGetErrorString(cusparseStatus_t);",
    "cusolver_common.h": "typedef int cusolverStatus_t;",
    "cusolverDn.h": "#include <cusolver_common.h>\ntypedef struct cusolver* cusolverDnHandle_t;",
}


@pytest.mark.skipif(
    NVCC is None or GXX is None,
    reason="no nvcc with g++ on this machine: the CUDA half of the port is not compiled here",
)
def test_cuda_is_refused_before_and_compiled_after(minifork: Path, tmp_path: Path) -> None:
    """nvcc against the pinned PyTorch's headers, for one architecture; nothing runs, so no GPU is needed."""
    headers = tmp_path / "headers"
    for name, text in LIBRARY_HEADERS.items():
        (headers / name).parent.mkdir(parents=True, exist_ok=True)
        (headers / name).write_text(f"#pragma once\n{text}\n")
    csrc = minifork / "maskrcnn_benchmark" / "csrc" / "cuda"
    flags = ["-std=c++20", "-DWITH_CUDA", "-arch=sm_80", "-w", f"-I{headers}", *includes()]

    def start(name: str) -> subprocess.Popen[str]:
        command = [str(NVCC), *flags, "-c", str(csrc / name), "-o", str(tmp_path / f"{name}.o")]
        return subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def compiled() -> dict[str, tuple[int, str]]:
        running = {name: start(name) for name in ("above_cuda.cu", "halve_cuda.cu")}
        errors = {name: process.communicate()[1] for name, process in running.items()}
        return {name: (process.returncode, errors[name]) for name, process in running.items()}

    for code, errors in compiled().values():
        assert code != 0
        assert "THC/THC.h" in errors
    port_fork.port(minifork)
    for code, errors in compiled().values():
        assert code == 0, errors
