"""Writes tests/golden/corruption: an image and the results of those ImageNet-C corruptions that use no random numbers.

This is plain Python of gaussian_blur, defocus_blur, spatter and jpeg_compression of github.com/hendrycks/robustness
(Hendrycks and Dietterich, ICLR 2019), with NumPy, SciPy and Pillow. OpenCV's functions are written from OpenCV's
documentation. The test has the same generator for the noise of spatter.

Run it from the repository's root, with NumPy, SciPy and Pillow installed: python tools/golden/corruption.py
"""

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import correlate, gaussian_filter, label

FOLDER = Path("tests/golden/corruption")
EIGHT = np.ones((3, 3), dtype=int)


def source() -> np.ndarray:
    """An image of waves, edges and a little noise; no side is a multiple of 8."""
    rows, columns = np.mgrid[0:75, 0:99]
    random = np.random.default_rng(2022)
    image = np.stack([127 + 100 * np.sin(columns / period + rows / 9) for period in (3, 7, 15)], axis=-1)
    image[20:50, 30:70] = (200, 40, 90)
    image[45:70, 60:90] = (250, 250, 245)
    image += random.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


def cut(image: np.ndarray) -> np.ndarray:
    return np.uint8(image.clip(0, 1) * 255)


def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    return cut(gaussian_filter(image / 255.0, (sigma, sigma, 0), mode="nearest", truncate=4.0))


def gaussian_kernel(size: int, sigma: float) -> np.ndarray:
    """The kernel of OpenCV's getGaussianKernel."""
    weights = np.exp(-((np.arange(size) - (size - 1) / 2) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def defocus_blur(image: np.ndarray, radius: int, alias: float) -> np.ndarray:
    reach, size = (8, 3) if radius <= 8 else (radius, 5)
    x, y = np.meshgrid(*[np.arange(-reach, reach + 1)] * 2)
    disk = (x**2 + y**2 <= radius**2).astype(float)
    kernel = gaussian_kernel(size, alias)
    disk = correlate(disk / disk.sum(), np.outer(kernel, kernel), mode="mirror")
    return cut(np.stack([correlate(image[..., c] / 255.0, disk, mode="mirror") for c in range(3)], axis=-1))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def noise(shape: tuple[int, int]) -> np.ndarray:
    """Nearly normal noise: sums of twelve uniform numbers, minus six."""
    state, numbers = 2022, []
    for _ in range(12 * shape[0] * shape[1]):
        state = (1664525 * state + 1013904223) % 2**32
        numbers.append(state / (2**32 - 1))
    return np.asarray(numbers).reshape(*shape, 12).sum(-1) - 6


def canny(image: np.ndarray, low: int, high: int) -> np.ndarray:
    """Edges: local maxima of the gradient's L1 length above `low` that connect to one above `high`."""
    smooth, change = np.array([1, 2, 1]), np.array([-1, 0, 1])
    pixels = image.astype(int)
    across = correlate(pixels, np.outer(smooth, change), mode="nearest")
    down = correlate(pixels, np.outer(change, smooth), mode="nearest")
    length = np.abs(across) + np.abs(down)
    padded = np.pad(length, 1)
    candidates = np.zeros(image.shape, bool)
    for y, x in np.argwhere(length > low):
        here, near = length[y, x], padded[y : y + 3, x : x + 3]
        run, rise = abs(across[y, x]), abs(down[y, x])
        if rise < np.tan(np.pi / 8) * run:
            keep = here > near[1, 0] and here >= near[1, 2]
        elif rise > np.tan(3 * np.pi / 8) * run:
            keep = here > near[0, 1] and here >= near[2, 1]
        elif (across[y, x] < 0) == (down[y, x] < 0):
            keep = here > near[0, 0] and here > near[2, 2]
        else:
            keep = here > near[0, 2] and here > near[2, 0]
        candidates[y, x] = keep
    groups, _ = label(candidates, EIGHT)
    strong = np.unique(groups[candidates & (length > high)])
    return np.isin(groups, strong[strong > 0])


def chamfer(edges: np.ndarray) -> np.ndarray:
    """The length of the shortest path to an edge, with steps of 1, 1.4 (diagonal) and 2.1969 (a knight's)."""
    distance = np.where(edges, 0.0, np.inf)
    steps = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    costs = {1: 1.0, 2: 1.4, 5: 2.1969}
    while True:
        before = distance.copy()
        padded = np.pad(distance, 2, constant_values=np.inf)
        for dy, dx in steps:
            cost = costs.get(dy * dy + dx * dx)
            if cost is not None:
                shifted = padded[2 + dy : 2 + dy + edges.shape[0], 2 + dx : 2 + dx + edges.shape[1]]
                distance = np.minimum(distance, shifted + cost)
        if np.array_equal(before, distance):
            return distance


def equalize(values: np.ndarray) -> np.ndarray:
    counts = np.bincount(values.ravel(), minlength=256)
    first = np.flatnonzero(counts)[0]
    if counts[first] == values.size:
        return values
    table = counts.cumsum() - counts[first]
    return np.rint(table * 255.0 / (values.size - counts[first])).clip(0, 255).astype(np.uint8)[values]


def blur(values: np.ndarray) -> np.ndarray:
    return correlate(values.astype(float), np.ones((3, 3)), mode="mirror") / 9


def spatter(image: np.ndarray, c: tuple[float, float, float, float, float, int]) -> np.ndarray:
    x = image / 255.0
    liquid = gaussian_filter(c[0] + c[1] * noise(x.shape[:2]), c[2], mode="nearest", truncate=4.0)
    liquid[liquid < c[3]] = 0
    if c[5] == 0:
        liquid = (liquid * 255).astype(np.uint8)
        near = np.minimum(chamfer(canny(liquid, 50, 150)), 20)
        near = equalize(blur(near).astype(np.uint8))
        relief = correlate(near.astype(int), np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror").clip(0, 255)
        light = liquid * np.rint(blur(relief))
        light = light / light.max() * c[4]
        return cut(x + light[..., None] * np.array([175, 238, 238]) / 255)
    mud = gaussian_filter((liquid > c[3]).astype(float), c[4], mode="nearest", truncate=4.0)
    mud[mud < 0.8] = 0
    return cut(x * (1 - mud[..., None]) + mud[..., None] * np.array([63, 42, 20]) / 255)


SPATTER = (
    (0.65, 0.3, 4, 0.69, 0.6, 0),
    (0.65, 0.3, 3, 0.68, 0.6, 0),
    (0.65, 0.3, 2, 0.68, 0.5, 0),
    (0.65, 0.3, 1, 0.65, 1.5, 1),
    (0.67, 0.4, 1, 0.65, 1.5, 1),
)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    image = source()
    made = {"source": image, "gaussian-blur-1": gaussian_blur(image, 1), "gaussian-blur-5": gaussian_blur(image, 6)}
    for severity, constants in {1: (3, 0.1), 3: (6, 0.5), 5: (10, 0.5)}.items():
        made[f"defocus-blur-{severity}"] = defocus_blur(image, *constants)
    for severity, quality in enumerate((25, 18, 15, 10, 7), 1):
        made[f"jpeg-{severity}"] = jpeg(image, quality)
    for severity, constants in enumerate(SPATTER, 1):
        made[f"spatter-{severity}"] = spatter(image, constants)
    for name, pixels in made.items():
        Image.fromarray(pixels).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
