#!/usr/bin/env python3
"""Writes unicode_table.hpp: what the tokenizer of BERT uncased does to each code point.

The table is read off the reference normalizer itself, for its categories follow an older Unicode than Python's, and the
model was trained on what the normalizer does. Needs `pip install tokenizers`.

    python3 make_unicode_table.py > unicode_table.hpp
"""
import itertools

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

WIDTH = 119
PAGE = 8  # code points; pages without any folding are left out
HANGUL = range(0xAC00, 0xD7A4)  # decomposes by rule
RIGHT_TO_LEFT = [range(0x0590, 0x0900), range(0xFB1D, 0xFE00), range(0xFE70, 0xFF00), range(0x10800, 0x11000),
                 range(0x1E800, 0x1F000)]


def code_points():
    return itertools.chain(range(0xD800), range(0xE000, 0x110000))


def ranges(points):
    found = []
    for point in points:
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


def print_items(items):
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            print(line)
            line = "   "
        line += f" {item},"
    print(line)


def print_ranges(name, points):
    print(f"inline constexpr code_range {name}[] = {{")
    print_items(f"{{0x{first:x}, 0x{last:x}}}" for first, last in ranges(points))
    print("};\n")


def literal(text):
    """One source spelling per letter. Right-to-left letters are escaped: editors would show the line in another order."""
    return [escape(c) if any(ord(c) in r for r in RIGHT_TO_LEFT) else c for c in text]


def escape(c):
    return f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"


def print_page(first, letters):
    opening = f'    {{0x{first:x}, U"'
    lines = [opening]
    for spelling in literal(letters):
        if len(lines[-1]) + len(spelling) + 3 > WIDTH:
            lines[-1] += '"'
            lines.append(" " * (len(opening) - 2) + 'U"')
        lines[-1] += spelling
    print("\n".join(lines) + '"},')


def main():
    normalizer = BertNormalizer(clean_text=True, handle_chinese_chars=False, strip_accents=True, lowercase=True)
    splitter = BertPreTokenizer()
    folded = {p: normalizer.normalize_str(f"a{chr(p)}b")[1:-1] for p in code_points()}
    single = {p: f for p, f in folded.items() if len(f) == 1 and f not in (" ", chr(p))}
    several = {p: f for p, f in folded.items() if len(f) > 1 and p not in HANGUL}
    pages = [list(g) for _, g in itertools.groupby(sorted({p // PAGE for p in single}),
                                                   lambda n, c=itertools.count(): n - next(c))]

    print("/// What the tokenizer of BERT uncased does to each code point. Written by make_unicode_table.py.")
    print("// clang-format off\n#pragma once\n\n#include <string_view>\n\nnamespace semantic_search::unicode {\n")
    print("struct code_range {\n  char32_t first, last;\n};\n")
    print("/// What code points become in lower case and without accents. In a page there is one letter for each code point\n"
          "/// from `first` on, where a space stands for a code point that stays itself.")
    print("struct folding {\n  char32_t first;\n  std::u32string_view folded;\n};\n")
    print_ranges("spaces", [p for p, f in folded.items() if f == " "])
    print("/// Controls, formatting characters and non-spacing marks.")
    print_ranges("dropped", [p for p, f in folded.items() if f == ""])
    print_ranges("punctuation", [p for p in code_points() if len(splitter.pre_tokenize_str(f"a{chr(p)}b")) == 3])
    print("inline constexpr folding pages[] = {")
    for page in pages:
        letters = "".join(single.get(p, " ") for p in range(page[0] * PAGE, (page[-1] + 1) * PAGE))
        first = page[0] * PAGE + len(letters) - len(letters.lstrip())
        print_page(first, letters.strip())
    print("};\n")
    print("/// The few code points that become several.")
    print("inline constexpr folding expansions[] = {")
    print_items(f'{{0x{p:x}, U"' + "".join(map(escape, f)) + '"}' for p, f in several.items())
    print("};\n\n}  // namespace semantic_search::unicode")


main()
