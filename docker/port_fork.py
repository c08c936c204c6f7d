#!/usr/bin/env python3
"""Port the original detector's sources, written for PyTorch 1.0, to the pinned PyTorch.

    python port_fork.py SOURCE_FOLDER

Token rules only: what PyTorch removed or renamed, and its successor. Porting twice changes nothing more.
The port fails, naming the rule or the symbol, when

  - a rule finds neither what it replaces nor its successor (these are other sources than the pinned ones), or
  - something that the pinned PyTorch no longer has is left in the code, or
  - a Python file no longer parses.

Sources of the rules: maskrcnn-benchmark#1307, #1340, #1341, DeepLearningExamples#1090. Standard library only.
"""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NATIVE: Final = (".cpp", ".cc", ".h", ".cuh", ".cu")
PYTHON: Final = (".py",)


class PortError(RuntimeError):
    """The sources are not the expected ones, or would not compile after the port."""


@dataclass(frozen=True)
class Rule:
    """One thing that PyTorch removed, and what stands for it today."""

    name: str
    old: str
    """Regular expression of what is replaced; must not match its own successor."""
    new: str
    """Replacement, as in ``re.sub``."""
    done: str
    """Regular expression that is found where the rule has been applied before."""
    suffixes: tuple[str, ...] = NATIVE
    """How the names of the files end that the rule reads."""
    required: bool = True
    """Whether the pinned sources are known to need it; a rule that is not may find nothing."""


CURRENT_STREAM: Final = "at::cuda::getCurrentCUDAStream()"

RULES: Final = (
    # --- headers: THC is gone -----------------------------------------------------------------
    Rule(
        "header THC/THC.h",
        r"#[ \t]*include[ \t]*<THC/THC\.h>",
        "#include <ATen/ceil_div.h>\n#include <ATen/cuda/CUDAContext.h>\n"
        "#include <c10/cuda/CUDACachingAllocator.h>\n#include <c10/cuda/CUDAException.h>",
        r"#include <c10/cuda/CUDAException\.h>",
    ),
    Rule(
        "header THC/THCDeviceUtils.cuh",
        r"#[ \t]*include[ \t]*<THC/THCDeviceUtils\.cuh>",
        "#include <ATen/ceil_div.h>",
        r"#include <ATen/ceil_div\.h>",
    ),
    Rule(
        "header THC/THCAtomics.cuh",
        r"#[ \t]*include[ \t]*<THC/THCAtomics\.cuh>",
        "#include <ATen/cuda/Atomic.cuh>",
        r"#include <ATen/cuda/Atomic\.cuh>",
    ),
    # --- functions ------------------------------------------------------------------------------
    Rule("THCCeilDiv", r"\bTHCCeilDiv\b", "at::ceil_div", r"\bat::ceil_div\b"),
    # The fork's NMS launches on the default stream and then copies; under another current stream both
    # would race with the kernels that made its input. First the copy: it must wait for the launch.
    Rule(
        "copy after the NMS kernel",
        r"THCudaCheck\(\s*cudaMemcpy\(",
        rf"C10_CUDA_CHECK(cudaStreamSynchronize({CURRENT_STREAM}));\n  C10_CUDA_CHECK(cudaMemcpy(",
        r"cudaStreamSynchronize\(at::cuda::getCurrentCUDAStream\(\)\)",
    ),
    Rule(
        "launch on the default stream",
        r"<<<\s*([^,<>]+?)\s*,\s*([^,<>]+?)\s*>>>",
        rf"<<<\1, \2, 0, {CURRENT_STREAM}>>>",
        r"<<<[^<>]*,\s*0,\s*at::cuda::getCurrentCUDAStream\(\)>>>",
    ),
    Rule("THCudaCheck", r"\bTHCudaCheck\b", "C10_CUDA_CHECK", r"\bC10_CUDA_CHECK\b"),
    Rule(
        "THCState",
        r"[ \t]*\bTHCState\s*\*\s*\w+\s*=\s*at::globalContext\(\)\.lazyInitCUDA\(\)\s*;[^\n]*\n",
        "",
        r"CUDACachingAllocator::raw_alloc\(",  # nothing stands for it; its only user was the allocation
    ),
    Rule(
        "THCudaMalloc",
        r"\bTHCudaMalloc\(\s*\w+\s*,\s*",
        "c10::cuda::CUDACachingAllocator::raw_alloc(",
        r"CUDACachingAllocator::raw_alloc\(",
    ),
    Rule(
        "THCudaFree",
        r"\bTHCudaFree\(\s*\w+\s*,\s*",
        "c10::cuda::CUDACachingAllocator::raw_delete(",
        r"CUDACachingAllocator::raw_delete\(",
    ),
    # --- tensors --------------------------------------------------------------------------------
    Rule("x.type().is_cuda()", r"\.type\(\)\.is_cuda\(\)", ".is_cuda()", r"\.is_cuda\(\)"),
    Rule(
        "x.type() as a dispatch argument",
        r"(\bAT_DISPATCH_\w+\(\s*[^,;{}]*?)\.type\(\)(\s*,)",
        r"\1.scalar_type()\2",
        r"\bAT_DISPATCH_\w+\(\s*[^,;{}]*?\.scalar_type\(\)",
    ),
    Rule("x.data<T>()", r"\.data<", ".data_ptr<", r"\.data_ptr<"),
    Rule("AT_ASSERTM", r"\bAT_ASSERTM\b", "TORCH_CHECK", r"\bTORCH_CHECK\b"),
    # --- Python ---------------------------------------------------------------------------------
    Rule("torch._six.PY3", r"\btorch\._six\.PY3\d*\b", "True", r"\bif True\b", PYTHON),
    Rule("np.float", r"\bnp\.float\b", "float", r"\bdtype=float\b", PYTHON),
    Rule(
        "_download_url_to_file",
        r"\b_download_url_to_file\b",
        "download_url_to_file",
        r"\bdownload_url_to_file\b",
        PYTHON,
    ),
    Rule(
        # whether the fork imports from here depends on its age: both homes have had these names
        "names that left torch.utils.model_zoo",
        r"\bfrom torch\.utils\.model_zoo import\b",
        "from torch.hub import",
        r"\bfrom torch\.hub import\b",
        PYTHON,
        required=False,
    ),
    Rule(
        # There is no GPU while an image is built, so the question alone would silently leave CUDA out.
        "CUDA forced by FORCE_CUDA=1",
        r'(?<!"1" or )\btorch\.cuda\.is_available\(\)',
        '(os.getenv("FORCE_CUDA", "0") == "1" or torch.cuda.is_available())',
        r'"1" or torch\.cuda\.is_available\(\)',
        ("setup.py",),
    ),
)

GONE: Final = (
    # (what, where); looked for outside comments after the port
    (r"\bTHC\w*", NATIVE),
    (r"\blazyInitCUDA\b", NATIVE),
    (r"\bAT_CHECK\b", NATIVE),
    (r"\bAT_DISPATCH_\w+\(\s*[^,;{}]*?\.type\(\)", NATIVE),
    (r"\btorch\._six\b", PYTHON),
    (r"\bnp\.float\b", PYTHON),
    (r"\b_download_url_to_file\b", PYTHON),
)
COMMENT: Final = {NATIVE: r"//[^\n]*|/\*.*?\*/", PYTHON: r"#[^\n]*"}


def apply(rule: Rule, text: str) -> tuple[str, int]:
    """The text after the rule, and how often it was applied."""
    return re.subn(rule.old, rule.new, text)


def left_over(text: str, suffixes: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line number, symbol) of everything in the code that the pinned PyTorch no longer has."""
    blank = re.sub(COMMENT[suffixes], lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    return [
        (blank.count("\n", 0, match.start()) + 1, match[0])
        for pattern, where in GONE
        if where == suffixes
        for match in re.finditer(pattern, blank)
    ]


def port(source: Path) -> dict[str, int]:
    """Port every file below ``source`` in place; rule name -> replacements.

    Raises PortError, with every reason, before any file is written.
    """
    if not (source / "setup.py").is_file():
        raise PortError(f"{source} holds no setup.py: give the folder of the fork's checkout")
    files = {
        path: path.read_text(encoding="utf-8")
        for path in sorted(source.rglob("*"))
        if path.suffix in NATIVE + PYTHON and path.is_file() and ".git" not in path.parts
    }
    originals = dict(files)  # a successor that an earlier rule has just written proves nothing
    counts, complaints = {}, []
    for rule in RULES:
        counts[rule.name], seen = 0, False
        for path, text in files.items():
            if path.name.endswith(rule.suffixes):
                files[path], n = apply(rule, text)
                counts[rule.name] += n
                seen = seen or n > 0 or re.search(rule.done, originals[path]) is not None
        if rule.required and not seen:
            complaints.append(
                f"rule '{rule.name}' found nothing: neither {rule.old} nor its successor {rule.done} in any "
                f"{' '.join(rule.suffixes)} below {source}"
            )
    for path, text in files.items():
        where = path.relative_to(source)
        suffixes = NATIVE if path.suffix in NATIVE else PYTHON
        complaints += [f"{where}:{line}: {symbol} is left" for line, symbol in left_over(text, suffixes)]
        if suffixes is PYTHON:
            try:
                tree = ast.parse(text)
            except SyntaxError as error:
                complaints.append(f"{where}:{error.lineno}: no longer parses: {error.msg}")
            else:
                if "os.getenv(" in text and not any(
                    isinstance(node, ast.Import) and any(a.name == "os" for a in node.names) for node in ast.walk(tree)
                ):
                    complaints.append(f"{where}: uses os.getenv without `import os`")
    if complaints:
        raise PortError("\n".join(complaints))
    for path, text in files.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    return counts


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: port_fork.py SOURCE_FOLDER", file=sys.stderr)
        return 2
    try:
        counts = port(Path(arguments[0]))
    except PortError as error:
        print(f"port_fork: the sources cannot be ported:\n{error}", file=sys.stderr)
        return 1
    for name, count in counts.items():
        print(f"{count:4d}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
