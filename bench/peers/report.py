"""Tables out of the results of run.py."""

PEERS = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "ggml": "ggml"}


def ordered(results):
    return sorted(results, key=lambda r: r["real_time"])


def best(results, library):
    """The fastest entry point of a library, or None."""
    return next((r for r in ordered(results) if r["library"] == library), None)


def lead(results):
    """How many times longer the best peer takes than heed, by best and by median time; None without peers."""
    heed = best(results, "heed")
    peers = [r for r in results if r["library"] != "heed"]
    return [min(p[key] for p in peers) / heed[key] for key in ("real_time", "median_time")] if peers else None


def case_table(results, absent, peak):
    """One case for the terminal: contestants from the fastest down."""
    heed = best(results, "heed")
    lines = [f"\n{results[0]['case']}   FMA peak {peak:.0f} GFLOP/s",
             f"  {'':58}{'best ms':>10}{'median ms':>11}{'GFLOP/s':>9}{'of peak':>9}{'time/heed':>11}"]
    for r in ordered(results):
        name = f"{r['library']} {r['entry']}"
        lines.append(f"  {name:58}{r['real_time']:10.3f}{r['median_time']:11.3f}{r['gflops_best']:9.1f}"
                     f"{100 * r['share_median']:8.1f}%{r['real_time'] / heed['real_time']:11.2f}")
    if lead(results):
        lines.append("  best peer / heed: {:.2f} by best, {:.2f} by median time".format(*lead(results)))
    lines += [f"  {a['contestant']}: {a['reason']}" for a in absent]
    return "\n".join(lines)


def cell(result, with_entry):
    if result is None:
        return "-"
    text = f"{result['gflops_best']:.0f} ({100 * result['share_median']:.0f} %)"
    return f"{text} {result['entry'].strip('_')}" if with_entry else text


def markdown(document):
    """A table for each number of threads and family: GFLOP/s, share of the FMA peak, how many times faster heed is."""
    parts = []
    for context in document["contexts"]:
        rows = [r for r in document["benchmarks"] if r["threads"] == context["threads"]]
        threads = f"{context['threads']} thread{'s' if context['threads'] > 1 else ''}"
        v = context["versions"]
        peak = context["peak_gflops"]["median"] if "peak_gflops" in context else 0
        parts += [f"{context['cpu']}, {threads}, FMA peak {peak:.0f} GFLOP/s (fp32); {context['compiler']},"
                  f" {context['flags']}; ONNX Runtime {v['onnxruntime']}, PyTorch {v['torch']}"
                  f"{', ggml-python ' + v['ggml-python'] if 'ggml-python' in v else ''}.", ""]
        for family in dict.fromkeys(r["family"] for r in rows):
            parts += family_table([r for r in rows if r["family"] == family])
    parts.append("GFLOP/s of the best sample (median share of the fp32 FMA peak measured beside each sample)."
                 " Last column: time of the best peer over that of heed, by best (by median) sample.")
    return "\n".join(parts)


def family_table(rows):
    peers = [library for library in PEERS if best(rows, library)]
    titles = ["form/dtype/mask/B/heads/N/D", "heed", *(f"best of {PEERS[library]}" for library in peers),
              "best peer / heed"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for name in dict.fromkeys(r["case"] for r in rows):
        results = [r for r in rows if r["case"] == name]
        cells = [name, cell(best(results, "heed"), False), *(cell(best(results, library), True) for library in peers),
                 "{:.2f} ({:.2f})".format(*lead(results)) if lead(results) else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]
