"""Checks the includes of heed's headers: who may include whom, and what nobody may.

    check_includes.py <source folder>    one line per offence, exit code 1 if there is any
    check_includes.py --self-test        every rule must find the offence made up for it
"""

import pathlib
import re
import sys
import tempfile

# A layer may include itself and what is listed. Top-level headers (heed/softmax.hpp, heed/heed.hpp) are `front`.
ALLOWED = {
    "base": set(),
    "core": {"base"},
    "mod": {"base", "core"},
    "simd": {"base", "core"},
    "kernel": {"base", "core", "simd", "mod"},
    "ops": {"base", "core", "simd", "mod", "kernel"},
    "front": {"base", "core", "simd", "mod", "kernel", "ops"},
    "interop": {"base", "core"},
    "layers": {"base", "core", "mod", "kernel", "ops", "front", "interop"},
    "reference": {"base", "core", "mod"},
}
HEAVY = {"iostream", "sstream", "fstream", "regex", "ranges", "format"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def layer_of(path):
    """path: relative to include/, such as heed/core/view.hpp"""
    parts = path.split("/")
    if len(parts) == 2:
        return "base" if parts[1] in ("config.hpp", "version.hpp") else "front"
    return parts[1]


def strip_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def check_header(root, file, layer):
    """Yields the offences of one file."""
    text = file.read_text()
    code = strip_comments(text)
    composite = re.search(r"^///.*\bcomposite\b", text, re.M | re.I)
    if file.suffix == ".hpp" and "#pragma once" not in code:
        yield "has no #pragma once"
    for bracket, name in INCLUDE.findall(code):
        if name.startswith("heed/"):
            target = layer_of(name)
            if not (root / "include" / name).is_file():
                yield f"includes {name}, which does not exist"
            if target != layer and target not in ALLOWED[layer]:
                yield f"is in {layer}/ and includes {name} of {target}/"
            if layer == target == "ops" and not composite:
                yield f"includes another operator, {name}, and does not call itself a composite"
            if bracket == '"':
                yield f'includes "{name}" in quotes'
        elif layer == "reference":
            continue
        elif name.startswith("xsimd/") and layer != "simd":
            yield f"includes {name} outside simd/"
        elif name.split("/")[0] in ("Eigen", "eigen3", "unsupported") and layer not in ("interop", "layers"):
            yield f"includes {name} outside interop/ and layers/"
        elif name in HEAVY:
            yield f"includes <{name}>, which costs every user too much compile time"
        elif name == "vector" and layer not in ("interop", "layers"):
            yield "includes <vector>: its members would be shared between instruction sets"
        elif bracket == '"':
            yield f'includes "{name}" in quotes'
    if layer not in ("simd", "reference") and re.search(r"\bxsimd::", code):
        yield "names xsimd:: outside simd/"


def reachable(root, name, seen):
    file = root / "include" / name
    if name in seen or not file.is_file():
        return seen
    seen.add(name)
    for _, included in INCLUDE.findall(strip_comments(file.read_text())):
        reachable(root, included, seen)
    return seen


def check(root):
    offences, files = [], 0
    for file in sorted((root / "include" / "heed").rglob("*.hpp")):
        name = file.relative_to(root / "include").as_posix()
        files += 1
        layer = layer_of(name)
        if layer not in ALLOWED:
            offences.append(f"include/{name}: {layer}/ is no layer")
            continue
        offences += [f"include/{name}: {text}" for text in check_header(root, file, layer)]
    for file in sorted((root / "tests" / "reference").rglob("*.hpp")):
        files += 1
        offences += [f"{file.relative_to(root)}: {text}" for text in check_header(root, file, "reference")]

    umbrella = "heed/heed.hpp"
    if (root / "include" / umbrella).is_file():
        everything = reachable(root, umbrella, set())
        for file in sorted((root / "include" / "heed" / "ops").rglob("*.hpp")):
            name = file.relative_to(root / "include").as_posix()
            if name not in everything:
                offences.append(f"include/{umbrella}: does not reach {name}")
    return offences, files


def self_test():
    cases = [
        ("heed/core/a.hpp", "#include <heed/simd/b.hpp>", "of simd/"),
        ("heed/mod/a.hpp", "#include <heed/kernel/b.hpp>", "of kernel/"),
        ("heed/simd/a.hpp", "#include <heed/mod/b.hpp>", "of mod/"),
        ("heed/kernel/a.hpp", "#include <heed/ops/x/b.hpp>", "of ops/"),
        ("heed/kernel/a.hpp", "#include <xsimd/xsimd.hpp>", "outside simd/"),
        ("heed/ops/x/a.hpp", "int f() { return xsimd::batch<float>::size; }", "xsimd:: outside"),
        ("heed/ops/x/a.hpp", "#include <Eigen/Core>", "outside interop/"),
        ("heed/ops/x/a.hpp", "#include <heed/ops/y/b.hpp>", "another operator"),
        ("heed/ops/x/a.hpp", "#include <heed/ops/x/b.hpp>", "another operator"),
        ("heed/ops/x/a.hpp", "#include <iostream>", "compile time"),
        ("heed/ops/x/a.hpp", "#include <vector>", "shared between"),
        ("heed/ops/x/a.hpp", "#include <heed/core/none.hpp>", "does not exist"),
        ("heed/ops/x/a.hpp", '#include "heed/core/b.hpp"', "in quotes"),
        ("heed/tools/a.hpp", "", "is no layer"),
        ("heed/heed.hpp", "", "does not reach"),
        ("heed/core/a.hpp", "// #include <iostream>", None),
        ("heed/ops/x/a.hpp", "/// A composite of y.\n#include <heed/ops/y/b.hpp>", None),
        ("heed/interop/a.hpp", "#include <Eigen/Core>\n#include <vector>", None),
        ("heed/layers/a.hpp", "#include <heed/ops/y/b.hpp>\n#include <Eigen/Core>", None),
    ]
    wrong = []
    for name, code, expected in cases:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for path in ("heed/core/b.hpp", "heed/simd/b.hpp", "heed/kernel/b.hpp", "heed/mod/b.hpp",
                         "heed/ops/x/b.hpp", "heed/ops/y/b.hpp", name):
                file = root / "include" / path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("#pragma once\n" + (code if path == name else ""))
            offences, _ = check(root)
            found = any(expected in text for text in offences) if expected else not offences
            if not found:
                wrong.append(f"{name} with {code!r}: expected {expected!r}, got {offences}")
    return wrong, len(cases)


def main():
    if sys.argv[1:] == ["--self-test"]:
        offences, count = self_test()
        unit = "made-up cases"
    else:
        offences, count = check(pathlib.Path(sys.argv[1]))
        unit = "headers"
        if count == 0:
            offences = [f"no headers under {sys.argv[1]}"]
    print("\n".join(offences) if offences else f"{count} {unit}, no offence")
    return 1 if offences else 0


if __name__ == "__main__":
    sys.exit(main())
