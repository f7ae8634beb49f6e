"""What the scripts that write golden files share.

After a comment a file has cases of lines `case <name>`, `number <name> <value>` and `tensor <name> <extents>`, the last
followed by a line of its elements. Inputs are multiples of 1/32 below 4: 16-bit floats hold them exactly.
"""
import platform

import torch


def draw(*extents):
    return (torch.randn(*extents, dtype=torch.float64) * 32).round().clamp(-127, 127) / 32


def print_versions(*others):
    versions = [f"torch {torch.__version__}", *others, f"Python {platform.python_version()}", platform.machine()]
    print("#", ", ".join(versions))


def written(value):
    return repr(int(value)) if value == int(value) else repr(value)


def print_tensor(name, t):
    print("tensor", name, *t.shape)
    print(*("-inf" if x == -torch.inf else written(x) for x in t.detach().flatten().tolist()))
