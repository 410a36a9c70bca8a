#!/usr/bin/env bash
# What one short slot on a GPU can tell, in under ten minutes: bash tools/gpu_slot.sh OUTDIR
#
# Needs a GPU, nvcc, CMake and a Python with torch, NumPy and pybind11 (PYTHON names another one); no
# network. A machine that lacks Python packages can have them in a folder that is brought along, made
# where there is a network, for its version of Python (tests run where pytest is among them):
#   python3 -m pip install --target packages numpy pybind11 pytest pytest-xdist hypothesis
#   PYTHONPATH=$PWD/packages bash tools/gpu_slot.sh OUTDIR
# Ends within SLOT_SECONDS (570): a step gets what is left of them at most, and none begins in the
# last five. Builds into OUTDIR, so that it leaves the tree as it is. Every step is a process of its
# own under a time limit, for a kernel that hangs cannot be stopped from inside; a step that fails
# or runs out of time does not keep the next one from running. What is measured is there at once:
#   steps.jsonl     a line for each step: name, exit status, seconds      NAME.log  what it printed
#   versions.txt ptxas.txt check.json tests.xml paths.jsonl probe.jsonl bench.jsonl table.md
# Exit status: 0 all steps passed, 1 some did not (the last line says which), 2 cannot run here.
set -uo pipefail

((${#} == 1)) || { echo "usage: bash tools/gpu_slot.sh OUTDIR" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

missing=()
for program in nvidia-smi nvcc cmake "$python" timeout; do
  command -v "$program" >/dev/null || missing+=("$program")
done
for module in torch numpy pybind11; do
  "$python" -c "import $module" 2>/dev/null || missing+=("Python module $module")
done
if ((${#missing[@]})); then
  printf 'tools/gpu_slot.sh: cannot run here: missing' >&2
  printf ' [%s]' "${missing[@]}" >&2
  echo >&2
  exit 2
fi
nvidia-smi -L | grep -q GPU || { echo "tools/gpu_slot.sh: cannot run here: nvidia-smi lists no GPU" >&2; exit 2; }

mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
site=$out/site
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1
failed=()
end=$((SECONDS + ${SLOT_SECONDS:-570}))

# step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 start=$SECONDS status left=$((end - SECONDS)); shift 2
  if ((left < 5)); then
    status=124
    echo "no time is left" >"$out/$name.log"
  else
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" >"$out/$name.log" 2>&1 </dev/null
    status=$?
  fi
  printf '{"step": "%s", "status": %d, "seconds": %d}\n' "$name" "$status" $((SECONDS - start)) >>"$out/steps.jsonl"
  printf '%-12s status %d, %d s\n' "$name" "$status" $((SECONDS - start))
  ((status == 0)) || failed+=("$name")
  return "$status"
}

versions() {
  nvidia-smi
  nvcc --version
  cmake --version
  "$1" -c 'import torch; print("torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())'
  git -C "$2" rev-parse HEAD || true
}
export -f versions

build() {  # PYTHON ROOT OUT
  cmake -S "$2" -B "$3/build" -DCMAKE_BUILD_TYPE=Release -DFASTRNN_CUDA=ON -DFASTRNN_CUDA_ARCHITECTURES=native \
    -DFASTRNN_TESTS=ON -DPython_EXECUTABLE="$(command -v "$1")" &&
    cmake --build "$3/build" --parallel "$(nproc)" &&
    mkdir -p "$3/site" && cp -r "$2/python/fastrnn" "$3/site/" && cp "$3/build/"_core.*.so "$3/site/fastrnn/"
}
export -f build

step versions 30 bash -c 'versions "$@"' _ "$python" "$root" && cp "$out/versions.log" "$out/versions.txt"
if step build 240 bash -c 'build "$@"' _ "$python" "$root" "$out"; then
  cd "$root" || exit 2
  architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')
  step import 30 "$python" -c 'import fastrnn; assert "cuda" in fastrnn.backends(), fastrnn.backends()'
  step check 90 "$python" benchmarks/gpu_check.py "$out/check.json"
  if "$python" -c 'import pytest' 2>/dev/null; then
    step tests 90 "$python" -m pytest -q -o addopts=--import-mode=importlib -p no:cacheprovider -m gpu --junitxml "$out/tests.xml" tests
  fi
  if ((${architecture:-0} >= 90)); then
    step persistent 60 "$out/build/tests/cpp/test_persistent"
    step paths 60 "$python" benchmarks/gpu_paths.py "$out/paths.jsonl" --seconds 45
  fi
  sanitizer=$(command -v compute-sanitizer)
  if [[ -n $sanitizer ]]; then
    for tool in memcheck racecheck synccheck; do
      step "$tool" 40 "$sanitizer" --tool "$tool" --error-exitcode 1 \
        "$python" benchmarks/gpu_check.py "$out/$tool.json" --only "float32 T3B2I4H5"
    done
    FASTRNN_CUDA_PATH=steps step memcheck-steps 40 "$sanitizer" --tool memcheck --error-exitcode 1 \
      "$python" benchmarks/gpu_check.py "$out/memcheck-steps.json" --only "float32 T3B2I4H5"
  fi
  if step probe-build 60 nvcc -std=c++20 -O3 -arch=native -o "$out/probe" benchmarks/gpu_probe.cu; then
    step probe 40 "$out/probe" "$out/probe.jsonl"
  fi
  left=$((end - SECONDS - 30))  # a case may take some seconds more, and then comes the table
  step bench 200 "$python" benchmarks/gpu_bench.py "$out/bench.jsonl" --seconds $((left < 180 ? left : 180))
  step table 30 "$python" benchmarks/gpu_bench.py "$out/bench.jsonl" --table && cp "$out/table.log" "$out/table.md"
  for source in kernels persistent; do
    step "ptxas-$source" 60 nvcc -std=c++20 --expt-relaxed-constexpr --split-compile=0 -Xptxas=-v \
      -arch="sm_${architecture/#90/90a}" -cubin -o "$out/$source.cubin" -I csrc -I cuda "cuda/$source.cu" &&
      cat "$out/ptxas-$source.log" >>"$out/ptxas.txt"
  done
  cat "$out/table.md" 2>/dev/null
fi
if ((${#failed[@]})); then
  echo "tools/gpu_slot.sh: failed: ${failed[*]}   (after $SECONDS s; $out)"
  exit 1
fi
echo "tools/gpu_slot.sh: every step passed   (after $SECONDS s; $out)"
