"""Writes tests/golden/decode: one small file per kind of image, and the pixels that a viewer shows.

Every file shows four flat quarters. The expected colour at the middle of each quarter is what Pillow decodes, turned as
EXIF says, with transparency on white.

Run it from the repository's root, with NumPy and a Pillow that has libtiff: python tools/golden/decode.py
"""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FOLDER = Path("tests/golden/decode")
WIDTH, HEIGHT = 32, 16
# Top left, top right, bottom left, bottom right.
COLOURS = [(200, 40, 30), (30, 180, 60), (40, 60, 200), (220, 210, 50)]
EXIF_ORIENTATION = 0x0112


def quarters(values):
    """An array of HEIGHT x WIDTH whose quarters have four values."""
    values = np.asarray(values)
    grid = values.reshape(2, 2, -1)
    return grid.repeat(HEIGHT // 2, axis=0).repeat(WIDTH // 2, axis=1).squeeze()


def on_white(image):
    """An image as a viewer shows it, as RGB."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def exif(orientation):
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = orientation
    return tags


def ycck_jpeg(inks):
    """A JPEG whose Adobe marker says YCCK, so the same samples count as luma, chroma and black."""
    file = io.BytesIO()
    Image.fromarray(inks, "CMYK").save(file, "JPEG", quality=95, subsampling=0)
    data = bytearray(file.getvalue())
    transform = data.index(b"Adobe") + 11
    assert data[transform] == 0, "Pillow writes CMYK without a transform"
    data[transform] = 2
    return bytes(data)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rgb = Image.fromarray(quarters(COLOURS).astype(np.uint8))
    grey = Image.fromarray(quarters([10, 90, 170, 250]).astype(np.uint8))
    inks = quarters([(10, 200, 220, 20), (200, 10, 150, 60), (220, 180, 0, 0), (5, 5, 180, 30)]).astype(np.uint8)
    rgba = rgb.convert("RGBA")
    rgba.putalpha(Image.fromarray(quarters([255, 128, 64, 0]).astype(np.uint8)))
    palette = rgb.quantize(4)
    other_frame = Image.new("RGB", rgb.size, "black")

    for orientation in range(1, 9):
        rgb.save(FOLDER / f"orientation-{orientation}.jpg", quality=95, subsampling=0, exif=exif(orientation))
    rgb.save(FOLDER / "orientation-6.png", exif=exif(6))
    rgb.save(FOLDER / "orientation-6.webp", lossless=True, exif=exif(6))
    rgb.save(FOLDER / "orientation-6.tif", tiffinfo={274: 6})
    rgb.save(FOLDER / "progressive.jpg", quality=95, progressive=True)
    grey.save(FOLDER / "grey.jpg", quality=95)
    Image.fromarray(inks, "CMYK").save(FOLDER / "cmyk.jpg", quality=95, subsampling=0)
    (FOLDER / "ycck.jpg").write_bytes(ycck_jpeg(inks))
    rgb.save(FOLDER / "rgb.png")
    rgba.save(FOLDER / "rgba.png")
    grey.save(FOLDER / "grey.png")
    grey.convert("1").save(FOLDER / "one-bit.png")
    Image.merge("LA", (grey, rgba.getchannel("A"))).save(FOLDER / "grey-alpha.png")
    palette.save(FOLDER / "palette.png")
    palette.save(FOLDER / "palette-transparent.png", transparency=palette.getpixel((0, 0)))
    Image.fromarray(quarters([2_570, 23_130, 43_690, 64_250]).astype(np.uint16)).save(FOLDER / "grey-16.png")
    rgb.save(FOLDER / "lossy.webp", quality=95)
    rgba.save(FOLDER / "rgba.webp", lossless=True, exact=True)
    rgb.save(FOLDER / "animated.webp", lossless=True, save_all=True, append_images=[other_frame])
    palette.save(FOLDER / "animated.gif", save_all=True, append_images=[other_frame.quantize(4)])
    palette.save(FOLDER / "transparent.gif", transparency=palette.getpixel((0, 0)))
    rgb.save(FOLDER / "rgb.bmp")
    palette.save(FOLDER / "palette.bmp")
    rgb.save(FOLDER / "rgb.tif")
    rgb.save(FOLDER / "lzw.tif", compression="tiff_lzw")
    Image.fromarray(inks, "CMYK").save(FOLDER / "cmyk.tif")

    expected = []
    for path in sorted(FOLDER.iterdir()):
        if path.suffix == ".json":
            continue
        with Image.open(path) as image:
            shown = on_white(image)
        middles = [(shown.width * x // 4, shown.height * y // 4) for y in (1, 3) for x in (1, 3)]
        pixels = [{"at": at, "rgb": shown.getpixel(at)} for at in middles]
        expected.append({"file": path.name, "width": shown.width, "height": shown.height, "pixels": pixels})
    lines = ",\n".join(json.dumps(entry) for entry in expected)
    (FOLDER / "expected.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
