// Screenshots as PNGs of 256 colours, a third of the size: for pictures.js.

import { encodeLabels } from "../../../web/png-writer.js";

const COLOURS = 256;
/** Bits of each channel that are told apart while colours are counted. */
const BITS = 6;
/** How much the number of its pixels counts for a box: less keeps more colours of small things. */
const SIZE_WEIGHT = 0.2;
/** How much of what a pixel lacks is handed on: less makes smaller files with more visible steps. */
const DITHERING = 0.8;

/**
 * Reduces a picture to the colours that median cut gives (Heckbert 1982).
 *
 * @param {Uint8Array} rgba rows from the top
 * @returns {Promise<Buffer>} a PNG file
 */
export async function withPalette(rgba, width, height) {
  const counted = countColours(rgba);
  let boxes = [[...counted.values()]];
  while (boxes.length < COLOURS) {
    const [box, channel] = widest(boxes);
    if (!box) break;
    box.sort((a, b) => a.mean[channel] - b.mean[channel]);
    const middle = halfOf(box);
    boxes = [...boxes.filter((other) => other !== box), box.slice(0, middle), box.slice(middle)];
  }
  const palette = boxes.map(meanOf);
  const png = await encodeLabels(dither(rgba, width, palette), width, height, palette);
  return Buffer.from(await png.arrayBuffer());
}

/** The nearest colour of each pixel, with what it lacks handed on to its neighbours (Floyd, Steinberg 1976). */
function dither(rgba, width, palette) {
  const wanted = Float32Array.from(rgba);
  const samples = new Uint8Array(rgba.length / 4);
  const nearest = new Map();
  for (let i = 0; i < samples.length; i++) {
    const colour = [0, 1, 2].map((channel) => Math.min(255, Math.max(0, Math.round(wanted[4 * i + channel]))));
    const key = (colour[0] << 16) | (colour[1] << 8) | colour[2];
    if (!nearest.has(key)) nearest.set(key, nearestOf(colour, palette));
    samples[i] = nearest.get(key);
    for (const [step, share] of [
      [1, 7],
      [width - 1, 3],
      [width, 5],
      [width + 1, 1],
    ]) {
      const to = 4 * (i + step);
      if (to >= wanted.length) continue;
      for (let channel = 0; channel < 3; channel++) {
        wanted[to + channel] += (DITHERING * share * (colour[channel] - palette[samples[i]][channel])) / 16;
      }
    }
  }
  return samples;
}

function nearestOf(colour, palette) {
  let [best, least] = [0, Infinity];
  palette.forEach((other, index) => {
    const apart = other.reduce((sum, value, channel) => sum + (value - colour[channel]) ** 2, 0);
    if (apart < least) [best, least] = [index, apart];
  });
  return best;
}

function keyAt(rgba, at) {
  const shift = 8 - BITS;
  return ((rgba[at] >> shift) << (2 * BITS)) | ((rgba[at + 1] >> shift) << BITS) | (rgba[at + 2] >> shift);
}

/** Colours by their highest bits: how many pixels, and their mean. */
function countColours(rgba) {
  const counted = new Map();
  for (let at = 0; at < rgba.length; at += 4) {
    const key = keyAt(rgba, at);
    const colour = counted.get(key) ?? { pixels: 0, sum: [0, 0, 0] };
    colour.pixels++;
    for (let channel = 0; channel < 3; channel++) colour.sum[channel] += rgba[at + channel];
    counted.set(key, colour);
  }
  for (const colour of counted.values()) colour.mean = colour.sum.map((sum) => sum / colour.pixels);
  return counted;
}

/** The box in which a channel spreads most, more so where there are many pixels, and the channel. */
function widest(boxes) {
  let best = [null, 0, 0];
  for (const box of boxes) {
    const pixels = box.reduce((sum, colour) => sum + colour.pixels, 0);
    for (let channel = 0; channel < 3 && box.length > 1; channel++) {
      let [least, most] = [Infinity, -Infinity];
      for (const { mean } of box) [least, most] = [Math.min(least, mean[channel]), Math.max(most, mean[channel])];
      const spread = (most - least) * pixels ** SIZE_WEIGHT;
      if (spread > best[2]) best = [box, channel, spread];
    }
  }
  return best;
}

/** Where half of a box's pixels are before. */
function halfOf(box) {
  const all = box.reduce((sum, { pixels }) => sum + pixels, 0);
  let before = 0;
  const middle = box.findIndex(({ pixels }) => (before += pixels) >= all / 2) + 1;
  return Math.min(Math.max(middle, 1), box.length - 1);
}

function meanOf(box) {
  const pixels = box.reduce((sum, colour) => sum + colour.pixels, 0);
  return [0, 1, 2].map((channel) => Math.round(box.reduce((sum, colour) => sum + colour.sum[channel], 0) / pixels));
}
