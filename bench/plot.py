#!/usr/bin/env python3
"""Draws the share of the multiply-add peak that heed and its peers reach, case by case.

    python3 bench/plot.py peers.json -o docs/img/softmax_peers.svg
    python3 bench/plot.py peers.json softmax.json --threads 1 -o docs/img/softmax_peers.svg

Takes JSON of bench/peers/run.py and of heed's own benchmarks (--benchmark_out), in any order. A case of both is drawn
as the peers' run measured it, where everything met the same conditions. The background is transparent and the colors
suit light and dark pages. The format follows from the name of the output: svg, png or pdf.
"""

import argparse
import json
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

INK = "#7d8590"
LIBRARIES = {"heed": ("heed", "#e8590c"), "onnxruntime": ("ONNX Runtime, its best", "#3b8fd0"),
             "torch": ("PyTorch, its best", "#8a94a0")}
DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
MASKS = {"full": "no mask", "causal": "causal"}
FAMILY = ("softmax", "forward")
BAR = 0.26


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="JSON of benchmarks")
    parser.add_argument("-o", "--output", default="softmax_peers.svg", metavar="FILE")
    parser.add_argument("--threads", type=int, nargs="+", help="which numbers of threads, side by side (default: all)")
    parser.add_argument("--dtypes", nargs="+", help="which element types, such as float32 (default: all)")
    return parser.parse_args()


def percent(entry):
    """Share of peak in percent, or None if the entry has none."""
    for key in ("share_median", "peak_share", "share_best"):
        if isinstance(entry.get(key), (int, float)):
            return 100 * entry[key]
    return None


def identity(entry):
    """(threads, dtype, mask, B, heads, N, D) of a name softmax/forward/dtype/mask/B/heads/N/D/threads, or None."""
    parts = str(entry.get("name", "")).split("/")
    if tuple(parts[:2]) != FAMILY or len(parts) < 9 or not parts[8].isdigit():
        return None
    return int(parts[8]), *parts[2:8]


def read(paths):
    """{threads: {case: {library: percent}}}, and a line about the machine."""
    shares, machine, own = {}, "", []
    for path in paths:
        document = json.loads(pathlib.Path(path).read_text())
        for context in document.get("contexts", []):
            versions = context.get("versions", {})
            machine = machine or ", ".join(filter(None, [
                context.get("cpu"), context.get("compiler"),
                versions.get("onnxruntime") and f"ONNX Runtime {versions['onnxruntime']}",
                versions.get("torch") and f"PyTorch {versions['torch']}"]))
        for entry in document.get("benchmarks", []):
            name, value = identity(entry), percent(entry)
            if name is None or value is None or entry.get("error_occurred"):
                continue
            if "library" not in entry:
                own.append((name, value))
                continue
            case = shares.setdefault(name[0], {}).setdefault(name[1:], {})
            case[entry["library"]] = max(value, case.get(entry["library"], 0))
    for name, value in own:
        shares.setdefault(name[0], {}).setdefault(name[1:], {}).setdefault("heed", value)
    return shares, machine


def heading(case):
    dtype, mask = case[:2]
    mask = f"causal, window {mask[6:]}" if mask.startswith("window") else MASKS.get(mask, mask)
    return f"{DTYPES.get(dtype, dtype)}, {mask}"


def label(case):
    batch, heads, n, d = case[2:]
    text = f"{heads.replace(':', ' heads over ') if ':' in heads else heads + ' heads'}, N {n}, D {d}"
    return text if batch == "1" else f"batch {batch}, {text}"


def layout(cases):
    """Vertical positions: one row for each case, a heading above each group. Returns rows, headings and the height."""
    rows, headings, y = [], [], 0.0
    for group in dict.fromkeys(heading(case) for case in cases):
        headings.append((y + 0.1, group))
        y += 0.85
        for case in cases:
            if heading(case) == group:
                rows.append((y, case))
                y += 1.0
        y += 0.25
    return rows, headings, y


def draw(shares, machine, output):
    threads = sorted(shares)
    cases = list(dict.fromkeys(case for count in threads for case in shares[count]))
    rows, headings, height = layout(cases)
    measured = [values for count in threads for values in shares[count].values()]
    libraries = [name for name in LIBRARIES if any(name in values for values in measured)]
    pyplot.rcParams.update({"font.family": "sans-serif", "font.size": 10, "text.color": INK, "axes.labelcolor": INK,
                            "xtick.color": INK, "ytick.color": INK, "svg.hashsalt": "heed"})
    # A 16-bit product of some machines is faster than the fp32 peak.
    right = max(100, *(1.06 * share for values in measured for share in values.values()))
    top, bottom = 0.75, 0.8
    size = (3.0 + 4.2 * len(threads), 0.36 * height + top + bottom)
    figure, panels = pyplot.subplots(1, len(threads), figsize=size, sharey=True, squeeze=False)
    for axes, count in zip(panels[0], threads):
        for y, case in rows:
            values = shares[count].get(case, {})
            present = [library for library in libraries if library in values]
            for i, library in enumerate(present):
                value = values[library]
                offset = (i - (len(present) - 1) / 2) * BAR
                axes.barh(y + offset, value, BAR * 0.88, color=LIBRARIES[library][1])
                axes.text(value + 1, y + offset, f"{value:.0f}", va="center", fontsize=7.5,
                          color=LIBRARIES["heed"][1] if library == "heed" else INK,
                          fontweight="bold" if library == "heed" else "normal")
        axes.set_xlim(0, right)
        axes.set_ylim(height - 0.2, -0.3)
        axes.set_yticks([y for y, _ in rows], [label(case) for _, case in rows])
        axes.tick_params(length=0)
        axes.set_xticks(range(0, int(right) + 1, 20))
        axes.grid(axis="x", color=INK, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in axes.spines.values():
            side.set_visible(False)
        for y, text in headings:
            axes.text(0.8, y, text, fontweight="bold", va="center", fontsize=10)
        axes.set_xlabel(f"% of the fp32 multiply-add peak, {count} thread{'s' if count > 1 else ''}")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=LIBRARIES[name][1]) for name in libraries]
    figure.legend(handles, [LIBRARIES[name][0] for name in libraries], loc="upper center", ncols=len(libraries),
                  frameon=False, fontsize=11, bbox_to_anchor=(0.5, 1.0))
    figure.text(0.01, 0.1 / size[1], machine, fontsize=8, va="bottom")
    figure.tight_layout(rect=(0, 0.3 / size[1], 1, 1 - 0.4 / size[1]))
    pathlib.Path(output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, transparent=True, dpi=160,
                   metadata={"Date": None} if str(output).endswith(".svg") else None)


def main():
    options = arguments()
    shares, machine = read(options.files)
    shares = {count: {case: values for case, values in cases.items() if not options.dtypes or case[0] in options.dtypes}
              for count, cases in shares.items() if not options.threads or count in options.threads}
    # Names of heed's own variants, such as a bias, have no peers; the figure is about those that do, if any do.
    compared = {case for cases in shares.values() for case, values in cases.items() if len(values) > 1}
    if compared:
        shares = {count: {case: v for case, v in cases.items() if case in compared} for count, cases in shares.items()}
    shares = {count: cases for count, cases in shares.items() if cases}
    if not shares:
        sys.exit("no softmax/forward results with a share of peak in these files")
    draw(shares, machine, options.output)


if __name__ == "__main__":
    main()
