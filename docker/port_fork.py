#!/usr/bin/env python3
"""Port the original detector's sources, written for PyTorch 1.0, to the pinned PyTorch.

    python port_fork.py SOURCE_FOLDER

Token rules only: what PyTorch removed or renamed, and its successor. Porting twice changes nothing more.
The port fails, naming the rule or the symbol, when

  - a rule finds neither what it replaces nor its successor (these are other sources than the pinned ones), or
  - something that the pinned PyTorch no longer has is left in the package that is built, or
  - a Python file that could be parsed before the port cannot be parsed after it.

What the port did not change and the build does not use is no reason to fail: scripts beside the package that never
parsed, or that use what PyTorch no longer has, are told of and left alone. Files are taken as bytes: any encoding,
any line ends and a byte order mark stay as they are. Symbolic links are not followed.

Sources of the rules: maskrcnn-benchmark#1307, #1340, #1341, DeepLearningExamples#1090. Standard library only.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NATIVE: Final = (".cpp", ".cc", ".cxx", ".h", ".hpp", ".cuh", ".cu")
PYTHON: Final = (".py",)
SETUP: Final = ("setup.py",)
"""The one that is run to build: that of the top folder."""
PACKAGE: Final = "maskrcnn_benchmark"
"""Folder of what is built and installed, beside setup.py."""


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
    """How the names of the files end that the rule reads, or SETUP."""
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
        SETUP,
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
    """The text after the rule, and how often it was applied. New lines end as the text's own do."""
    new = rule.new.replace("\n", "\r\n") if "\r\n" in text else rule.new
    return re.subn(rule.old, new, text, flags=re.ASCII)


def left_over(text: str, suffixes: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line number, symbol) of everything in the code that the pinned PyTorch no longer has."""
    blank = re.sub(COMMENT[suffixes], lambda m: "\n" * m[0].count("\n"), text, flags=re.S)
    return [
        (blank.count("\n", 0, match.start()) + 1, match[0])
        for pattern, where in GONE
        if where == suffixes
        for match in re.finditer(pattern, blank, re.ASCII)
    ]


def sources_below(top: Path) -> dict[Path, str]:
    """Path relative to ``top`` -> text of every C++, CUDA and Python file, links and Git's own files left out.

    One character stands for one byte (latin-1): what the rules look for is ASCII, and every other byte returns to
    the file as it was, whatever the encoding.
    """
    found = {}
    for folder, subfolders, names in os.walk(top):  # does not enter linked folders
        subfolders[:] = sorted(set(subfolders) - {".git"})
        for path in (Path(folder, name) for name in sorted(names)):
            if path.suffix in NATIVE + PYTHON and path.is_file() and not path.is_symlink():
                found[path.relative_to(top)] = path.read_bytes().decode("latin-1")
    return found


def reads(rule: Rule, path: Path) -> bool:
    """Whether the rule reads the file ``path``, relative to the top folder."""
    return str(path) in rule.suffixes if rule.suffixes == SETUP else path.suffix in rule.suffixes


def is_built(path: Path) -> bool:
    """Whether the build uses the file ``path``, relative to the top folder."""
    return path.parts[0] == PACKAGE or str(path) in SETUP


def parsed(text: str) -> ast.Module | SyntaxError:
    """The syntax tree of a Python file, or why there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in strings, which Python only frowns at
        try:
            return ast.parse(text.encode("latin-1"))  # bytes: the file's own coding line and mark count
        except SyntaxError as error:
            return error
        except (ValueError, RecursionError, MemoryError) as error:  # zero bytes; nested beyond the parser's depth
            return SyntaxError(str(error))


def python_complaint(path: Path, before: str, after: str) -> str | None:
    """What the port would break in one Python file."""
    if before == after or isinstance(parsed(before), SyntaxError):
        return None
    tree = parsed(after)
    if isinstance(tree, SyntaxError):
        return f"{path}:{tree.lineno}: no longer parses: {tree.msg}"
    imports_os = any(isinstance(n, ast.Import) and any(a.name == "os" for a in n.names) for n in ast.walk(tree))
    if "os.getenv(" in after and "os.getenv(" not in before and not imports_os:
        return f"{path}: uses os.getenv without `import os`"
    return None


def apply_rules(files: dict[Path, str]) -> tuple[dict[Path, str], dict[str, int], list[str]]:
    """The texts after every rule, rule name -> replacements, and a complaint for each rule that found nothing."""
    ported, counts, complaints = dict(files), {}, []
    for rule in RULES:
        counts[rule.name], seen = 0, False
        for path, text in ported.items():
            if reads(rule, path):
                ported[path], n = apply(rule, text)
                counts[rule.name] += n
                # a successor that an earlier rule has just written proves nothing: the original is asked
                seen = seen or n > 0 or re.search(rule.done, files[path]) is not None
        if rule.required and not seen:
            complaints.append(
                f"rule '{rule.name}' found nothing: neither {rule.old} nor its successor {rule.done} in any "
                f"{' '.join(rule.suffixes)}"
            )
    return ported, counts, complaints


def port(source: Path) -> tuple[dict[str, int], list[str]]:
    """Port every file below ``source`` in place; rule name -> replacements, and remarks that stop nothing.

    Raises PortError, with every reason, before any file is written.
    """
    if not (source / "setup.py").is_file():
        raise PortError(f"{source} holds no setup.py: give the folder of the fork's checkout")
    files = sources_below(source)
    ported, counts, complaints = apply_rules(files)
    remarks: list[str] = []
    for path, text in ported.items():
        suffixes = NATIVE if path.suffix in NATIVE else PYTHON
        left = [f"{path}:{line}: {symbol} is left" for line, symbol in left_over(text, suffixes)]
        (complaints if is_built(path) else remarks).extend(left)
        if suffixes is PYTHON and (complaint := python_complaint(path, files[path], text)):
            complaints.append(complaint)
    if complaints:
        raise PortError("\n".join(complaints))
    for path, text in ported.items():
        if text != files[path]:
            (source / path).write_bytes(text.encode("latin-1"))
    return counts, remarks


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: port_fork.py SOURCE_FOLDER", file=sys.stderr)
        return 2
    try:
        counts, remarks = port(Path(arguments[0]))
    except PortError as error:
        print(f"port_fork: the sources cannot be ported:\n{error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"port_fork: {error}: mend the cause and port again", file=sys.stderr)
        return 1
    for remark in remarks:
        print(f"port_fork: left alone, the build does not use it: {remark}", file=sys.stderr)
    for name, count in counts.items():
        print(f"{count:4d}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
