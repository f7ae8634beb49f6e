"""heed and its peers behind one interface.

A contestant is made for one case and offers run(), which computes once into memory it keeps, and output(), the result
as a torch tensor: out [B,H,N,D], or flat and one after the other dq, dk and dv of gradients, out and the state (that of
steps) of gated linear attention. Making one raises Unsupported, or whatever the peer itself raises, where it cannot.
Conversions to the layout that a peer prefers happen here, before anything is timed.
"""

import ctypes

import numpy
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention


class Unsupported(Exception):
    pass


def require(condition, reason):
    if not condition:
        raise Unsupported(reason)


def joined(tensors):
    return torch.cat([x.flatten() for x in tensors])


class Contestant:
    family = "softmax"
    library = ""
    entry = ""
    layout = "[B,H,N,D]"
    makes_tensors = False  # True: replaces the tensors it is given
    forms = ("forward", "step")

    @property
    def name(self):
        return f"{self.library} {self.entry}"


# ---- heed


class HeedLibrary:
    """The shared library made of heed_peers.cpp."""

    def __init__(self, path):
        self.code = ctypes.CDLL(str(path))
        self.code.heed_peers_peak.restype = ctypes.c_double
        self.code.heed_peers_message.restype = ctypes.c_char_p
        self.code.heed_peers_compiler.restype = ctypes.c_char_p

    def peak(self, threads, duration):
        return self.code.heed_peers_peak(threads, ctypes.c_double(duration))

    def compiler(self):
        return self.code.heed_peers_compiler().decode()

    def vector_bits(self):
        return self.code.heed_peers_vector_bits()


class Heed(Contestant):
    """A call of function with tensors and setting."""

    library = "heed"
    tensors = setting = ()

    def call(self, function, tensors):
        if function(*(ctypes.c_void_p(x.data_ptr() if x is not None else None) for x in tensors), *self.setting):
            raise RuntimeError(self.heed.heed_peers_message().decode())

    def run(self):
        self.call(self.function, self.tensors)


class HeedSoftmax(Heed):
    entry = "softmax"
    forms = ("forward", "backward", "step")

    def __init__(self, case, tensors, threads, heed):
        self.inputs = tensors.q, tensors.k, tensors.v
        self.out = torch.empty_like(tensors.q)
        self.heed = heed.code
        extents = [ctypes.c_longlong(n) for n in (case.B, case.H, case.G, case.N, case.M, case.D, case.D)]
        dtype = ["float32", "bfloat16", "float16"].index(case.dtype)
        self.setting = [*extents, int(case.causal), ctypes.c_longlong(case.window), dtype, threads]
        self.tensors = [*self.inputs, self.out]
        self.function = getattr(self.heed, f"heed_peers_{case.form}")
        if case.form == "backward":
            lse = torch.empty(case.B, case.H, case.N)
            self.call(self.heed.heed_peers_forward, [*self.tensors, lse])
            self.gradients = [torch.empty_like(x) for x in self.inputs]
            self.tensors += [lse, tensors.dout, *self.gradients]
        elif case.form == "forward":
            self.tensors += [None]

    def output(self):
        return self.out if self.function is not self.heed.heed_peers_backward else joined(self.gradients)


class HeedGated(Heed):
    family = "linear"
    entry = "gated_linear"
    layout = "[B,H,N,D], state [B,H,D,D]"
    forms = ("gated", "gated_step")

    def __init__(self, case, tensors, threads, heed):
        self.heed = heed.code
        self.function = getattr(self.heed, f"heed_peers_{case.form}")
        self.setting = [*(ctypes.c_longlong(n) for n in (case.B, case.H, case.G, case.N, case.D, case.D)), threads]
        self.results = [torch.empty_like(tensors.q)]
        if case.form == "gated_step":
            self.results += [tensors.state.clone()]
        self.tensors = [tensors.q, tensors.k, tensors.v, tensors.g, *self.results]

    def output(self):
        return joined(self.results)


class HeedSwin(Heed):
    family = "local"
    entry = "swin"
    forms = ("swin",)

    def __init__(self, case, tensors, threads, heed):
        self.heed = heed.code
        self.function = self.heed.heed_peers_swin
        self.setting = [*(ctypes.c_longlong(n) for n in (case.B, case.H, round(case.N**0.5), case.D, case.window)),
                        threads]
        self.out = torch.empty_like(tensors.q)
        self.tensors = [tensors.q, tensors.k, tensors.v, tensors.table, self.out]

    def output(self):
        return self.out


HEED = {kind.family: kind for kind in (HeedSoftmax, HeedGated, HeedSwin)}


# ---- ONNX Runtime


class OnnxRuntime(Contestant):
    """A model of one operator (or few), its inputs and outputs bound to memory once. model() gives its nodes, inputs,
    opset and constants."""

    library = "onnxruntime"
    dtypes = ("float32", "float16")
    grouped = True
    rows = False  # inputs and output [B,N,H*D] instead of [B,H,N,D]
    cached = ()  # inputs that are outputs too, under names that begin with new_

    def __init__(self, case, tensors, threads, _):
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        require(case.form in self.forms, f"no {case.form}")
        require(case.dtype in self.dtypes, f"no {case.dtype} kernel for CPU")
        require(self.grouped or case.G == case.H, "no grouped heads")
        self.case = case
        nodes, inputs, opset, constants = self.model(case, tensors)
        shape = (case.B, case.N, case.H * case.D) if self.rows else (case.B, case.H, case.N, case.D)
        element = numpy.dtype(case.dtype)
        types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int32": TensorProto.INT32,
                 "bool": TensorProto.BOOL}
        graph = helper.make_graph(
            nodes, "attention",
            [helper.make_tensor_value_info(name, types[x.dtype.name], x.shape) for name, x in inputs.items()],
            [helper.make_tensor_value_info("out", types[case.dtype], shape),
             *(helper.make_tensor_value_info(f"new_{name}", types[case.dtype], inputs[name].shape)
               for name in self.cached)],
            [numpy_helper.from_array(x, name) for name, x in constants.items()])
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=imports,
                                  ir_version=helper.find_min_ir_version_for(imports, ignore_unknown=True))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        # Its workers would otherwise go on spinning into the samples of others.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        self.binding = self.session.io_binding()
        self.inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in inputs.items()}
        for name, value in self.inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        self.out = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, element)
        self.binding.bind_ortvalue_output("out", self.out)
        for name in self.cached:
            self.binding.bind_ortvalue_output(f"new_{name}", self.inputs[name])

    def run(self):
        self.session.run_with_iobinding(self.binding)

    def output(self):
        out = torch.from_numpy(self.out.numpy())
        return out.unflatten(2, (self.case.H, self.case.D)).transpose(1, 2) if self.rows else out


def node(*arguments, **attributes):
    from onnx import helper

    return helper.make_node(*arguments, **attributes)


class OrtMultiHeadAttention(OnnxRuntime):
    entry = "MultiHeadAttention"
    layout = "[B,N,H*D]"
    dtypes = ("float32",)
    grouped = False
    rows = True

    def model(self, case, tensors):
        require(not case.window, "no window")
        op = node("MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft", num_heads=case.H,
                  unidirectional=int(case.causal))
        return [op], dict(zip("qkv", tensors.rows())), 21, {}


class OrtGroupQueryAttention(OnnxRuntime):
    entry = "GroupQueryAttention"
    layout = "[B,N,H*D]"
    forms = ("forward",)
    rows = True

    def model(self, case, tensors):
        inputs = dict(zip("qkv", tensors.rows()))
        inputs["last"] = numpy.full(case.B, case.N - 1, numpy.int32)
        inputs["total"] = numpy.array([case.N], numpy.int32)
        op = node("GroupQueryAttention", ["q", "k", "v", "", "", "last", "total"], ["out"], domain="com.microsoft",
                  num_heads=case.H, kv_num_heads=case.G, causal=int(case.causal),
                  local_window_size=case.window if case.window else -1)
        return [op], inputs, 21, {}


class OrtGroupQueryAttentionCached(OnnxRuntime):
    """The last key and value are new, the others in a cache, which is also the output."""

    entry = "GroupQueryAttention, cached"
    layout = "[B,N,H*D], cache [B,G,M,D]"
    forms = ("step",)
    rows = True
    cached = ("key", "value")

    def model(self, case, tensors):
        q, k, v = (x[:, -1:].copy() for x in tensors.rows())
        _, key, value = tensors.heads_first()
        inputs = {"q": q, "k": k, "v": v, "key": key.copy(), "value": value.copy(),
                  "last": numpy.full(case.B, case.M - 1, numpy.int32), "total": numpy.array([case.M], numpy.int32)}
        op = node("GroupQueryAttention", ["q", "k", "v", "key", "value", "last", "total"],
                  ["out", "new_key", "new_value"], domain="com.microsoft", num_heads=case.H, kv_num_heads=case.G)
        return [op], inputs, 21, {}


class OrtStandardAttention(OnnxRuntime):
    """The Attention operator of the ONNX standard."""

    entry = "Attention (opset 23)"

    def model(self, case, tensors):
        require(not case.window, "no window before opset 25")
        op = node("Attention", ["q", "k", "v"], ["out"], is_causal=int(case.causal))
        return [op], dict(zip("qkv", tensors.heads_first())), 23, {}


class OrtStandardAttentionWindow(OnnxRuntime):
    entry = "Attention (opset 25)"

    def model(self, case, tensors):
        require(case.window, "for windows only")
        op = node("Attention", ["q", "k", "v"], ["out"], is_causal=1, left_window_size=case.window - 1)
        return [op], dict(zip("qkv", tensors.heads_first())), 25, {}


class OrtStandardAttentionMask(OnnxRuntime):
    entry = "Attention (opset 23), bool mask"

    def model(self, case, tensors):
        require(case.window, "for windows only")
        inputs = dict(zip("qkv", tensors.heads_first()))
        inputs["mask"] = visible(case).numpy()
        return [node("Attention", ["q", "k", "v", "mask"], ["out"])], inputs, 23, {}


class OrtContribAttention(OnnxRuntime):
    """com.microsoft.Attention makes q, k and v itself, from one input and one weight matrix. The input has few channels
    here, so that the projection is a small share of the time; `tensors` becomes what it computes."""

    entry = "Attention (contrib)"
    layout = "[B,N,channels]"
    forms = ("forward",)
    makes_tensors = True
    dtypes = ("float32",)
    grouped = False
    rows = True
    channels = 4

    def model(self, case, tensors):
        require(not case.window, "no window")
        data = torch.randn(case.B, case.N, self.channels) / 2
        weights = torch.randn(self.channels, 3 * case.H * case.D) / self.channels**0.5
        projected = (data.double() @ weights.double()).float().unflatten(2, (3, case.H, case.D))
        tensors.set(*projected.permute(2, 0, 3, 1, 4))
        op = node("Attention", ["input", "weights", "bias"], ["out"], domain="com.microsoft", num_heads=case.H,
                  unidirectional=int(case.causal))
        constants = {"weights": weights.numpy(), "bias": numpy.zeros(3 * case.H * case.D, numpy.float32)}
        return [op], {"input": data.numpy()}, 21, constants


class OrtMatMul(OnnxRuntime):
    entry = "MatMul, Softmax, MatMul"
    layout = "[B,H,N,D], k [B,H,D,N]"
    dtypes = ("float32",)
    grouped = False

    def model(self, case, tensors):
        q, k, v = tensors.heads_first()
        inputs = {"q": q, "k": numpy.ascontiguousarray(k.swapaxes(2, 3)), "v": v}
        nodes = [node("MatMul", ["q", "k"], ["raw"]), node("Mul", ["raw", "scale"], ["scores"])]
        if case.causal:
            inputs["mask"] = additive(visible(case), tensors.dtype).numpy()
            nodes += [node("Add", ["scores", "mask"], ["masked"])]
        nodes += [node("Softmax", ["masked" if case.causal else "scores"], ["weights"], axis=-1),
                  node("MatMul", ["weights", "v"], ["out"])]
        return nodes, inputs, 21, {"scale": numpy.array(case.D**-0.5, q.dtype)}


class OrtLinearAttention(OnnxRuntime):
    family = "linear"
    entry = "LinearAttention"
    layout = "[B,N,H*D], state [B,H,D,D]"
    dtypes = ("float32",)
    forms = ("gated", "gated_step")
    rows = True
    domain = "com.microsoft"
    opset = 21

    def model(self, case, tensors):
        inputs = dict(zip("qkvg", tensors.rows()))
        if case.form == "gated_step":
            inputs["state"] = tensors.state.clone().numpy()
            self.cached = ("state",)
        op = node("LinearAttention", ["q", "k", "v", *(self.cached or [""]), "g"], ["out", "new_state"],
                  domain=self.domain, q_num_heads=case.H, kv_num_heads=case.G, update_rule="gated")
        return [op], inputs, self.opset, {}

    def output(self):
        return joined([super().output(), *(torch.from_numpy(self.inputs[name].numpy()) for name in self.cached)])


class OrtStandardLinearAttention(OrtLinearAttention):
    entry = "LinearAttention (opset 27)"
    domain = ""
    opset = 27


# ---- PyTorch


def visible(case):
    """bool [N,N]: which keys a query sees."""
    i = torch.arange(case.N)
    distance = i[:, None] - i[None, :]
    seen = distance >= 0
    return seen & (distance < case.window) if case.window else seen


def additive(seen, dtype):
    """A mask of truth values as summands of the scores: 0 or -inf."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


class Torch(Contestant):
    library = "torch"
    out = None

    def __init__(self, case, tensors, threads, _):
        require(case.form in self.forms, f"no {case.form}")
        self.case, self.tensors = case, tensors
        self.q, self.k, self.v = tensors.q, tensors.k, tensors.v
        self.mask = additive(visible(case), tensors.dtype) if case.window else None
        self.prepare()
        if case.form == "backward":
            # The graph is made once and walked back in every run.
            self.q, self.k, self.v = (x.detach().requires_grad_() for x in (self.q, self.k, self.v))
            with torch.enable_grad():
                self.result = self.compute()

    def prepare(self):
        pass

    def run(self):
        if self.case.form == "backward":
            self.out = torch.autograd.grad(self.result, (self.q, self.k, self.v), self.tensors.dout, retain_graph=True)
        else:
            self.out = self.compute()

    def output(self):
        return joined(self.out) if self.case.form == "backward" else self.out


class TorchScaledDotProduct(Torch):
    backend = None
    forms = ("forward", "backward", "step")

    def compute(self):
        with sdpa_kernel(self.backend):
            return F.scaled_dot_product_attention(
                self.q, self.k, self.v, attn_mask=self.mask, is_causal=self.case.causal and self.mask is None,
                enable_gqa=self.case.G != self.case.H)


class TorchFlash(TorchScaledDotProduct):
    entry = "scaled_dot_product_attention, flash"
    backend = SDPBackend.FLASH_ATTENTION


class TorchMath(TorchScaledDotProduct):
    entry = "scaled_dot_product_attention, math"
    backend = SDPBackend.MATH


class TorchFlashDirect(Torch):
    entry = "_scaled_dot_product_flash_attention_for_cpu"
    layout = "[B,N,H,D] as [B,H,N,D]"

    def prepare(self):
        self.q, self.k, self.v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (self.q, self.k, self.v))

    def compute(self):
        return torch._scaled_dot_product_flash_attention_for_cpu(
            self.q, self.k, self.v, 0.0, self.case.causal and self.mask is None, attn_mask=self.mask)[0]


class TorchFlex(Torch):
    entry = "flex_attention, compiled"
    forms = ("forward",)

    def prepare(self):
        torch._dynamo.reset()
        window = self.case.window

        def causal(b, h, i, j):
            return i >= j

        def windowed(b, h, i, j):
            return (i >= j) & (i - j < window)

        N = self.case.N
        rule = windowed if window else causal
        self.blocks = create_block_mask(rule, None, None, N, N, device="cpu") if self.case.causal else None
        self.flex = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def compute(self):
        return self.flex(self.q, self.k, self.v, block_mask=self.blocks, enable_gqa=self.case.G != self.case.H)


class TorchMatMul(Torch):
    entry = "matmul, softmax, matmul"
    forms = ("forward", "backward", "step")

    def prepare(self):
        self.hidden = ~visible(self.case) if self.case.causal else None

    def compute(self):
        case = self.case
        q = self.q.unflatten(1, (case.G, case.H // case.G)) * case.D**-0.5
        scores = q @ self.k.unsqueeze(2).transpose(-1, -2)
        if self.hidden is not None:
            scores = scores.masked_fill(self.hidden, float("-inf"))
        return (torch.softmax(scores, -1) @ self.v.unsqueeze(2)).flatten(1, 2)


def gated_chunks(q, k, v, g, size=64):
    """Gated linear attention in matrix products over chunks of `size` tokens, all at once but for the states between
    them. A chunk's gates must not multiply up to less than a float can divide by."""
    q, k, v, g = (x.unflatten(2, (-1, size)) for x in (q, k, v, g))
    decay = g.cumsum(3)
    total = decay[..., -1:, :]
    q = q * decay.exp() * q.shape[-1]**-0.5
    inside = (q @ (k * (-decay).exp()).transpose(-1, -2)).tril() @ v
    writes = (k * (total - decay).exp()).transpose(-1, -2) @ v
    kept = total.exp().transpose(-1, -2)
    states = [torch.zeros_like(writes[:, :, 0])]
    for chunk in range(writes.shape[2] - 1):
        states.append(states[-1] * kept[:, :, chunk] + writes[:, :, chunk])
    return (inside + q @ torch.stack(states, 2)).flatten(2, 3)


def gated_token(q, k, v, g, state):
    """The next token, which the state takes in place."""
    state.mul_(g.exp().transpose(-1, -2)).addcmul_(k.transpose(-1, -2), v)
    return (q * q.shape[-1]**-0.5) @ state


class TorchGated(Contestant):
    family = "linear"
    library = "torch"
    entry = "matmul of chunks or tokens"
    layout = "[B,H,N,D], state [B,H,D,D]"
    forms = ("gated", "gated_step")
    compiled = False

    def __init__(self, case, tensors, threads, _):
        require(case.form in self.forms, f"no {case.form}")
        require(case.G == case.H, "no grouped heads")
        self.inputs = [tensors.q, tensors.k, tensors.v, tensors.g]
        self.states = [] if tensors.state is None else [tensors.state.clone()]
        self.function = gated_token if self.states else gated_chunks
        if self.compiled:
            torch._dynamo.reset()
            self.function = torch.compile(self.function, dynamic=False, fullgraph=True)

    def run(self):
        self.out = self.function(*self.inputs, *self.states)

    def output(self):
        return joined([self.out, *self.states])


class TorchGatedCompiled(TorchGated):
    entry = "matmul of chunks or tokens, compiled"
    compiled = True


class TorchWindows(Torch):
    """Windows as a batch, there and back, as models make them; the table becomes a bias before anything is timed."""

    family = "local"
    forms = ("swin",)

    def __init__(self, case, tensors, threads, _):
        require(case.form in self.forms, f"no {case.form}")
        self.case, self.side = case, round(case.N**0.5)
        self.q, self.k, self.v = tensors.q, tensors.k, tensors.v
        place = torch.arange(case.window**2)
        y, x = place // case.window, place % case.window
        row = (y[:, None] - y + case.window - 1) * (2 * case.window - 1) + x[:, None] - x + case.window - 1
        self.bias = tensors.table[row].permute(2, 0, 1).contiguous()

    def windows(self, x):
        count, w = self.side // self.case.window, self.case.window
        return x.view(self.case.B, self.case.H, count, w, count, w, -1).permute(0, 2, 4, 1, 3, 5, 6).reshape(
            -1, self.case.H, w * w, self.case.D)

    def compute(self):
        count, w = self.side // self.case.window, self.case.window
        out = self.attend(*(self.windows(x) for x in (self.q, self.k, self.v)))
        return out.view(self.case.B, count, count, self.case.H, w, w, -1).permute(0, 3, 1, 4, 2, 5, 6).reshape(
            self.q.shape)

    def run(self):
        self.out = self.compute()

    def output(self):
        return self.out


class TorchWindowsMatMul(TorchWindows):
    entry = "windows: matmul, softmax, matmul"

    def attend(self, q, k, v):
        return torch.softmax((q * self.case.D**-0.5) @ k.transpose(-1, -2) + self.bias, -1) @ v


class TorchWindowsScaledDotProduct(TorchWindows):
    entry = "windows: scaled_dot_product_attention"

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias.expand(q.shape[0], -1, -1, -1))


# ---- ggml


class Ggml(Contestant):
    """A graph of one operator that takes gates themselves, not their logs. Its state is a part of the result, from
    where a step copies it to where the next one looks for it."""

    family = "linear"
    library = "ggml"
    entry = "ggml_gated_linear_attn"
    layout = "[B*N,H,D], state [B,H,D,D]"
    forms = ("gated", "gated_step")

    def __init__(self, case, tensors, threads, _):
        import ggml
        import ggml.utils

        require(case.form in self.forms, f"no {case.form}")
        require(case.G == case.H, "no grouped heads")
        self.case, self.threads, self.ggml = case, threads, ggml
        B, H, N, D = case.B, case.H, case.N, case.D
        state = torch.zeros(B, H, D, D) if tensors.state is None else tensors.state
        q, k, v, g = (x.reshape(B * N, H, D) for x in tensors.rows())
        values = 6 * q.size + 3 * state.numel()
        self.context = ggml.ggml_init(ggml.ggml_init_params(mem_size=4 * values + (1 << 24), mem_buffer=None))
        k, v, q, g, self.state = (ggml.utils.from_numpy(x, self.context)
                                  for x in (k, v, q, numpy.exp(g), state.reshape(B, -1).numpy()))
        result = ggml.ggml_gated_linear_attn(self.context, k, v, q, g, self.state, D**-0.5)
        self.graph = ggml.ggml_new_graph(self.context)
        ggml.ggml_build_forward_expand(self.graph, result)
        if case.form == "gated_step":
            made = ggml.ggml_view_1d(self.context, result, state.numel(), 4 * B * N * H * D)
            ggml.ggml_build_forward_expand(self.graph, ggml.ggml_cpy(self.context, made, self.state))
        self.result = ggml.utils.to_numpy(result).reshape(-1)

    def run(self):
        self.ggml.ggml_graph_compute_with_ctx(self.context, self.graph, self.threads)

    def output(self):
        B, H, N, D = self.case.B, self.case.H, self.case.N, self.case.D
        out, state = torch.from_numpy(self.result).split([B * N * H * D, B * H * D * D])
        out = out.view(B, N, H, D).transpose(1, 2)
        return joined([out, state] if self.case.form == "gated_step" else [out])


PEERS = [OrtMultiHeadAttention, OrtGroupQueryAttention, OrtGroupQueryAttentionCached, OrtStandardAttention,
         OrtStandardAttentionWindow, OrtStandardAttentionMask, OrtContribAttention, OrtMatMul, TorchFlash,
         TorchFlashDirect, TorchMath, TorchFlex, TorchMatMul,
         OrtLinearAttention, OrtStandardLinearAttention, TorchGated, TorchGatedCompiled, Ggml, TorchWindowsMatMul,
         TorchWindowsScaledDotProduct]
