"""Compiles the C++ blocks of a document, so that it cannot say what does not compile.

    check_blocks.py <document.md> <context.hpp> -- <compiler> <flag>...

Every block that opens with ```cpp counts. What it needs beside its own #include lines and definitions, such as the
tensors it is about, is declared in the context. A block with a brace that closes in the first column holds declarations
and is compiled in a namespace of its own (a program, with a main(), in none), any other in a function of its own. There,
a line that begins with [ is a mod and becomes as_mod(<line>); as_mod is of the context too.
"""

import pathlib
import subprocess
import sys


def blocks(text):
    """Yields the number of the first line, and the lines, of every C++ block."""
    first, lines = None, []
    for number, line in enumerate(text.splitlines(), 1):
        if first is None:
            if line == "```cpp":
                first, lines = number + 1, []
        elif line == "```":
            yield first, lines
            first = None
        else:
            lines.append(line)
    assert first is None, f"the block at line {first} does not end"


def opening_of(lines, number):
    if any(line.startswith("int main(") for line in lines):
        return ""
    if any(line.startswith("}") for line in lines):
        return f"namespace block_{number} {{"
    return f"void block_{number}() {{"


def unit_of(document, context):
    includes, bodies = [], []
    for first, lines in blocks(document.read_text()):
        opening = opening_of(lines, first)
        bodies += [opening, f'#line {first} "{document}"']
        for line in lines:
            if line.startswith("#include"):
                includes.append(line)
                line = ""
            elif line.startswith("[") and opening.startswith("void"):
                line = f"as_mod({line});"
            bodies.append(line)
        bodies.append("}" if opening else "")
    return "\n".join(includes + [f'#include "{context}"'] + bodies) + "\n" if bodies else ""


def main():
    document, context, separator, *compiler = sys.argv[1:]
    assert separator == "--"
    unit = unit_of(pathlib.Path(document), context)
    if not unit:
        print(f"{document}: no C++ block")
        return 1
    return subprocess.run(compiler + ["-x", "c++", "-"], input=unit, text=True).returncode


if __name__ == "__main__":
    sys.exit(main())
