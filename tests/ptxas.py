"""What ptxas makes of the CUDA kernels: registers and spilled bytes of each, by architecture.

python tests/ptxas.py writes cuda/ptxas.json, with which tests/test_cuda.py compares.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "cuda" / "ptxas.json"
CUDA = ROOT / "cuda"
SOURCES = {
    "80": [CUDA / "kernels.cu"],
    "90a": [CUDA / "kernels.cu", CUDA / "persistent.cu"],
    "100": [CUDA / "kernels.cu", CUDA / "persistent.cu"],
}

Usage = dict[str, list[int]]  # kernel -> [registers, spilled bytes]


def usage(nvcc: str, architecture: str, source: Path, folder: Path) -> Usage:
    """Of every kernel of a source. Raises CalledProcessError where it does not compile."""
    options = ("-std=c++20", "--expt-relaxed-constexpr", "-Werror=all-warnings", "-Xptxas=-v")
    target = (f"-arch=sm_{architecture}", "-cubin", "-o", str(folder / "kernels.cubin"))
    include = (f"-I{ROOT / 'csrc'}", f"-I{CUDA}")
    command = [nvcc, *options, *target, *include, "-x", "cu", str(source)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.findall(
        r"Function properties for (\w+)\s*\n"
        r"\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\s*\n"
        r".*?Used (\d+) registers",
        said,
    )
    names = subprocess.run(
        ["c++filt"],
        input="\n".join(f[0] for f in found),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return {
        short(name): [int(registers), int(stack) + int(stores) + int(loads)]
        for name, (_, stack, stores, loads, registers) in zip(names, found, strict=True)
    }


def short(name: str) -> str:
    """void fastrnn::(anonymous namespace)::cuda::kernel<fastrnn::Lstm, float>(...) ->
    kernel<Lstm, float>
    """
    plain = r"\(anonymous namespace\)::|fastrnn::|cuda::|\(bool\)|\(int\)|^void "
    return re.sub(plain, "", name).partition("(")[0]


def table(nvcc: str) -> dict[str, Usage]:
    with tempfile.TemporaryDirectory() as folder:
        return {
            architecture: {
                name: of
                for source in sources
                for name, of in usage(nvcc, architecture, source, Path(folder)).items()
            }
            for architecture, sources in SOURCES.items()
        }


def main() -> int:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("ptxas.py: no nvcc", file=sys.stderr)
        return 2
    lines = [
        f' "{architecture}": {{\n'
        + ",\n".join(f"  {json.dumps(name)}: {of}" for name, of in sorted(kernels.items()))
        + "\n }"
        for architecture, kernels in table(nvcc).items()
    ]
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
