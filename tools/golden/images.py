"""Writes tests/golden/images: images as people have them, by format, depth, colour model, metadata and damage.

Every file shows four flat quarters, as those of decode.py do. expected.json has for each file what it is, and the colour
at the middle of each quarter as Pillow decodes it: turned as EXIF says, with transparency on white. Where Pillow refuses
a file whose pixels are whole, or takes a fourth band for opacity that no tag calls so, the colours are those that the
file was made from. A damaged file has the beginning of the message with which the server refuses it.

The test tests/golden/images.rs reads the files and prints the table of docs/images.md.
Run it from the repository's root, with NumPy and Pillow: python tools/golden/images.py
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from decode import COLOURS, HEIGHT, WIDTH, exif, on_white, quarters

FOLDER = Path("tests/golden/images")
GREYS = [10, 90, 170, 250]
OPACITIES = [255, 128, 64, 0]
CUT_SHORT = "the image is cut short: the file ends before its pixels do"
SIGNED, FLOATS = 2, 3


def not_read(pixels):
    """The message for a TIFF of pixels that are not read."""
    return (
        f"the image cannot be decoded: its pixels are {pixels}; TIFFs are read in grey with and without opacity, RGB, "
        "CMYK and palettes, with whole numbers of 8 or 16 bits"
    )


def middles(image):
    return [(image.width * x // 4, image.height * y // 4) for y in (1, 3) for x in (1, 3)]


class Files:
    """The files and what is expected of each."""

    def __init__(self):
        self.expected = []

    def add(self, name, kind, data, colours=None, refused=None):
        """Adds a file. `colours` are for files that Pillow refuses or reads otherwise."""
        (FOLDER / name).write_bytes(data)
        try:
            with Image.open(io.BytesIO(data)) as image:
                shown = on_white(image)
            theirs = [list(shown.getpixel(at)) for at in middles(shown)]
            size = shown.size
        except Exception as error:  # Pillow has no one class for what it cannot read.
            assert refused or colours, f"Pillow refuses {name}: {error}"
            theirs, size = None, (WIDTH, HEIGHT)
        entry = {"file": name, "kind": kind, "width": size[0], "height": size[1], "pillow": theirs}
        if colours is not None:
            entry["colours"] = [list(map(int, colour)) for colour in colours]
        if refused:
            entry["refused"] = refused
        self.expected.append(entry)

    def write(self):
        lines = ",\n".join(json.dumps(entry) for entry in self.expected)
        (FOLDER / "expected.json").write_text(f"[\n{lines}\n]\n")


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def tiff(samples, photometric, extra=None, colour_map=None, order="<", big=False, numbers=None):
    """An uncompressed TIFF with the given tags alone. `samples` is an array of HEIGHT x WIDTH (x bands)."""
    samples = samples.reshape(HEIGHT, WIDTH, -1)
    bands, bits = samples.shape[2], samples.dtype.itemsize * 8
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    short, long = 3, 4
    entries = [
        (256, short, [WIDTH]), (257, short, [HEIGHT]), (258, short, [bits] * bands), (259, short, [1]),
        (262, short, [photometric]), (273, long, [None]), (277, short, [bands]), (278, short, [HEIGHT]),
        (279, long, [len(pixels)]),
    ]
    if colour_map is not None:
        entries.append((320, short, colour_map))
    if extra is not None:
        entries.append((338, short, [extra]))
    if numbers is not None:
        entries.append((339, short, [numbers] * bands))
    count, pointer, head = ("Q", "Q", 16) if big else ("H", "I", 8)
    field = struct.calcsize(f"={pointer}")
    entry_bytes = 4 + 2 * field
    values_at = head + struct.calcsize(f"={count}") + entry_bytes * len(entries) + field
    values = b""
    sizes = {short: "H", long: "I"}
    packed = []
    strip = None
    for tag, kind, data in entries:
        if data == [None]:
            strip = len(packed)
            packed.append([tag, kind, 1, None])
            continue
        raw = struct.pack(f"{order}{len(data)}{sizes[kind]}", *data)
        if len(raw) > field:
            at = values_at + len(values)
            values += raw + b"\0" * (len(raw) % 2)
            raw = struct.pack(f"{order}{pointer}", at)
        packed.append([tag, kind, len(data), raw.ljust(field, b"\0")])
    packed[strip][3] = struct.pack(f"{order}I", values_at + len(values)).ljust(field, b"\0")
    mark = b"II" if order == "<" else b"MM"
    start = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if big else struct.pack(f"{order}HI", 42, 8)
    directory = struct.pack(f"{order}{count}", len(packed))
    for tag, kind, number, raw in packed:
        directory += struct.pack(f"{order}HH{pointer}", tag, kind, number) + raw
    return mark + start + directory + b"\0" * field + values + pixels


def on_white_of(colours):
    """The four colours with their opacities on white."""
    mixed = zip(colours, OPACITIES)
    return [[round((value * opacity + 255 * (255 - opacity)) / 255) for value in colour] for colour, opacity in mixed]


def tiffs(files, rgb, grey):
    bytes_of = np.asarray
    colours = bytes_of(rgb)
    opacity = quarters(OPACITIES).astype(np.uint8)
    palette = rgb.quantize(4)
    colour_map = np.zeros((3, 256), np.uint16)
    colour_map[:, :4] = np.array(COLOURS).T * 257
    indices = quarters([0, 1, 2, 3]).astype(np.uint8)
    wide = (colours.astype(np.uint16) * 257)
    mixed = np.dstack([colours, opacity])
    multiplied = np.dstack([(colours.astype(int) * opacity[:, :, None] // 255).astype(np.uint8), opacity])
    grey_alpha = np.dstack([bytes_of(grey), opacity])
    files.add("palette.tif", "TIFF, palette, 8 bits", encoded(palette, "TIFF"))
    files.add("palette-big-endian.tif", "TIFF, palette, 8 bits, big-endian",
              tiff(indices, 3, colour_map=colour_map.flatten().tolist(), order=">"))
    files.add("palette-big.tif", "BigTIFF, palette, 8 bits",
              tiff(indices, 3, colour_map=colour_map.flatten().tolist(), big=True))
    files.add("grey-alpha.tif", "TIFF, grey with opacity, 8 bits", tiff(grey_alpha, 1, extra=2))
    files.add("grey-band.tif", "TIFF, grey with a second band of no known meaning", tiff(grey_alpha, 1),
              colours=[[value] * 3 for value in GREYS])
    files.add("grey-white-first.tif", "TIFF, grey, white is zero", tiff(bytes_of(grey), 0))
    files.add("grey-16.tif", "TIFF, grey, 16 bits", tiff(bytes_of(grey).astype(np.uint16) * 257, 1))
    files.add("grey-12-in-16.tif", "TIFF, grey, 12 bits in 16: dark, since nothing says that 4095 is white",
              tiff(bytes_of(grey).astype(np.uint16) * 16, 1))
    files.add("rgb-16.tif", "TIFF, RGB, 16 bits", tiff(wide, 2))
    files.add("rgb-16-big-endian.tif", "TIFF, RGB, 16 bits, big-endian", tiff(wide, 2, order=">"))
    files.add("big.tif", "BigTIFF, RGB, 8 bits", tiff(colours, 2, big=True))
    files.add("rgba.tif", "TIFF, RGB with opacity (ExtraSamples 2)", tiff(mixed, 2, extra=2))
    files.add("rgba-multiplied.tif", "TIFF, RGB multiplied by opacity (ExtraSamples 1)", tiff(multiplied, 2, extra=1))
    files.add("rgba-multiplied-16.tif", "TIFF, RGB multiplied by opacity (ExtraSamples 1), 16 bits",
              tiff(multiplied.astype(np.uint16) * 257, 2, extra=1), colours=on_white_of(COLOURS))
    files.add("grey-alpha-16.tif", "TIFF, grey with opacity, 16 bits",
              tiff(grey_alpha.astype(np.uint16) * 257, 1, extra=2), colours=on_white_of([[value] * 3 for value in GREYS]))
    files.add("four-bands.tif", "TIFF, RGB and a fourth band without ExtraSamples", tiff(mixed, 2), colours=COLOURS)
    files.add("four-bands-0.tif", "TIFF, RGB and a fourth band of no known meaning (ExtraSamples 0)",
              tiff(mixed, 2, extra=0))
    for compression in ["tiff_adobe_deflate", "packbits", "jpeg"]:
        files.add(f"{compression.removeprefix('tiff_')}.tif", f"TIFF, RGB, {compression.removeprefix('tiff_')}",
                  encoded(rgb, "TIFF", compression=compression))
    files.add("one-bit.tif", "TIFF, 1 bit", encoded(grey.convert("1"), "TIFF"))
    files.add("cmyk.tif", "TIFF, CMYK", encoded(rgb.convert("CMYK"), "TIFF"))
    floats = colours.astype(np.float32)
    files.add("rgb-floats.tif", "TIFF, RGB, floats from 0 to 1", tiff(floats / 255, 2, numbers=FLOATS), colours=COLOURS)
    files.add("rgb-floats-255.tif", "TIFF, RGB, floats from 0 to 255", tiff(floats, 2, numbers=FLOATS),
              refused="the image cannot be decoded: its samples are floats that are not from 0 to 1, and nothing says "
                      "which value is white: convert it to 8 or 16 bits")
    files.add("grey-floats.tif", "TIFF, grey, floats", tiff(bytes_of(grey).astype(np.float32) / 255, 1, numbers=FLOATS),
              refused=not_read("grey, 1 x 32 bits, floats"))
    files.add("grey-signed.tif", "TIFF, grey, 16 bits with a sign",
              tiff(bytes_of(grey).astype(np.int16) * 128, 1, numbers=SIGNED),
              refused=not_read("grey, 1 x 16 bits, whole numbers with a sign"))
    files.add("five-bands.tif", "TIFF, five grey bands", tiff(np.dstack([colours, grey_alpha]), 1, extra=0),
              refused=not_read("grey, 5 x 8 bits, whole numbers"))
    files.add("lab.tif", "TIFF, CIE Lab", encoded(rgb.convert("LAB"), "TIFF"),
              refused=not_read("CIE Lab, 3 x 8 bits, whole numbers"))
    files.add("cut.tif", "TIFF, cut short", tiff(colours, 2)[:-200], refused=CUT_SHORT)


def png(width, height, depth, colour_type, rows, more=()):
    """A PNG of given rows of packed samples, with more chunks before its pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", head), *(chunk(*one) for one in more), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def packed(values, depth):
    """The rows of an array of values with `depth` bits each."""
    bits = ((values[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1).reshape(len(values), -1)
    return [row.tobytes() for row in np.packbits(bits.astype(np.uint8), axis=1)]


def pngs(files, rgb, grey):
    colours = np.asarray(rgb)
    opacity = quarters(OPACITIES).astype(np.uint8)
    steps = quarters([0, 1, 2, 3]).astype(np.uint8)
    palette = bytes(value for colour in COLOURS for value in colour)
    wide = [row.astype(">u2").tobytes() for row in colours.astype(np.uint16) * 257]
    wide_alpha = np.dstack([colours, opacity]).astype(np.uint16) * 257
    for depth in [1, 2, 4]:
        values = steps % 2 ** depth
        files.add(f"grey-{depth}.png", f"PNG, grey, {depth} bits", png(WIDTH, HEIGHT, depth, 0, packed(values, depth)))
        files.add(f"palette-{depth}.png", f"PNG, palette, {depth} bits",
                  png(WIDTH, HEIGHT, depth, 3, packed(values, depth), [(b"PLTE", palette[: 3 * min(4, 2**depth)])]))
    files.add("rgb-16.png", "PNG, RGB, 16 bits", png(WIDTH, HEIGHT, 16, 2, wide))
    files.add("rgba-16.png", "PNG, RGB with opacity, 16 bits",
              png(WIDTH, HEIGHT, 16, 6, [row.astype(">u2").tobytes() for row in wide_alpha]))
    clear = struct.pack(">HHH", *COLOURS[0])
    files.add("rgb-transparent.png", "PNG, RGB, one colour transparent (tRNS)",
              png(WIDTH, HEIGHT, 8, 2, [row.tobytes() for row in colours], [(b"tRNS", clear)]))
    files.add("grey-transparent.png", "PNG, grey, one value transparent (tRNS)",
              png(WIDTH, HEIGHT, 8, 0, [row.tobytes() for row in np.asarray(grey)],
                  [(b"tRNS", struct.pack(">H", GREYS[1]))]))
    whole = encoded(rgb, "PNG")
    files.add("no-end.png", "PNG, without its end chunk", whole[:-12])
    files.add("trailing.png", "PNG, with bytes behind its end", whole + b"notes\0" * 9)
    files.add("broken-exif.png", "PNG, EXIF that is none",
              png(WIDTH, HEIGHT, 8, 2, [row.tobytes() for row in colours], [(b"eXIf", b"II*\0\xff\xff\xff\xff")]))
    files.add("cut.png", "PNG, cut short", whole[:-40], refused=CUT_SHORT)


def jpegs(files, rgb, grey):
    options = {"quality": 95, "subsampling": 0}
    whole = encoded(rgb, "JPEG", **options)
    files.add("4-2-0.jpg", "JPEG, 4:2:0", encoded(rgb, "JPEG", quality=95, subsampling=2))
    files.add("rgb.jpg", "JPEG, RGB without a change of colours", encoded(rgb, "JPEG", keep_rgb=True, **options))
    files.add("restarts.jpg", "JPEG, with restart markers",
              encoded(rgb, "JPEG", restart_marker_blocks=1, **options))
    files.add("broken-exif.jpg", "JPEG, EXIF that is none", encoded(rgb, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", **options))
    files.add("trailing.jpg", "JPEG, with bytes behind its end", whole + b"notes\0" * 9)
    files.add("fill.jpg", "JPEG, with fill bytes before a marker", whole[:2] + b"\xff\xff\xff" + whole[2:])
    files.add("no-end.jpg", "JPEG, without its end marker", whole[:-2], refused=CUT_SHORT)
    files.add("cut.jpg", "JPEG, cut short", whole[: len(whole) - 30], refused=CUT_SHORT)
    progressive = encoded(rgb, "JPEG", progressive=True, **options)
    files.add("cut-progressive.jpg", "JPEG, progressive, cut short", progressive[: len(progressive) * 2 // 3],
              refused=CUT_SHORT)


def riff(chunks):
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webps(files, rgb):
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(quarters(OPACITIES).astype(np.uint8)))
    lossy, lossless = encoded(rgb, "WEBP", quality=95), encoded(rgb, "WEBP", lossless=True)
    pixels = lossless[20 : 20 + struct.unpack("<I", lossless[16:20])[0]]
    frame = lossy[20 : 20 + struct.unpack("<I", lossy[16:20])[0]]

    def extended(flags, chunks):
        head = struct.pack("<I", flags) + struct.pack("<I", WIDTH - 1)[:3] + struct.pack("<I", HEIGHT - 1)[:3]
        return riff([(b"VP8X", head), *chunks])

    files.add("lossy-alpha.webp", "WebP, lossy with opacity", encoded(rgba, "WEBP", quality=95))
    colours = [list(colour) for colour in COLOURS]
    files.add("exif-flag.webp", "WebP, EXIF flag without EXIF", extended(0x08, [(b"VP8L", pixels)]))
    files.add("xmp-flag.webp", "WebP, XMP flag without XMP", extended(0x04, [(b"VP8L", pixels)]))
    with_exif = extended(0x08, [(b"VP8L", pixels), (b"EXIF", exif(1).tobytes())])
    place = with_exif.index(b"EXIF") + 4
    wrong = with_exif[:place] + struct.pack("<I", 100_000) + with_exif[place + 4 :]
    files.add("exif-size.webp", "WebP, EXIF with a wrong size", wrong, colours=colours)
    files.add("alpha-flag.webp", "WebP, opacity flag without opacity", extended(0x10, [(b"VP8 ", frame)]))
    files.add("trailing.webp", "WebP, with bytes behind its end", lossless + b"notes\0" * 9)
    files.add("cut.webp", "WebP, cut short", lossy[: len(lossy) * 2 // 3], refused=CUT_SHORT)
    files.add("cut-lossless.webp", "WebP, lossless, cut short", lossless[: len(lossless) * 2 // 3], refused=CUT_SHORT)


def others(files, rgb, grey):
    palette = rgb.quantize(4)
    files.add("one-bit.bmp", "BMP, 1 bit", encoded(grey.convert("1"), "BMP"))
    files.add("grey.bmp", "BMP, grey", encoded(grey, "BMP"))
    files.add("rgba.bmp", "BMP, 32 bits", encoded(rgb.convert("RGBA"), "BMP"))
    files.add("cut.bmp", "BMP, cut short", encoded(rgb, "BMP")[:-300], refused=CUT_SHORT)
    files.add("grey.gif", "GIF, grey", encoded(grey, "GIF"))
    files.add("interlaced.gif", "GIF, interlaced", encoded(palette, "GIF", interlace=True))
    gif = encoded(palette, "GIF", interlace=False)
    files.add("cut.gif", "GIF, cut short", gif[: len(gif) - 12], refused=CUT_SHORT)
    files.add("photo.avif", "AVIF", encoded(rgb.resize((64, 64)), "AVIF"),
              refused="the image is AVIF, which is not read; convert it to one of JPEG, PNG, WebP, GIF, BMP, TIFF")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(quarters(COLOURS).astype(np.uint8))
    grey = Image.fromarray(quarters(GREYS).astype(np.uint8))
    files = Files()
    tiffs(files, rgb, grey)
    pngs(files, rgb, grey)
    jpegs(files, rgb, grey)
    webps(files, rgb)
    others(files, rgb, grey)
    files.write()


if __name__ == "__main__":
    main()
