"""The shapes that are compared, and the tensors of one shape."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One call: q [B,H,N,D] over k, v [B,G,N,D]. mask: none, causal, or window (causal, `window` keys a query)."""

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
        mask = f"window{self.window}" if self.window else self.mask
        heads = str(self.H) if self.G == self.H else f"{self.H}:{self.G}"
        return f"{self.dtype}/{mask}/{self.B}/{heads}/{self.N}/{self.D}"

    @property
    def causal(self):
        return self.mask != "none"

    @property
    def flops(self):
        """What the mathematics needs: 2 (D + E) a visible pair, causal counted as half of all pairs."""
        pairs = self.N * self.N
        if self.window:
            pairs = self.window * self.N - self.window * (self.window - 1) // 2
        elif self.causal:
            pairs = pairs / 2
        return 4 * self.D * pairs * self.H * self.B


def all_cases():
    square = [(8, 512, 64), (8, 2048, 64), (8, 4096, 64), (8, 2048, 128), (4, 8192, 128), (8, 2048, 80)]
    cases = [Case("f32", mask, 1, H, H, N, D) for mask in ("none", "causal") for H, N, D in square]
    cases += [Case("f32", "window", 1, 8, 8, N, D, 256) for N, D in ((4096, 64), (2048, 128))]
    cases += [Case("f32", "causal", 1, 32, 8, 1024, 128)]
    half = [(8, 2048, 64), (8, 4096, 64), (8, 2048, 128)]
    cases += [Case("bf16", mask, 1, H, H, N, D) for mask in ("none", "causal") for H, N, D in half]
    cases += [Case("f16", mask, 1, 8, 8, 2048, 64) for mask in ("none", "causal")]
    return cases


class Tensors:
    """Random q, k, v of a case as contiguous torch tensors [B,heads,N,D], and in the layouts that peers ask for."""

    def __init__(self, case):
        import torch

        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[case.dtype]
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
