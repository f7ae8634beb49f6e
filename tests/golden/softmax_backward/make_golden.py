#!/usr/bin/env python3
"""Writes golden.txt: attention and its gradients, by automatic differentiation in double precision.

Needs `pip install torch`.

    python3 make_golden.py > golden.txt

The format is that of ../golden_file.py. Gradients are those of sum(dout * out) + sum(dlse * lse); a case without dlse has
the first sum alone.
"""
import pathlib
import sys

import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent))
from golden_file import draw, print_tensor, print_versions  # noqa: E402

torch.manual_seed(20)
torch.set_num_threads(1)

# A bias has the axes it names, of batch, heads, queries (n) and keys (m), and extent 1 along the others.
PLAIN = dict(B=2, H=2, G=2, N=6, M=7, D=5, E=4)
CASES = {
    "plain": {},
    "explicit scale": dict(scale=-0.375),
    "zero scale": dict(scale=0.0),
    "one query": dict(N=1, M=9),
    "causal": dict(N=7, causal=True),
    "causal, fewer queries than keys": dict(N=4, causal=True),
    "causal, more queries than keys": dict(N=8, M=5, causal=True),
    "grouped heads": dict(B=1, H=6, G=2),
    "one key head for all, causal": dict(B=1, H=3, G=1, N=7, causal=True),
    "bias": dict(bias="bhnm"),
    "bias by head and key": dict(bias="hm"),
    "bias by batch and query": dict(bias="bn"),
    "bias by query and key, causal": dict(N=7, bias="nm", causal=True),
    "bias for all": dict(bias=""),
    "bias that excludes": dict(bias="bhnm", excluded=True),
    "softcap": dict(softcap=0.75),
    "softcap and bias": dict(softcap=0.75, bias="hnm"),
    "alibi, causal": dict(N=7, alibi=True, causal=True),
    "sink": dict(sink=True),
    "sink, causal, more queries than keys": dict(N=8, M=5, sink=True, causal=True),
    "window": dict(B=1, N=9, M=9, window=(2, 1)),
    "window to the left, fewer queries than keys": dict(B=1, N=5, M=10, window=(3, 0)),
    "window with offsets": dict(B=1, N=6, M=9, window=(2, 2), q_offset=4, kv_offset=1),
    "lse": dict(dlse=True),
    "lse, sink": dict(dlse=True, sink=True),
    "lse, causal, more queries than keys": dict(N=8, M=5, dlse=True, causal=True),
    "everything": dict(H=4, G=2, N=7, M=9, scale=0.625, softcap=1.5, bias="hm", alibi=True, sink=True, window=(4, 0), dlse=True),
}


def attention(x, case, visible):
    """out and lse by the formula."""
    r = case["H"] // case["G"]
    k, v = (x[name].repeat_interleave(r, dim=1) for name in ("k", "v"))
    z = case.get("scale", case["D"] ** -0.5) * x["q"] @ k.transpose(-1, -2)
    if "softcap" in case:
        z = case["softcap"] * torch.tanh(z / case["softcap"])
    if "bias" in x:
        z = z + x["bias"]
        visible = visible & (x["bias"] > -torch.inf)
    if "slopes" in x:
        z = z - x["slopes"][:, None, None] * case["distance"]
    z = z.masked_fill(~visible, -torch.inf)
    if "sink" in x:
        z = torch.cat([z, x["sink"][:, None, None].expand(*z.shape[:3], 1)], dim=-1)
    # Rows of nothing but -inf have no gradient, instead of NaN.
    empty = (z == -torch.inf).all(dim=-1, keepdim=True)
    z = z.masked_fill(empty, 0)
    lse = torch.logsumexp(z, dim=-1).masked_fill(empty[..., 0], -torch.inf)
    weights = torch.softmax(z, dim=-1).masked_fill(empty, 0)[..., : k.shape[2]]
    return weights @ v, lse


def check_against_library(x, case, visible, gradients):
    """Where the library's own attention can express the case it must agree."""
    if {"softcap", "alibi", "sink", "dlse", "excluded"} & case.keys() or not visible.any(dim=-1).all():
        return False
    names = [name for name in ("q", "k", "v", "bias") if name in x]
    mask = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -torch.inf) + x.get("bias", 0)
    out = torch.nn.functional.scaled_dot_product_attention(
        x["q"], x["k"], x["v"], attn_mask=mask.expand(case["B"], case["H"], -1, -1), scale=case.get("scale"), enable_gqa=True)
    theirs = torch.autograd.grad((x["dout"] * out).sum(), [x[name] for name in names])
    for name, mine, other in zip(names, gradients, theirs):
        mine, other = (t.masked_fill(x[name] == -torch.inf, 0) for t in (mine, other))
        assert torch.allclose(mine, other, rtol=1e-12, atol=1e-13), (case, name)
    return True


def make(name, changes):
    case = PLAIN | changes
    B, H, G, N, M, D, E = (case[axis] for axis in "BHGNMDE")
    x = {"q": draw(B, H, N, D), "k": draw(B, G, M, D), "v": draw(B, G, M, E), "dout": draw(B, H, N, E)}
    if "dlse" in case:
        x["dlse"] = draw(B, H, N)
    if "bias" in case:
        full = {"b": B, "h": H, "n": N, "m": M}
        x["bias"] = draw(*(extent if axis in case["bias"] else 1 for axis, extent in full.items()))
    if "excluded" in case:
        x["bias"][torch.rand(x["bias"].shape) < 0.25] = -torch.inf
        x["bias"][1, 0, 3] = -torch.inf
    if "alibi" in case:
        x["slopes"] = 2.0 ** -torch.arange(1, H + 1, dtype=torch.float64)
    if "sink" in case:
        x["sink"] = draw(H)

    q_offset, kv_offset = case.get("q_offset", M - N), case.get("kv_offset", 0)
    case["distance"] = (torch.arange(N)[:, None] + q_offset) - (torch.arange(M) + kv_offset)
    left, right = case.get("window", (-1, -1))
    visible = torch.ones(N, M, dtype=torch.bool)
    if left >= 0:
        visible &= case["distance"] <= left
    if right >= 0 or "causal" in case:
        visible &= case["distance"] >= -max(right, 0)

    inputs = [name for name in ("q", "k", "v", "bias", "slopes", "sink") if name in x]
    for key in inputs:
        x[key].requires_grad_()
    out, lse = attention(x, case, visible)
    objective = (x["dout"] * out).sum()
    if "dlse" in x:
        objective = objective + (x["dlse"] * lse.masked_fill(lse == -torch.inf, 0)).sum()
    gradients = torch.autograd.grad(objective, [x[key] for key in inputs])
    checked = check_against_library(x, case, visible, gradients)

    print("case", name)
    for number in ("scale", "softcap", "q_offset", "kv_offset"):
        if number in case:
            print("number", number, case[number])
    if "causal" in case:
        print("number causal 1")
    if "window" in case:
        print("number window_left", left)
        print("number window_right", right)
    for tensor, value in x.items():
        print_tensor(tensor, value)
    print_tensor("out", out)
    print_tensor("lse", lse)
    for tensor, value in zip(inputs, gradients):
        assert value.isfinite().all(), (name, tensor)
        print_tensor("d" + tensor, value)
    return checked


def main():
    print_versions()
    checked = [make(name, changes) for name, changes in CASES.items()]
    assert sum(checked) >= 10


main()
