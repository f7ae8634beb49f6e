#!/usr/bin/env python3
"""Compares heed with ONNX Runtime, PyTorch and ggml on the CPU: same tensors, one process, in alternation.

    python3 bench/peers/run.py --threads 1                             every case
    python3 bench/peers/run.py --threads 1 2 --json peers.json --markdown
    python3 bench/peers/run.py --shapes float32/causal bfloat16 --peers flash group

What it needs is in requirements.txt. Every contestant's output is compared with heed's before anything is timed.
Samples go round-robin over the contestants, and beside each one the FMA rate of the machine is measured again. Measure
on a quiet machine: the figures of a busy one say nothing.
"""

import argparse
import fnmatch
import importlib.metadata
import json
import logging
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from statistics import median

import report
from cases import Tensors, all_cases

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOLERANCE = {"float32": (1e-4, 0), "bfloat16": (2e-2, 2e-2), "float16": (3e-3, 3e-3)}
SAMPLE_SECONDS = 0.05
WARM_UP_BELOW_SECONDS = 0.2
LONGEST_PEAK_SECONDS = 0.25
HOPELESS = 10  # times the fastest contestant: one sample is enough
FLAGS = ["-O3", "-march=native", "-fopenmp"]
OPTIONAL = {"ggml-python"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="one run, a process of its own, for each")
    parser.add_argument("--cores", help="cores to use, such as 0 or 0,1 (default: the first ones allowed)")
    parser.add_argument("--shapes", nargs="+", default=[""], metavar="PART",
                        help="cases whose name has this part (* and ? allowed), such as float32/causal or 2048/64")
    parser.add_argument("--peers", nargs="+", default=[""], metavar="PART", help="contestants whose name has this part")
    parser.add_argument("--samples", type=int, default=9, help="of each contestant (default 9)")
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--library", metavar="FILE", help="a built heed_peers.so instead of building one")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser.parse_args()


def matches(name, parts, start="*"):
    return any(fnmatch.fnmatch(name.lower(), f"{start}{part.lower()}*") for part in parts)


def versions():
    """Installed versions of what requirements.txt names; ends the program if one is missing that is not optional."""
    found, missing = {}, []
    for line in (HERE / "requirements.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        package, wanted = line.split("==")
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package in OPTIONAL:
                print(f"note: {package} is not installed, its entry points are left out", file=sys.stderr)
            else:
                missing.append(package)
            continue
        if found[package].split("+")[0] != wanted:
            print(f"note: {package} {found[package]} is installed, requirements.txt pins {wanted}", file=sys.stderr)
    if missing:
        sys.exit(f"missing: {', '.join(missing)}. Install with: pip install -r {HERE / 'requirements.txt'}")
    return found


def build():
    """Compiles heed_peers.cpp unless the library is newer than every source of it; returns its path."""
    target = ROOT / "build" / "peers" / "heed_peers.so"
    sources = [HERE / "heed_peers.cpp", HERE.parent / "support" / "peak.hpp", *(ROOT / "include").rglob("*.hpp")]
    if target.exists() and target.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-std=c++20", *FLAGS, "-shared", "-fPIC",
               *shlex.split(os.environ.get("CXXFLAGS", "")), "-I", str(ROOT / "include"), str(sources[0]),
               "-o", str(target)]
    print("building heed_peers.so", file=sys.stderr)
    subprocess.run(command, check=True)
    return target


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return "unknown"


def agree(case, got, expected):
    """Whether two results are the same up to rounding, and the largest absolute difference."""
    absolute, relative = TOLERANCE[case.dtype]
    difference = (got.float() - expected.float()).abs()
    good = (difference <= absolute + relative * expected.float().abs()).all().item()
    return good, difference.max().item()


def seconds(run, calls=1):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def enter(case, kinds, threads, heed, log):
    """The contestants of a case that can compute it and agree with heed; what became of the others; mismatches."""
    from contestants import HEED

    tensors = Tensors(case)
    first = HEED[case.family](case, tensors, threads, heed)
    first.run()
    ready, absent, wrong = [], [], 0
    for kind in kinds:
        if kind.family != case.family:
            continue
        try:
            own = Tensors(case) if kind.makes_tensors else tensors
            contestant = kind(case, own, threads, heed)
            contestant.run()
        except Exception as error:  # a peer says in its own way what it cannot do
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            absent.append({"contestant": f"{kind.library} {kind.entry}", "reason": reason})
            continue
        reference = first
        if kind.makes_tensors:
            reference = HEED[case.family](case, own, threads, heed)
            reference.run()
        good, difference = agree(case, contestant.output(), reference.output())
        if good:
            contestant.difference = difference
            ready.append(contestant)
        else:
            wrong += 1
            reason = f"differs from heed by up to {difference:.3g}"
            absent.append({"contestant": contestant.name, "reason": reason})
            log(f"  {contestant.name}: {reason}")
    return ready, absent, wrong


def measure(case, ready, samples, threads, heed):
    """Round-robin samples of every contestant, each between two looks at the FMA rate."""
    first = {c: seconds(c.run) for c in ready}
    fastest = min(first.values())
    calls = {c: max(1, min(100, round(SAMPLE_SECONDS / first[c]))) for c in ready}
    times = {c: [] for c in ready}
    shares = {c: [] for c in ready}
    peaks = []
    for turn in range(samples):
        for c in ready[turn % len(ready):] + ready[:turn % len(ready)]:
            if turn > 0 and first[c] > HOPELESS * fastest:
                continue
            # As long as the sample, so that both meet the machine as it is at the time.
            duration = min(first[c] * calls[c] / 2, LONGEST_PEAK_SECONDS)
            before = heed.peak(threads, duration)
            # Wakes the threads of this contestant and lets those of others fall asleep.
            if first[c] < WARM_UP_BELOW_SECONDS:
                c.run()
            elapsed = seconds(c.run, calls[c])
            peak = (before + heed.peak(threads, duration)) / 2
            times[c].append(elapsed)
            shares[c].append(case.flops / elapsed * 1e-9 / peak)
            peaks.append(peak)
    results = []
    for c in ready:
        best = min(times[c])
        results.append({
            "name": f"{case.family}/{case.name}/{threads}", "family": case.family, "case": case.name,
            "library": c.library, "entry": c.entry, "layout": c.layout, "threads": threads, "real_time": best * 1e3,
            "median_time": median(times[c]) * 1e3, "time_unit": "ms", "gflops_best": case.flops / best * 1e-9,
            "share_best": max(shares[c]), "share_median": median(shares[c]), "samples": [t * 1e3 for t in times[c]],
            "difference": c.difference})
    return results, peaks


def run(options, threads):
    """All cases with one number of threads, in this process. Returns the JSON document and the number of mismatches."""
    allowed = sorted(os.sched_getaffinity(0))
    cores = [int(core) for core in options.cores.split(",")] if options.cores else allowed
    if len(cores) < threads:
        sys.exit(f"{threads} threads asked for, {len(cores)} cores allowed")
    # Before any library is loaded: they size their thread pools by these.
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    found = versions()
    path = pathlib.Path(options.library).resolve() if options.library else build()
    flags = "prebuilt" if options.library else " ".join(FLAGS)

    import torch

    logging.getLogger("torch").setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    # Comes after torch, so that both use one OpenMP runtime and its one pool of threads.
    from contestants import HEED, PEERS, HeedLibrary

    heed = HeedLibrary(path)

    def log(text):
        print(text, file=sys.stderr, flush=True)

    context = {"cpu": cpu_model(), "cores": cores[:threads], "threads": threads, "samples": options.samples,
               "compiler": heed.compiler(), "flags": flags, "vector_bits": heed.vector_bits(),
               "python": sys.version.split()[0], "versions": found, "date": time.strftime("%Y-%m-%d"),
               "command": shlex.join(["bench/peers/run.py", *sys.argv[1:]]), "load_before": os.getloadavg()[0]}
    kinds = [*HEED.values()] + [kind for kind in PEERS if matches(f"{kind.library} {kind.entry}", options.peers)]
    benchmarks, absentees, peaks, mismatches = [], [], [], 0
    for case in all_cases():
        if not matches("/" + case.name, options.shapes, "*/"):
            continue
        log(f"{case.name}, {threads} thread{'s' if threads > 1 else ''}")
        ready, absent, wrong = enter(case, kinds, threads, heed, log)
        results, seen = measure(case, ready, options.samples, threads, heed)
        mismatches += wrong
        benchmarks += results
        absentees += [{"case": case.name, "threads": threads, **entry} for entry in absent]
        peaks += seen
        print(report.case_table(results, absent, median(seen)), flush=True)
    if peaks:
        context["peak_gflops"] = {"median": median(peaks), "lowest": min(peaks), "highest": max(peaks)}
    context["load_after"] = os.getloadavg()[0]
    return {"contexts": [context], "benchmarks": benchmarks, "absent": absentees}, mismatches


def run_each(options):
    """One process for every number of threads, since pools of threads keep their size. Merges the documents."""
    whole, failures = {"contexts": [], "benchmarks": [], "absent": []}, 0
    for threads in options.threads:
        with tempfile.NamedTemporaryFile(suffix=".json") as part:
            command = [sys.executable, __file__, "--threads", str(threads), "--samples", str(options.samples),
                       "--shapes", *options.shapes, "--peers", *options.peers, "--json", part.name]
            if options.cores:
                command += ["--cores", options.cores]
            if options.library:
                command += ["--library", options.library]
            failures += subprocess.run(command).returncode != 0
            text = pathlib.Path(part.name).read_text()
            for key, entries in (json.loads(text) if text else {}).items():
                whole[key] += entries
    for context in whole["contexts"]:
        context["command"] = shlex.join(["bench/peers/run.py", *sys.argv[1:]])
    return whole, failures


def main():
    options = arguments()
    if options.list:
        print("\n".join(case.name for case in all_cases()))
        return 0
    document, failures = run(options, options.threads[0]) if len(options.threads) == 1 else run_each(options)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown:
        print(report.markdown(document))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
