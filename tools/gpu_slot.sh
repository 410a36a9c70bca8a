#!/usr/bin/env bash
# What one short slot on a GPU can tell, in under ten minutes: bash tools/gpu_slot.sh OUTDIR [STEP...]
#
# Needs a GPU, nvcc, CMake, make, a C++ compiler and a Python (PYTHON names another one) with headers
# and the modules below; no network; torch for the comparison with it. What is missing is said at once. Python
# modules can be brought along in a folder, made where there is a network, for the machine's version of Python:
#   python3 -m pip install --target packages pybind11 pytest hypothesis
#   PYTHONPATH=$PWD/packages bash tools/gpu_slot.sh OUTDIR
# Ends within SLOT_SECONDS (570): a step gets what is left of them at most, and none begins in the last
# five. The steps come in the order of their worth, each a process of its own under a time limit, for a
# kernel that hangs cannot be stopped from inside; a step that fails or runs out of time does not keep
# the next one from running. Builds into build/gpu_slot, where a second run finds most of it; STEP... are
# all that is run after that. SLOT_BUILT=1 takes what lies there as it is (site, probe,
# tests/cpp/test_persistent), from another machine maybe, and builds nothing.
# OUTDIR holds no more than these files, each filled while its step runs:
#   log.txt         what every step printed      steps.jsonl     a line for each: name, exit status, seconds
#   check.json check-steps.json bench.jsonl table.md paths.jsonl probe.jsonl
# Exit status: 0 all steps passed, 1 some did not (the last lines say which, and what they printed last),
# 2 cannot run here.
set -uo pipefail

((${#} >= 1)) || { echo "usage: bash tools/gpu_slot.sh OUTDIR [STEP...]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
only=" ${*:2} "

missing=()
for program in nvidia-smi nvcc cmake make "${CXX:-c++}" "$python" timeout; do
  command -v "$program" >/dev/null || missing+=("$program")
done
if command -v "$python" >/dev/null; then
  mapfile -t -O ${#missing[@]} missing < <("$python" -c '
import importlib.metadata, importlib.util, pathlib, sysconfig
for name in ("numpy", "pybind11", "safetensors", "threadpoolctl", "tqdm"):
    if importlib.util.find_spec(name) is None:
        print("Python module", name)
    elif name == "pybind11" and [int(n) for n in importlib.metadata.version(name).split(".")[:2]] < [3, 0]:
        print("pybind11 3.0.1: there is", importlib.metadata.version(name))
if not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists():
    print("Python.h")')
fi
if ((${#missing[@]})); then
  printf 'tools/gpu_slot.sh: cannot run here: missing' >&2
  printf ' [%s]' "${missing[@]}" >&2
  echo >&2
  exit 2
fi
nvidia-smi -L | grep -q GPU || { echo "tools/gpu_slot.sh: cannot run here: nvidia-smi lists no GPU" >&2; exit 2; }

has() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)"; }

mkdir -p "$1" && out=$(cd "$1" && pwd) && cd "$root" || exit 2
build=$root/build/gpu_slot
export PYTHONPATH=$build/site${PYTHONPATH:+:$PYTHONPATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
failed=() said=""
end=$((SECONDS + ${SLOT_SECONDS:-570}))
nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '. ')

# step NAME SECONDS COMMAND...
step() {
  local name=$1 limit=$2 start=$SECONDS status left=$((end - SECONDS)) before; shift 2
  [[ $name == build || $only == "  " || $only == *" $name "* ]] || return 0
  printf '=== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  before=$(wc -c <"$out/log.txt")
  if ((left < 5)); then
    status=124
    echo "no time is left" >>"$out/log.txt"
  else
    timeout --kill-after=5 "$((limit < left ? limit : left))" "$@" >>"$out/log.txt" 2>&1 </dev/null
    status=$?
  fi
  printf '{"step": "%s", "status": %d, "seconds": %d}\n' "$name" "$status" $((SECONDS - start)) >>"$out/steps.jsonl"
  printf '%-12s status %d, %d s\n' "$name" "$status" $((SECONDS - start))
  if ((status != 0)); then
    failed+=("$name")
    said+=$(printf -- '--- %s, status %d\n' "$name" "$status"; tail -c "+$((before + 1))" "$out/log.txt" | tail -n 12 | cut -c -300)$'\n'
  fi
  return "$status"
}

versions() {
  nvidia-smi
  nvcc --version
  cmake --version
  "$1" -c 'import torch; print("torch", torch.__version__, "cuDNN", torch.backends.cudnn.version())'
  git rev-parse HEAD || true
}
build() {  # PYTHON BUILD ARCHITECTURE: for this GPU alone
  nvcc -std=c++20 -O3 -arch="sm_$3" -o "$2/probe" benchmarks/gpu_probe.cu &
  cmake -S . -B "$2" -DCMAKE_BUILD_TYPE=Release -DFASTRNN_CUDA=ON "-DFASTRNN_CUDA_ARCHITECTURES=$3-real" \
    -DFASTRNN_TESTS=ON -DPython_EXECUTABLE="$(command -v "$1")" &&
    cmake --build "$2" --parallel "$(nproc)" --target _core test_persistent &&
    rm -rf "$2/site" && mkdir "$2/site" && cp -r python/fastrnn "$2/site/" && cp "$2"/_core.*.so "$2/site/fastrnn/"
  local status=$?
  wait
  return "$status"
}
export -f versions build

mkdir -p "$build"
if [[ -n ${SLOT_BUILT-} ]] || step build 240 bash -c 'build "$@"' _ "$python" "$build" "${architecture/#90/90a}"; then
  step import 40 "$python" -c 'import fastrnn; fastrnn.show_config(); assert "cuda" in fastrnn.backends()'
  step versions 40 bash -c 'versions "$@"' _ "$python"
  step check-steps 90 env FASTRNN_CUDA_PATH=steps "$python" benchmarks/gpu_check.py "$out/check-steps.json"
  if ((${architecture:-0} >= 90)); then
    # what follows is then to tell of the other path, and not to hang
    step persistent 60 "$build/tests/cpp/test_persistent" verbose || export FASTRNN_CUDA_PATH=steps
    step check 90 env -u FASTRNN_CUDA_PATH "$python" benchmarks/gpu_check.py "$out/check.json"
  fi
  sanitizer=$(command -v compute-sanitizer)
  # sanitized TOOL: two small calls of every cell
  sanitized() {
    [[ -z $sanitizer ]] || step "$1" 40 "$sanitizer" --tool "$1" --error-exitcode 1 \
      "$python" benchmarks/gpu_check.py "$build/sanitized.json" --only "float32 T3B2I4H5"
  }
  sanitized memcheck
  if has torch; then
    left=$((end - SECONDS - 30))  # a case may take some seconds more, and then comes the table
    step bench 200 "$python" benchmarks/gpu_bench.py "$out/bench.jsonl" --seconds $((left < 150 ? left : 150))
    step table 30 bash -o pipefail -c '"$1" benchmarks/gpu_bench.py "$2/bench.jsonl" --table | tee "$2/table.md"' _ "$python" "$out"
    if ((${architecture:-0} >= 90)); then
      step paths 60 "$python" benchmarks/gpu_paths.py "$out/paths.jsonl" --seconds 45
    fi
  else
    echo "no torch: neither bench nor paths"
  fi
  step probe 40 "$build/probe" "$out/probe.jsonl"
  sanitized racecheck
  sanitized synccheck
  if has pytest && has hypothesis; then
    step tests 90 "$python" -m pytest -q -o addopts=--import-mode=importlib -o filterwarnings=default --confcutdir=tests \
      -p no:cacheprovider -m gpu tests/test_cuda.py
  fi
  cat "$out/table.md" 2>/dev/null
fi
if ((${#failed[@]})); then
  printf '%s' "$said"
  echo "tools/gpu_slot.sh: failed: ${failed[*]}   (after $SECONDS s; $out)"
  exit 1
fi
echo "tools/gpu_slot.sh: every step passed   (after $SECONDS s; $out)"
