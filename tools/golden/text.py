"""Writes the goldens of the tokenizer and the text tower, computed by open_clip 3.3. Run it and commit what it writes.

It writes into tests/golden:
- tokens.json: texts with the ids of open_clip's tokenizer;
- tokens_hostile.json.gz: the same for 2,000 of hostile.py's texts that ftfy changes by Unicode's composition at most,
  words of 10 kB among them;
- text_{quick_gelu,gelu}.safetensors: a tiny text tower of open_clip's under its own tensor names, with the features and
  the ensemble embeddings of the texts in its metadata. The token embedding has only the rows that those texts use
  (`token_embedding.rows` names them), which keeps the file small although the vocabulary is CLIP's.
"""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path
from unittest import mock

import ftfy
import open_clip
import regex
import torch
from hostile import LONG_WORD_BYTES, hostile_texts, long_words
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import save_file

REPOSITORY = Path(__file__).parents[2]
GOLDEN = REPOSITORY / "tests" / "golden"
TEMPLATES = (REPOSITORY / "config" / "prompts" / "maskclip-85.txt").read_text().splitlines()
ENSEMBLE_NAMES = ["cat", "traffic light", "Grüner Tee", "chest of drawers"]
VOCABULARY_SIZE = 49_408
CONTEXT_LENGTH = 77
SHORT_CONTEXT_LENGTH = 8
HOSTILE_TEXTS = 2_000

# Texts of many lengths, out of order: one twice, one cut at the context length, one that spells out an end token.
PROMPTS = [
    "a photo of a cat.",
    "",
    "there is a chest of drawers in the scene, beside a window with a view of the mountains.",
    "sofa",
    "a photo of a cat.",
    "very " * 90,
    "a <end_of_text> that stands in the middle of it",
    "🐱",
]

PLAIN = """
a photo of a cat.|A PHOTO OF A CAT.|hello world!|Hello, World!|there is a dog in the scene.|a bad photo of the sofa.
itap of a potted plant.|a jpeg corrupted photo of the airplane.|graffiti of a bicycle.|the origami tiger.
diningtable|tvmonitor|traffic light|chest of drawers|pool table|screen door|swivel chair|crt screen|skyscraper
sky; wall; tree|person; man; woman|cat/dog|black-and-white|rock'n'roll|mother-in-law|wall-brick|door-stuff|ground-other
state-of-the-art vision-language model|open_vocabulary|snake_case_name|camelCaseName|C++|C#|.NET|a.b.c|e.g. this|i.e.
"""

CONTRACTIONS = """
it's|IT'S|don't|we're|they've|I'm|she'll|he'd|o'clock|the dogs' house|'s|'t|''s|rock 'n' roll|y'all'd've|it' s|'sad|'dog
'llama|can't've|a'b|'re're|it'ſ|'ſ|she'LL
"""

DIGITS = """
1|12|123|2024|3.14|1,000,000|b52|mp3 player|4x4|10%|-7|1st place|route 66|0|007|x2y3z4|½|²|Ⅳ|①|١٢٣|９|५|1a1b1c
"""

LETTERS = """
café|naïve|Ångström|ÉCOLE|straße|STRASSE|İstanbul|ısı|Ĳssel|ŒUVRE|smörgåsbord|jalapeño|Đà Nẵng|złoty|čeština|ΑΒΓ|ΣΊΣΥΦΟΣ|ὈΔΥΣΣΕΎΣ
Москва|кошка|КОШКА|ёжик|შავი|Աբգ|שלום|حصان|مرحبا بالعالم|หมา|ภาษาไทย|कुत्ता|বিড়াল|நாய்|한국어|고양이|日本語|猫|ネコ|ねこ|犬と猫|中文|一只黑色的猫
東京タワー|ⓐⓑ|ª|º|ʰ|ǅ|ẞ|K|Å|𝒳|𝔘𝔫𝔦|𐐀|𐐨|ꙮ
"""

SYMBOLS = """
🐱|🐱🐶|👨‍👩‍👧‍👦|❤️|🇫🇷|🏳️‍🌈|👍🏽|a 🐱 photo|cat🐱dog|☃|★|→|€|£100|¥|©|®|™|§|¶|°C|±5|×|÷|∞|≠|√|∑|µ|…|—|–|a—b|«a»|„a|¿qué?|¡hola!
!|!!|!!!|!!!!!!!!|?!|...|....|*|**bold**|#tag|@user|user@example.org|https://example.org/a?b=c&d=e|$5.00|a+b=c|{}|[x]|(y)|<z>|<|>|<>
&|&&|"|'|`|~|^|_|__|\\|a\\b|:-)|;|,|<<|>>|--|---|----
"""

ENTITIES = """
&amp;|&amp;amp;|&amp;amp;amp;|rock &amp; roll|&lt;b&gt;|&quot;hi&quot;|&#39;s|it&#39;s|&#x27;s|&#233;|&eacute;|&Eacute;|caf&eacute;|&copy;|&hearts;|&nbsp;|a&nbsp;b
&amp|&ampx|&notit;|&notin;|&unknown;|&#0;|&#128;|&#x110000;|&#xd800;|&#;|&;|AT&T|R&D|&amp;lt;|&frac12;|&NotEqualTilde;|&CounterClockwiseContourIntegral;
"""

SPECIAL = """
<start_of_text>|<end_of_text>|<START_OF_TEXT>|<End_Of_Text>|a <end_of_text> b|a<end_of_text>b|<start_of_text>cat<end_of_text>
!<end_of_text>|<<start_of_text>>|<end_of_text|end_of_text>|<startoftext>|<|endoftext|>|</w>|cat</w>|&lt;end_of_text&gt;|<ſtart_of_text>
"""

SPACES = [
    "",
    " ",
    "   ",
    "\t\n\r ",
    " a  b   c ",
    "a\tb\nc\r\nd",
    "a\u00a0b",
    "a\u2003b\u2009c\u202fd",
    "a\u3000b",
    "a\u200bb",
    "a\u00adb",
    "cafe\u0301",
    "A\u030angstro\u0308m",
    "\u1100\u1161",
    "&#10;a&#9;b",
    "a&nbsp;&nbsp;b",
    "&#x20;",
]

LONG = [
    "pneumonoultramicroscopicsilicovolcanoconiosis",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    "a" * 30,
    "a" * 300,
    "ab" * 150,
    "é" * 60,
    "猫" * 40,
    "🐱" * 30,
    "9" * 74,
    "9" * 75,
    "9" * 76,
    "9" * 200,
    "!" * 100,
    "a photo of a very " + "very " * 66 + "long",
    "a photo of a very " + "very " * 67 + "long",
    "a photo of a very " + "very " * 68 + "long",
    "a photo of a very " + "very " * 69 + "long",
    "cat " * 90,
]


def texts() -> list[str]:
    lines = PLAIN, CONTRACTIONS, DIGITS, LETTERS, SYMBOLS, ENTITIES, SPECIAL
    listed = [text for block in lines for line in block.strip().splitlines() for text in line.split("|")]
    # "|" separates above.
    return list(dict.fromkeys([*listed, "<|endoftext|>", "a|b", *SPACES, *LONG]))


def token_lists() -> list[dict]:
    """Texts and their ids. A text that is longer than a short context has its ids cut to that context, too.

    ftfy repairs some texts before they are split. The server does not, as its documentation says, so they are left out.
    """
    tokenizer = SimpleTokenizer()
    entries, repaired = [], []
    for text in texts():
        ids = encode(tokenizer, text, CONTEXT_LENGTH)
        with mock.patch("ftfy.fix_text", lambda text: unicodedata.normalize("NFC", text)):
            if encode(tokenizer, text, CONTEXT_LENGTH) != ids:
                repaired.append(text)
                continue
        entries.append({"text": text, "context_length": CONTEXT_LENGTH, "ids": ids})
        if len(ids) > SHORT_CONTEXT_LENGTH:
            short = encode(tokenizer, text, SHORT_CONTEXT_LENGTH)
            entries.append({"text": text, "context_length": SHORT_CONTEXT_LENGTH, "ids": short})
    print(f"{len(entries)} token lists; left out, as ftfy repairs them: {repaired}")
    return entries


def hostile_token_lists() -> list[dict]:
    """The same as token_lists, for hostile texts; words of 10 kB are read to their end.

    Letters and digits about which open_clip's dependencies disagree are left out, too: Python's lower case knows an
    older Unicode than the `regex` package, and the server's tables lie between the two.
    """
    tokenizer = SimpleTokenizer()

    def is_disputed(character: str) -> bool:
        return unicodedata.category(character) == "Cn" and regex.match(r"[\p{L}\p{N}]", character) is not None

    def entry(text: str, context_length: int) -> dict:
        return {"text": text, "context_length": context_length, "ids": encode(tokenizer, text, context_length)}

    entries = [entry(word, LONG_WORD_BYTES + 2) for word in long_words(seed=1)]
    seen, source = set(), hostile_texts(seed=0)
    while len(entries) < HOSTILE_TEXTS:
        text = next(source)
        is_kept = ftfy.fix_text(text) == unicodedata.normalize("NFC", text) and not any(map(is_disputed, text))
        if text not in seen and is_kept:
            entries.append(entry(text, CONTEXT_LENGTH))
        seen.add(text)
    print(f"{len(entries)} hostile texts; {len(seen) - len(entries)} others left out")
    return entries


def encode(tokenizer: SimpleTokenizer, text: str, context_length: int) -> list[int]:
    """The ids of a text without the zeros after the end token, which is not 0."""
    ids = tokenizer([text], context_length)[0].tolist()
    while ids[-1] == 0:
        ids.pop()
    return ids


def text_golden(quick_gelu: bool) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    torch.manual_seed(7 + quick_gelu)
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg={"layers": 1, "width": 64, "patch_size": 8, "image_size": 16},
        text_cfg={"context_length": CONTEXT_LENGTH, "vocab_size": VOCABULARY_SIZE, "width": 32, "heads": 2, "layers": 2},
        quick_gelu=quick_gelu,
    ).eval()
    # Larger than at initialisation, so that every part of the tower changes the result.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.15 if parameter.ndim > 1 else 0.3))
            if ".ln_" in name and name.endswith("weight") or name == "ln_final.weight":
                parameter.add_(1.0)

    tokenizer = SimpleTokenizer()
    ensemble_prompts = [template.replace("{}", name) for name in ENSEMBLE_NAMES for template in TEMPLATES]
    with torch.no_grad():
        features = model.encode_text(tokenizer(PROMPTS))
        units = model.encode_text(tokenizer(ensemble_prompts), normalize=True)
        means = units.reshape(len(ENSEMBLE_NAMES), len(TEMPLATES), -1).mean(dim=1)
        ensembles = means / means.norm(dim=-1, keepdim=True)

    rows = torch.cat([tokenizer(PROMPTS).flatten(), tokenizer(ensemble_prompts).flatten()]).unique()
    tensors = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("visual.") and name not in ("logit_scale", "attn_mask", "token_embedding.weight")
    }
    tensors |= {
        "token_embedding.rows": rows,
        "token_embedding.values": model.token_embedding.weight.detach()[rows].contiguous(),
        "golden.features": features,
        "golden.ensembles": ensembles.contiguous(),
    }
    return tensors, {"prompts": json.dumps(PROMPTS), "ensemble_names": json.dumps(ENSEMBLE_NAMES)}


def as_lines(entries: list[dict]) -> str:
    """JSON with one line per entry."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    return f"[\n{lines}\n]\n"


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    (GOLDEN / "tokens.json").write_text(as_lines(token_lists()))
    hostile = as_lines(hostile_token_lists()).encode()
    (GOLDEN / "tokens_hostile.json.gz").write_bytes(gzip.compress(hostile, compresslevel=9, mtime=0))
    for name, quick_gelu in ("quick_gelu", True), ("gelu", False):
        tensors, metadata = text_golden(quick_gelu)
        save_file(tensors, GOLDEN / f"text_{name}.safetensors", metadata)


if __name__ == "__main__":
    main()
