// Whether pixels are those of a photograph: a guess, for a hint. A drawing has areas of one colour; in a photograph
// hardly any two neighbours are equal.

/** A side of the square in the middle of the image that is looked at. */
const SIDE = 256;
/**
 * Neighbours that differ by at most this in the sum of three channels count as equal: JPEG changes flat areas a little.
 */
const EQUAL = 3;
/** A photograph has at most this share of equal neighbours. */
const PHOTOGRAPH_SHARE = 0.45;

/** @param {ImageBitmap | HTMLImageElement} image a loaded image of this size */
export function looksLikePhotograph(image, width, height) {
  const [columns, rows] = [Math.min(SIDE, width), Math.min(SIDE, height)];
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, (columns - width) / 2, (rows - height) / 2);
  return shareOfEqualNeighbours(context.getImageData(0, 0, columns, rows).data, columns) < PHOTOGRAPH_SHARE;
}

/** The share of pixels whose right neighbour is equal, of RGBA bytes. */
export function shareOfEqualNeighbours(data, columns) {
  let equal = 0;
  let pairs = 0;
  for (let at = 0; at + 8 <= data.length; at += 4) {
    if ((at / 4 + 1) % columns === 0) continue;
    const difference =
      Math.abs(data[at] - data[at + 4]) + Math.abs(data[at + 1] - data[at + 5]) + Math.abs(data[at + 2] - data[at + 6]);
    pairs++;
    if (difference <= EQUAL) equal++;
  }
  return pairs === 0 ? 1 : equal / pairs;
}
