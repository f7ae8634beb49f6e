"""Compiles headers, each alone: whoever includes one needs nothing else before it.

    check_alone.py <include folder> <precompiled header> <header>... -- <compiler> <flag>...

The precompiled header brings xsimd, and the standard headers that xsimd includes. It is for headers that reach xsimd
anyway, through heed/simd/arch.hpp: what they include before that stands in headers that do not reach it, and these are
compiled without.
"""

import pathlib
import re
import subprocess
import sys

ARCH = "heed/simd/arch.hpp"
INCLUDE = re.compile(r"^\s*#\s*include\s*<(heed/[^>]+)>", re.M)


def reaching_arch(root):
    """The headers that include ARCH, or include a header that does."""
    includes = {str(file.relative_to(root)): INCLUDE.findall(file.read_text()) for file in root.rglob("*.hpp")}
    found = {ARCH}
    while True:
        more = {name for name, targets in includes.items() if name not in found and not found.isdisjoint(targets)}
        if not more:
            return found
        found |= more


def main():
    split = sys.argv.index("--")
    root, precompiled, *files = sys.argv[1:split]
    root = pathlib.Path(root)
    with_xsimd = reaching_arch(root)
    failures = 0
    for file in files:
        name = str(pathlib.Path(file).relative_to(root))
        command, unit = sys.argv[split + 1 :], f"#include <{name}>\n"
        if name in with_xsimd:
            command += ["-include", precompiled]
            # The graph of includes knows no conditions; the preprocessor does.
            unit += "#if !defined(HEED_XSIMD)\n#error heed/simd/arch.hpp is not included\n#endif\n"
        if subprocess.run(command + ["-x", "c++", "-"], input=unit, text=True).returncode != 0:
            print(f"{name} does not compile alone")
            failures += 1
    print(f"{len(files) - failures} of {len(files)} headers compile alone")
    return failures != 0 or not files


if __name__ == "__main__":
    sys.exit(main())
