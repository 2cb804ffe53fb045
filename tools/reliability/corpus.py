"""Hostile files and bodies, the same at every run: truncated, lying, explosive, endless, and of two kinds at once.

They are made from the small images of tests/golden/decode, one of each form that is read, and by hand. hostile.py decides
where they are sent.
"""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from client import png
from server import REPOSITORY

Named = tuple[str, bytes]

SEEDS = REPOSITORY / "tests" / "golden" / "decode"
CUTS = (0.1, 0.35, 0.6, 0.95)
"""Where files are cut, as shares of their length."""
HEADER_BYTES = 64
MEGAPIXEL = 1_000_000


def files() -> list[Named]:
    """Images that no camera made. Names are unique."""
    seeds = sorted(path for path in SEEDS.iterdir() if path.suffix != ".json")
    made = [*from_seeds(seeds), *pngs(), *gifs(), *bitmaps(), *tiffs(), *webps(), *jpegs(seeds), *nothings()]
    assert len({name for name, _ in made}) == len(made) > 300, "more than 300 files, each with a name of its own"
    return made


def from_seeds(seeds: list[Path]) -> Iterator[Named]:
    """Every seed cut short, with a lying header, with noise inside, twice, and as the start of something else."""
    for path in seeds:
        whole, rng = path.read_bytes(), random.Random(path.name)
        for cut in CUTS:
            yield f"{path.name} cut at {cut:.0%}", whole[: int(len(whole) * cut)]
        for value in (0, 255):
            header = bytearray(whole)
            for place in rng.sample(range(8, min(HEADER_BYTES, len(whole))), 6):
                header[place] = value
            yield f"{path.name} with {value} in its header", bytes(header)
        noisy = bytearray(whole)
        for place in rng.sample(range(len(whole) // 4, len(whole)), len(whole) // 50 + 1):
            noisy[place] = rng.randrange(256)
        yield f"{path.name} with noise", bytes(noisy)
        yield f"{path.name} and a web page", whole + b"<html><script>alert(1)</script></html>"
        yield f"{path.name} behind an archive", b"PK\3\4" + bytes(26) + whole


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def pngs() -> Iterator[Named]:
    pixels, end = chunk(b"IDAT", zlib.compress(bytes(3 * 4 * 4 + 4), 9)), chunk(b"IEND", b"")
    zeros = zlib.compress(bytes(64 * MEGAPIXEL), 9)
    for width, height in ((0, 4), (4, 0), (2**31 - 1, 2**31 - 1), (2**32 - 1, 1), (1, 2**31 - 1), (65536, 65536), (7072, 7072)):
        yield f"png of {width} x {height}", png_of(header(width, height), pixels, end)
    for depth, colour in ((0, 2), (3, 0), (16, 3), (8, 7), (255, 255), (1, 6)):
        yield f"png of depth {depth} and colour {colour}", png_of(header(4, 4, depth, colour), pixels, end)
    yield "png of 49 megapixels", png(7000, 7000)
    yield "png whose pixels go on for 64 MB", png_of(header(4, 4), chunk(b"IDAT", zeros), end)
    yield "png with 64 MB of compressed text", png_of(header(4, 4), chunk(b"zTXt", b"a\0\0" + zeros), pixels, end)
    yield "png with a profile of 64 MB", png_of(header(4, 4), chunk(b"iCCP", b"a\0\0" + zeros), pixels, end)
    yield "png with a text in all languages", png_of(header(4, 4), chunk(b"iTXt", b"a\0\1\0en\0\0" + zeros), pixels, end)
    yield "png with two headers", png_of(header(4, 4), header(4000, 4000), pixels, end)
    yield "png without pixels", png_of(header(4, 4), end)
    yield "png without an end", png_of(header(4, 4), pixels)
    yield "png with a chunk of 2 GB", png_of(header(4, 4), chunk(b"IDAT", b"x", 2**31 - 1))
    yield "png with a chunk of 4 GB", png_of(header(4, 4), chunk(b"tEXt", b"x", 2**32 - 1), pixels, end)
    yield "png of 20,000 chunks", png_of(header(4, 4), *([chunk(b"tEXt", b"a\0b")] * 20_000), pixels, end)
    yield "png without a palette", png_of(header(4, 4, 8, 3), pixels, end)
    yield "png with a palette of 7 bytes", png_of(header(4, 4, 8, 3), chunk(b"PLTE", bytes(7)), pixels, end)
    yield "png of an unknown interlace", png_of(header(4, 4, interlace=9), pixels, end)
    yield "png interlaced, 8000 x 6000", png_of(header(8000, 6000, interlace=1), pixels, end)
    yield "png of a million frames", png_of(header(4, 4), chunk(b"acTL", struct.pack(">II", 10**6, 0)), pixels, end)
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 60000, 60000, 2**31, 2**31, 0, 0, 9, 9))
    yield "png with a frame outside of it", png_of(header(4, 4), chunk(b"acTL", struct.pack(">II", 1, 0)), frame, pixels, end)
    for number, exif in enumerate(exifs()):
        yield f"png with nonsense {number} of a camera", png_of(header(4, 4), chunk(b"eXIf", exif), pixels, end)


def exifs() -> Iterator[bytes]:
    """Metadata that points into itself, out of itself, and nowhere."""
    entry = struct.pack("<HHII", 0x0112, 3, 1, 0xFFFF)
    yield b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    yield b"II*\0" + struct.pack("<I", 0xFFFFFFFF)
    yield b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 0xFFFF) + entry * 5
    yield b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 1) + struct.pack(">HHII", 0x0112, 3, 2**32 - 1, 6)
    yield b"II"


def gifs() -> Iterator[Named]:
    def gif(width: int, height: int, *blocks: bytes) -> bytes:
        return b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF0, 0, 0) + bytes([0, 0, 0, 255, 255, 255]) + b"".join(blocks) + b";"

    def frame(left: int, top: int, width: int, height: int, data: bytes = b"\x02\x02\x44\x01\0") -> bytes:
        return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + data

    yield "gif of 65535 x 65535", gif(65535, 65535, frame(0, 0, 1, 1))
    yield "gif of 7000 x 7000 around one pixel", gif(7000, 7000, frame(0, 0, 1, 1))
    yield "gif with a frame outside of it", gif(4, 4, frame(60000, 60000, 4, 4))
    yield "gif with a frame larger than it", gif(4, 4, frame(0, 0, 65535, 65535))
    yield "gif without frames", gif(4, 4)
    yield "gif of nothing", gif(0, 0, frame(0, 0, 0, 0))
    yield "gif of 100,000 comments", gif(4, 4, b"!\xfe\x01a\0" * 100_000, frame(0, 0, 1, 1))
    yield "gif with a code size of 255", gif(4, 4, frame(0, 0, 4, 4, b"\xff\x02\x44\x01\0"))
    yield "gif whose pixels never end", gif(4, 4, frame(0, 0, 4, 4, b"\x08" + (b"\xff" + bytes(255)) * 2000))


def bitmaps() -> Iterator[Named]:
    def bmp(width: int, height: int, bits: int = 24, compression: int = 0, colours: int = 0, data: bytes = bytes(64)) -> bytes:
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, colours, 0)
        return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + info + data

    for width, height in ((0, 0), (-4, 4), (4, -(2**31)), (2**31 - 1, 2**31 - 1), (65536, 65536), (4, 10**9), (7000, -7000)):
        yield f"bmp of {width} x {height}", bmp(width, height)
    for bits in (0, 3, 7, 64, 65535):
        yield f"bmp of {bits} bits", bmp(4, 4, bits)
    yield "bmp of 4 billion colours", bmp(4, 4, 8, 0, 2**32 - 1)
    yield "bmp with runs out of it", bmp(4, 4, 8, 1, 0, b"\xff\x01" * 5000)
    yield "bmp with jumps out of it", bmp(4, 4, 8, 1, 0, b"\0\x02\xff\xff" * 5000)
    yield "bmp that is a jpeg", bmp(4, 4, 24, 4)


def tiffs() -> Iterator[Named]:
    def tiff(*entries: tuple[int, int, int, int], following: int = 0) -> bytes:
        table = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
        return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", following) + bytes(64)

    def plain(width: int, height: int, *more: tuple[int, int, int, int], following: int = 0) -> bytes:
        tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 16}
        entries = {tag: (tag, 4, 1, value) for tag, value in tags.items()} | {entry[0]: entry for entry in more}
        return tiff(*entries.values(), following=following)

    for width, height in ((0, 0), (2**32 - 1, 2**32 - 1), (65535, 65535), (7000, 7000), (1, 2**31)):
        yield f"tiff of {width} x {height}", plain(width, height)
    yield "tiff whose next page is itself", plain(4, 4, following=8)
    yield "tiff with 4 billion strips", plain(4, 4, (273, 4, 2**32 - 1, 8), (279, 4, 2**32 - 1, 8))
    yield "tiff with strips behind its end", plain(4, 4, (273, 4, 1, 2**32 - 1))
    yield "tiff of 65535 samples", plain(4, 4, (277, 3, 1, 65535))
    yield "tiff of 4 billion bits", plain(4, 4, (258, 4, 1, 2**32 - 1))
    yield "tiff of rows without an end", plain(4, 4, (278, 4, 1, 2**32 - 1))
    yield "tiff of no rows", plain(4, 4, (278, 4, 1, 0))
    for compression in (2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34712, 50000, 65535):
        yield f"tiff of compression {compression}", plain(4, 4, (259, 3, 1, compression))
    yield "tiff of tiles of nothing", plain(4, 4, (322, 4, 1, 0), (323, 4, 1, 0), (324, 4, 1, 8), (325, 4, 1, 16))
    yield "tiff of tiles of 4 billion", plain(4, 4, (322, 4, 1, 2**31), (323, 4, 1, 2**31), (324, 4, 1, 8), (325, 4, 1, 16))
    yield "tiff of no entries", tiff()
    yield "big tiff", b"II+\0" + struct.pack("<HHQ", 8, 0, 16) + struct.pack("<Q", 2**63)


def webps() -> Iterator[Named]:
    def riff(*chunks: bytes, length: int | None = None) -> bytes:
        content = b"WEBP" + b"".join(chunks)
        return b"RIFF" + struct.pack("<I", len(content) if length is None else length) + content

    def part(kind: bytes, content: bytes, length: int | None = None) -> bytes:
        return kind + struct.pack("<I", len(content) if length is None else length) + content

    def extended(width: int, height: int, flags: int = 0) -> bytes:
        return part(b"VP8X", bytes([flags, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))

    lossless = part(b"VP8L", b"\x2f" + b"\xff" * 4 + bytes(16))
    yield "webp of 16384 x 16384, without pixels", riff(lossless)
    yield "webp of 2^24 x 2^24", riff(extended(2**24, 2**24), lossless)
    yield "webp of 7000 x 7000 around nothing", riff(extended(7000, 7000))
    yield "webp animated, without frames", riff(extended(4, 4, 2), part(b"ANIM", bytes(6)))
    frame = part(b"ANMF", b"\xff" * 16 + lossless)
    yield "webp with a frame outside of it", riff(extended(4, 4, 2), part(b"ANIM", bytes(6)), frame)
    yield "webp of 4 GB", riff(extended(4, 4), length=2**32 - 1)
    yield "webp with a part of 4 GB", riff(part(b"VP8 ", bytes(10), 2**32 - 1))
    yield "webp of 50,000 unknown parts", riff(extended(4, 4), part(b"ABCD", b"") * 50_000, lossless)
    yield "webp lossy, 16383 x 16383", riff(part(b"VP8 ", b"\x30\0\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(32)))
    yield "webp empty", riff()


def jpegs(seeds: list[Path]) -> Iterator[Named]:
    whole = next(path for path in seeds if path.name == "grey.jpg").read_bytes()
    start = whole.index(b"\xff\xc0")
    for width, height in ((0, 8), (8, 0), (65535, 65535), (7000, 7000)):
        size = struct.pack(">HH", height, width)
        yield f"jpeg of {width} x {height}", whole[: start + 5] + size + whole[start + 9 :]
    for components in (0, 2, 5, 255):
        yield f"jpeg of {components} components", whole[: start + 9] + bytes([components]) + whole[start + 10 :]
    for number, exif in enumerate(exifs()):
        content = b"Exif\0\0" + exif
        segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
        yield f"jpeg with nonsense {number} of a camera", whole[:2] + segment + whole[2:]
    yield "jpeg of 5,000 scans", whole[:-2] + whole[whole.index(b"\xff\xda") : -2] * 5000 + whole[-2:]
    yield "jpeg of 100,000 comments", whole[:2] + b"\xff\xfe\0\x02" * 100_000 + whole[2:]
    yield "jpeg of restarts", whole[:2] + b"\xff\xdd\0\x04\0\x01" + whole[2:-2] + b"\xff\xd0\xff\xd7" * 5000 + whole[-2:]
    yield "jpeg with a segment of no length", whole[:2] + b"\xff\xe0\0\0" + whole[2:]
    yield "jpeg without tables", whole[:2] + whole[start:]


def nothings() -> Iterator[Named]:
    """What is no image at all."""
    for name, content in (
        ("nothing", b""),
        ("one byte", b"\xff"),
        ("a million zeros", bytes(MEGAPIXEL)),
        ("a svg with an entity that multiplies", b'<!DOCTYPE s [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg>&b;</svg>'),
        ("a pdf", b"%PDF-1.7\n1 0 obj\n<<>>\nendobj"),
        ("an archive", b"PK\3\4" + bytes(100)),
        ("a script", b"#!/bin/sh\nrm -rf /tmp/nothing\n"),
        ("an avif", b"\0\0\0\x1cftypavif" + bytes(100)),
        ("half a signature", b"\x89PNG"),
    ):
        yield name, content
    rng = random.Random(7)
    for number in range(8):
        yield f"noise {number}", rng.randbytes(2000)


def bodies() -> list[Named]:
    """JSON bodies that ask for too much, or for nothing that makes sense."""
    image = '"image": "aGk="'
    values = ["null", "true", "0", '""', "[]", "{}", "-1", "1e999", "[[]]", '{"a": 1}']
    fields = ["classes", "background", "short_side", "scales", "window", "output", "key_smoothing", "temperature", "options"]
    made = [(f"{field} is {value}", f'{{{image}, "{field}": {value}}}') for field in fields for value in values]
    deep = 100_000
    made += [
        ("arrays without an end", '{"classes": ' + "[" * deep),
        ("arrays of depth 100,000", '{"classes": ' + "[" * deep + "]" * deep + "}"),
        ("objects of depth 100,000", '{"a":' * deep + "1" + "}" * deep),
        ("a number of a million digits", f'{{{image}, "short_side": {"9" * MEGAPIXEL}}}'),
        ("a number of a million decimals", f'{{{image}, "temperature": 0.{"1" * MEGAPIXEL}}}'),
        ("an exponent of a million digits", f'{{{image}, "temperature": 1e{"9" * MEGAPIXEL}}}'),
        ("a name of a million letters", json.dumps({"image": "aGk=", "classes": ["a" * MEGAPIXEL]})),
        ("a million escapes", f'{{{image}, "classes": ["{chr(92)}u0061{(chr(92) + "u0000") * 100_000}"]}}'),
        ("half a surrogate", f'{{{image}, "classes": ["\\ud800"]}}'),
        ("a field of a million letters", f'{{"{"a" * MEGAPIXEL}": 1}}'),
        ("a field twice", f'{{{image}, {image}, "classes": ["a"], "classes": ["b"]}}'),
        ("100,000 unknown fields", "{" + ",".join(f'"a{number}": 1' for number in range(100_000)) + "}"),
        ("100,000 classes", json.dumps({"image": "aGk=", "classes": [f"a{number}" for number in range(100_000)]})),
        ("one class with 100,000 synonyms", json.dumps({"image": "aGk=", "classes": [{"name": "a", "synonyms": ["b"] * 100_000}]})),
        ("100,000 scales", json.dumps({"image": "aGk=", "classes": ["a"], "scales": [1.0] * 100_000})),
        ("10 MB of spaces", " " * (10 * MEGAPIXEL)),
        ("two values", "{} {}"),
        ("a comment", "{} // nothing"),
        ("a single quote", "{'classes': []}"),
        ("not a number", f'{{{image}, "temperature": NaN}}'),
    ]
    raw = [(name, text.encode()) for name, text in made]
    raw += [
        ("bytes that are no text", b'{"classes": ["\xff\xfe"]}'),
        ("a mark of byte order", b"\xef\xbb\xbf{}"),
        ("a text of 16 bits", '{"classes": ["a"]}'.encode("utf-16")),
        ("zeros", bytes(10_000)),
    ]
    return raw
