"""The shapes that are compared, and the tensors of one shape."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One call: q [B,H,N,D] over k, v [B,G,M,D]. mask: full, causal, or window (causal, `window` keys a query).
    form: forward, backward, or step (few queries, many keys). Gated linear attention, whose mask is causal, has gated
    and gated_step (N tokens after a state). Swin: N tokens are a square in windows of `window` x `window` tokens, with
    a table of relative positions."""

    dtype: str
    mask: str
    B: int
    H: int
    G: int
    N: int
    D: int
    window: int = 0
    form: str = "forward"
    keys: int = 0  # 0: as many as queries

    @property
    def name(self):
        mask = f"{self.mask}{self.window or ''}"
        heads = str(self.H) if self.G == self.H else f"{self.H}:{self.G}"
        return f"{self.form}/{self.dtype}/{mask}/{self.B}/{heads}/{self.M if self.form == 'step' else self.N}/{self.D}"

    @property
    def M(self):
        return self.keys or self.N

    @property
    def family(self):
        if self.form == "swin":
            return "local"
        return "linear" if self.form.startswith("gated") else "softmax"

    @property
    def causal(self):
        return self.mask != "full"

    @property
    def flops(self):
        """What the mathematics needs: 2 (D + E) for each visible pair, and 5 / 2 of that for gradients; to write a
        token to a state of D x E numbers and to read it 4 D E."""
        if self.family == "linear":
            return 4 * self.D * self.D * self.N * self.H * self.B
        if self.form == "swin":
            return 4 * self.D * self.window**2 * self.N * self.H * self.B
        pairs = self.N * self.M
        if self.causal:
            keys = self.window or self.N
            pairs = keys * self.N - keys * (keys - 1) // 2
        return (10 if self.form == "backward" else 4) * self.D * pairs * self.H * self.B


def all_cases():
    square = [(8, 512, 64), (8, 2048, 64), (8, 4096, 64), (8, 2048, 128), (4, 8192, 128), (8, 2048, 80)]
    cases = [Case("float32", mask, 1, H, H, N, D) for mask in ("full", "causal") for H, N, D in square]
    cases += [Case("float32", "window", 1, 8, 8, N, D, 256) for N, D in ((4096, 64), (2048, 128))]
    cases += [Case("float32", "causal", 1, 32, 8, 1024, 128)]
    half = [(8, 2048, 64), (8, 4096, 64), (8, 2048, 128)]
    cases += [Case("bfloat16", mask, 1, H, H, N, D) for mask in ("full", "causal") for H, N, D in half]
    cases += [Case("float16", mask, 1, 8, 8, 2048, 64) for mask in ("full", "causal")]
    cases += [Case("float32", mask, 1, 8, 8, 2048, D, form="backward") for mask in ("full", "causal") for D in (64, 128)]
    cases += [Case(dtype, "full", 1, 32, 8, 1, 128, form="step", keys=M)
              for dtype in ("float32", "bfloat16", "float16") for M in (16384, 65536)]
    cases += [Case("float32", "causal", 1, 8, 8, 4096, D, form="gated") for D in (64, 128)]
    cases += [Case("float32", "causal", 1, 32, 32, 1, 128, form="gated_step")]
    cases += [Case("float32", "window", B, H, H, side * side, 32, window, form="swin")
              for B, H, side, window in ((32, 3, 56, 7), (8, 6, 48, 12))]
    return cases


class Tensors:
    """Random q, k, v of a case as contiguous torch tensors [B,heads,tokens,D], and in the layouts that peers ask for.
    Of gated linear attention also log gates g [B,G,M,D], as in the paper, and the state before a step [B,G,D,D]."""

    def __init__(self, case):
        import torch

        self.dtype = getattr(torch, case.dtype)
        torch.manual_seed(1)
        q, k, v = (torch.randn(case.B, heads, tokens, case.D)
                   for heads, tokens in ((case.H, case.N), (case.G, case.M), (case.G, case.M)))
        self.set(q, k, v)
        self.dout = torch.randn(case.B, case.H, case.N, case.D).to(self.dtype) if case.form == "backward" else None
        self.g = self.state = None
        self.table = torch.randn((2 * case.window - 1)**2, case.H) if case.form == "swin" else None
        if case.family == "linear":
            self.g = torch.nn.functional.logsigmoid(torch.randn(case.B, case.G, case.M, case.D)) / 16
            self.state = torch.randn(case.B, case.G, case.D, case.D) if case.form == "gated_step" else None

    def set(self, q, k, v):
        self.q, self.k, self.v = (x.to(self.dtype).contiguous() for x in (q, k, v))

    def heads_first(self):
        """numpy [B,heads,N,D], the same memory."""
        return [x.numpy() for x in (self.q, self.k, self.v)]

    def rows(self):
        """numpy [B,N,heads*D], copied: q, k, v and, if there are gates, g."""
        tensors = [x for x in (self.q, self.k, self.v, self.g) if x is not None]
        return [x.transpose(1, 2).flatten(2).contiguous().numpy() for x in tensors]
