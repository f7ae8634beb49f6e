#!/usr/bin/env python3
"""Writes golden.txt: token ids and embeddings of fixed sentences from the reference implementation.

Needs `pip install sentence-transformers` and the model's folder (examples/semantic_search/fetch_model.sh).

    python3 make_golden.py build/models/all-MiniLM-L6-v2 > golden.txt

The file has three kinds of lines. `text` begins a case: UTF-8 in which a backslash is written \\\\, a line break \\n, a tab \\t,
and the bytes of what cannot be seen \\xNN. `ids` are its tokens. `vector` is its embedding; cases without one test tokens alone.
"""
import sys

import sentence_transformers
import tokenizers
import torch
import transformers

STORY = (
    "The lighthouse keeper counted {n} ships before breakfast, and wrote each one into the ledger with its flag, its heading "
    "and the colour of its hull. When the fog came in he rang the bell every {n} seconds, because the lamp was no use in "
    "weather like that. "
)

EMBEDDED = [
    "A man is eating food.",
    "Someone is having a meal.",
    "hello",
    "",
    "   \t\n ",
    "Crème brûlée, naïve façades, Ångström, İstanbul & smörgåsbord: déjà vu!",
    "Wait... what?! (It's 50% off -- \"really\"; see http://example.org/a_b?c=d#e) [sic] {x} <y> `z` ~ ^ | \\ / @ $ + =",
    "In 1969, 384400 km were travelled; π is 3.14159265358979, e^2 is 7.389 and 1,000,000 x 0 = 0.",
    "机器学习 makes 東京タワー and 한국어 문장 searchable, だが時間がかかる。",
    "Привет, мир! Καλημέρα κόσμε; ὁ Ἀχιλλεύς. Việt Nam; Łódź; straße; ﬁne ½ Ⅻ",
    "honorificabilitudinitatibus antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis " + "x" * 101,
    "The [MASK] sat on the [SEP] mat.",
    " ".join("one" for _ in range(254)),
    "".join(STORY.format(n=n) for n in range(3, 12)),
]

TOKENIZED = [
    "soft\u00adhyphen zero\u200bwidth\ufeff joiner\u200d bell\x07 vertical\x0btab form\x0cfeed next\x85line nbsp\u00a0here \x7f",
    "ideographic\u3000space, line\u2028separator, thin\u2009space",
    "combining: e\u0301 n\u0303 A\u030a \u0301alone; variation \u2764\ufe0f; emoji 😀👍🏽 👩‍🚀",
    "".join(chr(c) for c in range(0xA1, 0x250)),
    " ".join(chr(c) for c in range(0x370, 0x400)),
    " ".join(chr(c) for c in range(0x400, 0x530)),
    " ".join(chr(c) for c in range(0x1E00, 0x1F00)),
    "㐀䶿 一鿿 \U00020000\U0002a6df \U0002f800 豈 がぎぐげご パピプペポ ﾊﾟ ＡＢＣ！ 각힣",
    "שָׁלוֹם עֲלֵיכֶם، السَّلامُ عَلَيْكُمْ؟ हिन्दी भाषा। ภาษาไทย ქართული ᲥᲐᲠᲗᲣᲚᲘ Ꭰꭰ Հայերեն",
    "#hashtag ##inner ###three @at_under_score 'tis o'clock rock'n'roll e.g. U.S.A. a/b\\c -- — – … «guillemets» “curly” ‘single’",
    "[CLS][SEP] [UNK]x[PAD] [mask] [MASK [CLS ]",
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100 + " " + "é" * 101,
    "supercalifragilisticexpialidocious unaffable embeddings tokenization zzzzzzzz ✓ ☃ ♥ ℃ № ™ ² ⁿ €",
]


def escaped(text):
    named = {"\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    return "".join(named.get(c, c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode())) for c in text)


def main():
    model = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    print("# all-MiniLM-L6-v2 under "
          + ", ".join(f"{m.__name__} {m.__version__}" for m in (sentence_transformers, transformers, tokenizers, torch)))
    for text in EMBEDDED + TOKENIZED:
        ids = model.preprocess([text])["input_ids"][0].tolist()
        print("text " + escaped(text))
        print("ids " + " ".join(map(str, ids)))
        if text in EMBEDDED:
            print("vector " + " ".join(f"{x:.8f}" for x in model.encode(text, normalize_embeddings=True).tolist()))


main()
