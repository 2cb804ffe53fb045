"""Makes texts that are hard for a tokenizer, from a seed; text.py lets open_clip's tokenizer read them."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Iterator

LONG_WORD_BYTES = 10_000

SCRIPTS = {
    "Latin": (0x41, 0x24F),
    "Greek": (0x370, 0x3FF),
    "Cyrillic": (0x400, 0x52F),
    "Armenian": (0x531, 0x58A),
    "Hebrew": (0x5D0, 0x5F4),
    "Arabic": (0x600, 0x6FF),
    "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FE),
    "Tamil": (0xB82, 0xBFA),
    "Thai": (0xE01, 0xE5B),
    "Tibetan": (0xF00, 0xFDA),
    "Georgian": (0x10A0, 0x10FF),
    "Hangul Jamo": (0x1100, 0x11FF),
    "Ethiopic": (0x1200, 0x137C),
    "Cherokee": (0x13A0, 0x13FD),
    "Khmer": (0x1780, 0x17F9),
    "Mtavruli": (0x1C90, 0x1CBF),
    "Latin, additional": (0x1E00, 0x1EFF),
    "Greek, extended": (0x1F00, 0x1FFE),
    "enclosed": (0x2460, 0x24FF),
    "Coptic and Glagolitic": (0x2C00, 0x2CFF),
    "kana": (0x3041, 0x30FF),
    "Han": (0x4E00, 0x9FEF),
    "Hangul": (0xAC00, 0xD7A3),
    "Deseret": (0x10400, 0x1044F),
    "Gothic": (0x10330, 0x1034A),
    "mathematical letters": (0x1D400, 0x1D7FF),
    "Han, extension B": (0x20000, 0x2A6D6),
}
MARKS = [*range(0x300, 0x370), *range(0x1AB0, 0x1ABE), *range(0x20D0, 0x20F1), 0x3099, 0x309A, 0x5B0, 0x64B, 0x94D]
SPACES = " \t\n\x0c\u00a0\u1680\u2000\u2001\u2002\u2003\u2009\u200a\u202f\u205f\u3000"
INVISIBLE = "\u00ad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u202e\u2060\u2061\u2066\u2069\u3164\ufe0e\ufe0f"
CONTROLS = "".join(map(chr, range(0x20))) + "\x7f\x80\x85\x9f\u2028\u2029\ufeff\ufff9\ufffd"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§¿«»‐–—†‡•…‰′″‹›⁂€™←→∀∑≠①★☃♪、。「」〜・"
EMOJI = ["🐱", "👍", "👩", "💻", "❤️", "🏳️", "🌈", "🇫", "🇷", "1️⃣", "🧑‍🚀", "👨‍👩‍👧", "☺", "🫠", "🏴\U000e0067\U000e007f", "🏽", "🏿"]
DIGITS = "0123456789²³¹½¾٣۷९๙Ⅷⅻ①⑳🄌𝟘𝟿〇五万"
ENDINGS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'Ve", "'x", "''", "'", "’s", "'ſ", "'\u212a"]
WORDS = (
    "a the photo of tiger lemon background it they don can we're İstanbul ſtraße STRASSE ΌΔΟΣ ΣΊΣΥΦΟΣ ΑΣ. Ǆungla ﬀ naïve "
    "Ångström e\u0301 A\u030a \u1100\u1161\u11a8 が \u304b\u3099 ẞ ŉ ΐ ᾳ Ⅷ K Å Ω"
).split()
ENTITIES = (
    "amp lt gt quot apos nbsp eacute Eacute copy hearts frac12 notin notit not ampamp AMP LT NotEqualTilde unknown "
    "#39 #x27 #233 #xe9 #xE9 #XE9 #128 #150 #0 #1 #11 #13 #32 #x200b #55296 #xd800 #xfdd0 #x10ffff #x110000 #99999999999 "
    "# #x #xg #39x CounterClockwiseContourIntegral fjlig bne acE thinsp ZeroWidthSpace Tab NewLine"
).split()
SPECIAL = ["<start_of_text>", "<end_of_text>", "<END_OF_TEXT>", "<End_Of_Text", "<ſtart_of_text>", "</w>", "<|endoftext|>"]


def hostile_texts(seed: int) -> Iterator[str]:
    """An endless series of texts, one kind after the other in turn."""
    source = random.Random(seed)
    while True:
        for kind in KINDS:
            yield kind(source)


def some(source: random.Random, choices: list | str, most: int, joint: str = "") -> str:
    return joint.join(source.choices(choices, k=source.randint(1, most)))


def letters(source: random.Random, script: str, most: int) -> str:
    """Assigned code points of a script's range, letters or not."""
    first, last = SCRIPTS[script]
    characters = (chr(source.randint(first, last)) for _ in range(source.randint(1, most)))
    return "".join(character for character in characters if unicodedata.category(character) != "Cn") or "x"


def one_script(source: random.Random) -> str:
    script = source.choice(list(SCRIPTS))
    return " ".join(letters(source, script, 8) for _ in range(source.randint(1, 6)))


def mixed_scripts(source: random.Random) -> str:
    return some(source, ["", " ", "-", "/"], 1).join(
        letters(source, script, 4) for script in source.choices(list(SCRIPTS), k=source.randint(2, 8))
    )


def any_code_points(source: random.Random) -> str:
    """Code points that are assigned, private or neither, without surrogates."""
    points = (source.choice([source.randint(0x20, 0x3000), source.randint(0, sys.maxunicode)]) for _ in range(12))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def accents(source: random.Random) -> str:
    """Stacks of combining marks, composed where Unicode has a composed form."""
    stacks = (
        letters(source, source.choice(["Latin", "Greek", "Cyrillic", "kana", "Hebrew", "Devanagari"]), 1)
        + "".join(map(chr, source.choices(MARKS, k=source.randint(0, 4))))
        for _ in range(source.randint(1, 10))
    )
    return unicodedata.normalize(source.choice(["NFC", "NFD"]), "".join(stacks))


def emoji(source: random.Random) -> str:
    return some(source, [*EMOJI, "\u200d", " ", "cat", "."], 8)


def entities(source: random.Random) -> str:
    """Entities: whole, unfinished, escaped twice. Each text has a "<": without one ftfy resolves entities itself."""
    parts = (
        "&" + source.choice(["", "", "amp;", "amp;amp;"]) + source.choice(ENTITIES) + source.choice([";", ";", "", " ", "x", "="])
        for _ in range(source.randint(1, 5))
    )
    return "<b>" + source.choice(["", " "]).join(parts)


def only_spaces(source: random.Random) -> str:
    return "".join(source.choices(SPACES, k=source.randint(0, 6)))


def spaced_out(source: random.Random) -> str:
    return some(source, [*WORDS, *SPACES, *SPACES], 14)


def invisible(source: random.Random) -> str:
    return some(source, [*WORDS, *INVISIBLE, *INVISIBLE], 10)


def controls(source: random.Random) -> str:
    return some(source, [*WORDS, *CONTROLS], 6)


def contractions(source: random.Random) -> str:
    return some(source, [*WORDS, *ENDINGS, *ENDINGS, " "], 10)


def digits(source: random.Random) -> str:
    return some(source, [*DIGITS, *DIGITS, "x", ".", ",", " ", "th"], 16)


def punctuation(source: random.Random) -> str:
    """Runs of punctuation that are long enough to be cut."""
    runs = (source.choice(PUNCTUATION) * source.choice([1, 2, 3, 8, 40, 200]) for _ in range(source.randint(1, 4)))
    return source.choice(["", " ", "a"]).join(runs)


def special_tokens(source: random.Random) -> str:
    return some(source, [*SPECIAL, *SPECIAL, *WORDS, " ", "<", ">", "!"], 7)


def words(source: random.Random) -> str:
    """Ordinary words in several cases and joined in several ways."""
    chosen = (source.choice([str.lower, str.upper, str.title, str.swapcase])(word) for word in source.choices(WORDS, k=9))
    return source.choice([" ", "-", "_", ";", "; ", "/", ""]).join(chosen)


KINDS: list[Callable[[random.Random], str]] = [
    one_script, mixed_scripts, any_code_points, accents, emoji, entities, only_spaces, spaced_out, invisible, controls,
    contractions, digits, punctuation, special_tokens, words,
]  # fmt: skip


def long_words(seed: int) -> list[str]:
    """Texts of one word of 10 kB each."""
    source = random.Random(seed)
    alphabets = ["a", "ab", "etaoinshrdlu", "!?", "é", "猫", "犬と猫", "🐱", "a\u0301", "Σ", "каша", "สวัสดี"]
    return ["".join(source.choices(alphabet, k=LONG_WORD_BYTES // len(alphabet[0].encode()))) for alphabet in alphabets]
