"""The shapes that are compared, and the tensors of one shape."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One call: q [B,H,N,D] over k, v [B,G,N,D]. mask: full, causal, or window (causal, `window` keys a query)."""

    dtype: str
    mask: str
    B: int
    H: int
    G: int
    N: int
    D: int
    window: int = 0

    @property
    def name(self):
        mask = f"{self.mask}{self.window or ''}"
        heads = str(self.H) if self.G == self.H else f"{self.H}:{self.G}"
        return f"{self.dtype}/{mask}/{self.B}/{heads}/{self.N}/{self.D}"

    @property
    def causal(self):
        return self.mask != "full"

    @property
    def flops(self):
        """What the mathematics needs: 2 (D + E) for each visible pair."""
        pairs = self.N * self.N
        if self.causal:
            keys = self.window or self.N
            pairs = keys * self.N - keys * (keys - 1) // 2
        return 4 * self.D * pairs * self.H * self.B


def all_cases():
    square = [(8, 512, 64), (8, 2048, 64), (8, 4096, 64), (8, 2048, 128), (4, 8192, 128), (8, 2048, 80)]
    cases = [Case("float32", mask, 1, H, H, N, D) for mask in ("full", "causal") for H, N, D in square]
    cases += [Case("float32", "window", 1, 8, 8, N, D, 256) for N, D in ((4096, 64), (2048, 128))]
    cases += [Case("float32", "causal", 1, 32, 8, 1024, 128)]
    half = [(8, 2048, 64), (8, 4096, 64), (8, 2048, 128)]
    cases += [Case("bfloat16", mask, 1, H, H, N, D) for mask in ("full", "causal") for H, N, D in half]
    cases += [Case("float16", mask, 1, 8, 8, 2048, 64) for mask in ("full", "causal")]
    return cases


class Tensors:
    """Random q, k, v of a case as contiguous torch tensors [B,heads,N,D], and in the layouts that peers ask for."""

    def __init__(self, case):
        import torch

        self.dtype = getattr(torch, case.dtype)
        torch.manual_seed(1)
        q, k, v = (torch.randn(case.B, heads, case.N, case.D) for heads in (case.H, case.G, case.G))
        self.set(q, k, v)

    def set(self, q, k, v):
        self.q, self.k, self.v = (x.to(self.dtype).contiguous() for x in (q, k, v))

    def heads_first(self):
        """numpy [B,heads,N,D], the same memory."""
        return [x.numpy() for x in (self.q, self.k, self.v)]

    def rows(self):
        """numpy [B,N,heads*D], copied."""
        return [x.transpose(1, 2).flatten(2).contiguous().numpy() for x in (self.q, self.k, self.v)]
