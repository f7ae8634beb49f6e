#!/usr/bin/env python3
"""Writes gated_linear.txt or gated_slot.txt: the naive references of flash-linear-attention, and their gradients by
automatic differentiation, in double precision.

Needs `pip install torch einops` and `pip install --no-deps fla-core`.

    python3 make_golden.py gated_linear > gated_linear.txt
    python3 make_golden.py gated_slot > gated_slot.txt

The format is that of ../golden_file.py. Gradients are those of sum(dout * out) + sum(dfinal * final), over all final
states.
"""
import importlib.metadata
import importlib.util
import pathlib
import re
import sys

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
from golden_file import draw, print_tensor, print_versions  # noqa: E402

torch.manual_seed(20)
torch.set_num_threads(1)

PLAIN = dict(B=1, H=2, G=2, N=9, D=4, E=3, S=5)
GATED_LINEAR = {
    "gates of features": dict(B=2),
    "gates of features, grouped heads": dict(H=4),
    "gates of features, one token": dict(N=1),
    "gates of features that close": dict(closing=True),
    "gates of tokens": dict(token_gates=True),
    "gates of tokens, grouped heads, explicit scale": dict(token_gates=True, H=4, scale=-0.375),
    "gates of tokens that close": dict(token_gates=True, closing=True),
}
GATED_SLOT = {
    "plain": dict(B=2),
    "grouped heads, explicit scale": dict(H=4, scale=0.625),
    "one token": dict(N=1),
    "gates that close": dict(closing=True),
}


def published(module, function):
    """A function of the package that computes in double: its casts to float become casts to double. The file is read by
    itself, since the package's own import asks for a GPU compiler."""
    root = pathlib.Path(importlib.util.find_spec("fla").submodule_search_locations[0])
    source = (root / module).read_text()
    source = re.sub(r"\btorch\.float(32)?\b", "torch.float64", source).replace(".float()", ".double()")
    names = {}
    exec(compile(source, module, "exec"), names)
    return names[function]


def tokens_first(x):
    return x.transpose(1, 2)


def every_query_head(x, case):
    return x.repeat_interleave(case["H"] // case["G"], dim=1)


def gated_linear(x, case):
    """out and the final state. The package has no grouped heads here: each query head gets copies."""
    q, k, v, g = (tokens_first(y) for y in (x["q"], *(every_query_head(x[name], case) for name in "kvg")))
    options = dict(initial_state=every_query_head(x["initial_state"], case), output_final_state=True)
    if case.get("token_gates"):
        solve = published("ops/simple_gla/naive.py", "naive_recurrent_simple_gla")
        out, state = solve(q, k, v, g, scale=case.get("scale"), **options)
    else:
        out, state = published("ops/gla/naive.py", "naive_recurrent_gla")(q, k, v, g, **options)
    return {"out": tokens_first(out), "final_state": state[:, :: case["H"] // case["G"]]}


def gated_slot(x, case):
    out, (keys, values) = published("ops/gsa/naive.py", "naive_recurrent_gsa")(
        *(tokens_first(x[name]) for name in "qkvsg"), scale=case.get("scale"),
        initial_state=(x["initial_keys"], x["initial_values"]), output_final_state=True)
    return {"out": tokens_first(out), "final_keys": keys, "final_values": values}


def gates(case, *extents):
    """Logs of gates; those that close fade by far more than a chunk can divide out, and some are -inf."""
    if not case.get("closing"):
        return -(draw(*extents).abs() * 8).round() / 32
    return (-32 * draw(*extents).abs()).masked_fill(torch.rand(extents) < 0.125, -torch.inf)


def inputs_of(operator, case):
    B, H, G, N, D, E, S = (case[axis] for axis in "BHGNDES")
    x = {"q": draw(B, H, N, D), "k": draw(B, G, N, D), "v": draw(B, G, N, E)}
    if operator is gated_slot:
        states = {"keys": (B, G, D, S), "values": (B, G, S, E)}
        x["s"] = (draw(B, G, N, S).abs() * 8).round() / 32
        x["g"] = gates(case, B, G, N, S)
    else:
        states = {"state": (B, G, D, E)}
        x["g"] = gates(case, B, G, N) if case.get("token_gates") else gates(case, B, G, N, D)
    x |= {f"initial_{name}": draw(*extents) for name, extents in states.items()}
    upstream = {"out": draw(B, H, N, E)} | {f"final_{name}": draw(*extents) for name, extents in states.items()}
    return x, upstream


def make(operator, name, changes):
    case = PLAIN | changes
    x, upstream = inputs_of(operator, case)
    for tensor in x.values():
        tensor.requires_grad_()
    results = operator(x, case)
    loss = sum((upstream[name] * results[name]).sum() for name in upstream)
    gradients = torch.autograd.grad(loss, list(x.values()))

    print("case", name)
    if "scale" in case:
        print("number scale", case["scale"])
    for tensor, value in x.items():
        print_tensor(tensor, value)
    for tensor, value in upstream.items():
        print_tensor("d" + tensor, value)
    for tensor, value in results.items():
        print_tensor(tensor, value)
    for tensor, value in zip(x, gradients):
        assert value.dtype == torch.float64 and value.isfinite().all(), (name, tensor)
        print_tensor("d" + tensor, value)


def main():
    calls = {"gated_linear": (gated_linear, GATED_LINEAR), "gated_slot": (gated_slot, GATED_SLOT)}
    operator, cases = calls[sys.argv[1]]
    print_versions(f"fla-core {importlib.metadata.version('fla-core')}")
    for name, changes in cases.items():
        make(operator, name, changes)


main()
