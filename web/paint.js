// Draws a result into pixels: classes as areas or outlines, one value per pixel as a heat map. Pure functions on
// arrays.
//
// Colours are little-endian RGBA words, as canvases hold them.

import { channels } from "./colours.js";

/** How opaque the areas of quiet classes are beside the others. */
const QUIET_SHARE = 0.22;
/** From this position of the slider on, everything turns opaque, so that its end is the overlay alone. */
const ALL_OPAQUE_FROM = 0.8;

/** Anchors of matplotlib's colour map "inferno" (CC0): dark to light, in order for the colour-blind, too. */
const INFERNO = [
  "#000004",
  "#1b0c41",
  "#4a0c6b",
  "#781c6d",
  "#a52c60",
  "#cf4446",
  "#ed6925",
  "#fb9b06",
  "#f7d13d",
  "#fcffa4",
];

/** A colour with an opacity from 0 to 1 as a word. */
function word([red, green, blue], opacity) {
  return ((Math.round(255 * opacity) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/**
 * The words of each class for areas and for edges.
 *
 * @param {{colour: string, isShown: boolean, isQuiet: boolean}[]} classes by id
 * @param {number} unlabelled the value of pixels without a class, larger than every id
 * @param {number} strength from 0, the image alone, to 1, the overlay alone
 */
function wordsOf(classes, unlabelled, strength) {
  const rest = Math.max(0, (strength - ALL_OPAQUE_FROM) / (1 - ALL_OPAQUE_FROM));
  const quiet = strength * QUIET_SHARE * (1 - rest) + strength * rest;
  const [areas, edges] = [new Uint32Array(unlabelled + 1), new Uint32Array(unlabelled + 1)];
  classes.forEach(({ colour, isShown, isQuiet }, id) => {
    if (!isShown) return;
    areas[id] = word(channels(colour), isQuiet ? quiet : strength);
    edges[id] = isQuiet ? areas[id] : word(channels(colour), Math.min(1, 1.8 * strength));
  });
  return { areas, edges };
}

/**
 * Paints a label map.
 *
 * @param {Uint32Array} pixels what to paint, `columns` wide
 * @param {import("./result.js").Result} map the label map with its confidence; of one that is larger than the canvas,
 *   every `step`-th pixel is taken
 * @param {{classes: object[], strength: number, isOutline: boolean, isFaded: boolean, edge: number}} look `edge` is the
 *   width of outlines in pixels of the canvas
 */
export function paintLabels(pixels, columns, step, map, look) {
  const { labels, confidence, width, height, unlabelled } = map;
  const { areas, edges } = wordsOf(look.classes, unlabelled, look.strength);
  const inside = look.isOutline ? new Uint32Array(areas.length) : areas;
  const reach = look.edge * step;
  for (let y = 0, row = 0; y < height; y += step, row++) {
    const up = y >= reach ? -reach * width : 0;
    const down = y + reach < height ? reach * width : 0;
    let to = row * columns;
    for (let x = 0, at = y * width; x < width; x += step, at += step, to++) {
      const label = labels[at];
      const left = x >= reach ? at - reach : at;
      const right = x + reach < width ? at + reach : at;
      const isEdge =
        labels[left] !== label || labels[right] !== label || labels[at + up] !== label || labels[at + down] !== label;
      const colour = isEdge ? edges[label] : inside[label];
      pixels[to] = look.isFaded ? faded(colour, confidence[at]) : colour;
    }
  }
}

/** A word with its opacity times a confidence of 0 to 255. */
function faded(colour, confidence) {
  return ((Math.round(((colour >>> 24) * confidence) / 255) << 24) | (colour & 0xffffff)) >>> 0;
}

/** Paints values of 0 to 255 as a heat map. Low values let more of the image through. */
export function paintHeat(pixels, columns, step, { values, width, height }, strength) {
  const table = heatTable(strength);
  for (let y = 0, row = 0; y < height; y += step, row++) {
    let to = row * columns;
    for (let x = 0, at = y * width; x < width; x += step, at += step, to++) pixels[to] = table[values[at]];
  }
}

/** Heat maps cover more of the image than areas do: without a dark ground nothing glows. */
function heatTable(strength) {
  const most = Math.min(1, 1.3 * strength);
  return Uint32Array.from({ length: 256 }, (_, value) => {
    const opacity = strength >= 1 ? 1 : most * (0.8 + 0.2 * (value / 255));
    return word(heatColour(value / 255), opacity);
  });
}

/** Red, green and blue of a share from 0 to 1. */
export function heatColour(share) {
  const place = share * (INFERNO.length - 1);
  const from = Math.min(Math.floor(place), INFERNO.length - 2);
  const [low, high] = [channels(INFERNO[from]), channels(INFERNO[from + 1])];
  return low.map((value, i) => Math.round(value + (place - from) * (high[i] - value)));
}
