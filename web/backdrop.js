// The image under each class and around it: the colours against which the class must be seen.

/** Sides of the grid of samples. */
const SAMPLES = 64;
/** A class with at least this share of the image surrounds the others. */
const SURROUNDING_SHARE = 0.15;

/**
 * @param {HTMLImageElement} image a loaded image
 * @param {import("./result.js").Result} result of this image
 * @returns {Map<number, number[][]>} by class id, red, green and blue, 0 to 255: the mean under the class, then the
 *   means under the classes that surround it
 */
export function coloursNear(image, { labels, width, height }) {
  const canvas = new OffscreenCanvas(SAMPLES, SAMPLES);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, SAMPLES, SAMPLES);
  const { data } = context.getImageData(0, 0, SAMPLES, SAMPLES);
  const sums = new Map();
  for (let row = 0, at = 0; row < SAMPLES; row++) {
    const y = Math.floor(((row + 0.5) / SAMPLES) * height);
    for (let column = 0; column < SAMPLES; column++, at += 4) {
      const label = labels[y * width + Math.floor(((column + 0.5) / SAMPLES) * width)];
      const sum = sums.get(label) ?? [0, 0, 0, 0];
      for (let channel = 0; channel < 3; channel++) sum[channel] += data[at + channel];
      sum[3]++;
      sums.set(label, sum);
    }
  }
  const means = new Map();
  const surrounding = [];
  for (const [label, [red, green, blue, number]] of sums) {
    means.set(
      label,
      [red, green, blue].map((sum) => sum / number),
    );
    if (number >= SURROUNDING_SHARE * SAMPLES * SAMPLES) surrounding.push(label);
  }
  const around = (label) => surrounding.filter((other) => other !== label).map((other) => means.get(other));
  return new Map([...means].map(([label, mean]) => [label, [mean, ...around(label)]]));
}
