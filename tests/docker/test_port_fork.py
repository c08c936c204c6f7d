"""docker/port_fork.py: every rule on lines written here, and the whole on a small extension of our own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from helpers.common import ROOT
from helpers.common import load_docker as load

MINIFORK = ROOT / "tests" / "data" / "minifork"


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


def test_whole(minifork: Path) -> None:
    """Every rule finds work, the second run none, and nothing old is left."""
    first = port_fork.port(minifork)
    assert all(first.values()), first
    ported = {p: p.read_bytes() for p in minifork.rglob("*") if p.is_file()}
    assert not any(port_fork.port(minifork).values())
    assert ported == {p: p.read_bytes() for p in minifork.rglob("*") if p.is_file()}


@pytest.mark.parametrize("rule", [r for r in port_fork.RULES if r.required], ids=lambda rule: rule.name)
def test_rule_that_finds_nothing_is_named(minifork: Path, rule: port_fork.Rule) -> None:
    for path in minifork.rglob("*"):
        if path.is_file() and path.name.endswith(rule.suffixes):
            text = path.read_text()
            for pattern in (rule.old, rule.done):
                text = port_fork.re.sub(pattern, "1", text)
            path.write_text(text)
    untouched = {p: p.read_bytes() for p in minifork.rglob("*") if p.is_file()}
    with pytest.raises(port_fork.PortError, match=port_fork.re.escape(f"rule '{rule.name}' found nothing")):
        port_fork.port(minifork)
    assert untouched == {p: p.read_bytes() for p in minifork.rglob("*") if p.is_file()}


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


def test_broken_python_is_named(minifork: Path) -> None:
    (minifork / "broken.py").write_text("def f(:\n")
    with pytest.raises(port_fork.PortError, match=r"broken\.py:1: no longer parses"):
        port_fork.port(minifork)


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


def test_cpp_is_refused_before_and_compiled_after(minifork: Path) -> None:
    """g++ against the pinned PyTorch's headers: refused as it is; ported, it builds, imports and computes."""
    source = minifork / "maskrcnn_benchmark" / "csrc" / "cpu" / "halve_cpu.cpp"
    refused = subprocess.run(
        ["g++", "-std=c++20", "-fsyntax-only", *includes(), str(source)],
        check=False,
        text=True,
        capture_output=True,
    )
    assert refused.returncode != 0
    assert "DeprecatedTypeProperties" in refused.stderr

    port_fork.port(minifork)
    build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace", "-j2"]
    built = subprocess.run(build, cwd=minifork, check=False, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
    use = (
        "import torch, maskrcnn_benchmark.utils.old_names as names; from maskrcnn_benchmark import _C\n"
        "print(_C.halve(torch.tensor([3.0, 4.0])).tolist(), names.generation, names.halves([1]).tolist())"
    )
    used = subprocess.run([sys.executable, "-c", use], cwd=minifork, check=False, text=True, capture_output=True)
    assert used.stdout == "[1.5, 2.0] 3 [0.5]\n", used.stderr


NVCC = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")

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


@pytest.mark.skipif(NVCC is None, reason="no nvcc on this machine: the CUDA half of the port is not compiled here")
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
