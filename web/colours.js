// Colours of classes on the picture: told apart by everybody, and seen on the image under them. Pure functions.
//
// The palette of the API is PASCAL VOC's, whose first colours are dark: maroon, navy. On the page each class takes,
// from a set of light and strong colours, the one that is farthest from those of the other classes and from the image
// below, as people with normal vision and with the three kinds of colour blindness see them.

/** Colours for what surrounds the things: greys, so that things stand out. */
const QUIET = ["#98a2a9", "#b6bec4", "#7b858c", "#c9d0d4"];
/** How much less two colours that only the colour-blind take for alike count as alike. */
const BLINDNESS_FACTOR = 1.5;
/** How much less a colour that is like the image counts as alike than one that is like another class's. */
const IMAGE_FACTOR = 1.6;
/** Lightness, chroma and hues of the candidates in OKLCH (Björn Ottosson, 2020). */
const LIGHTNESSES = [0.52, 0.64, 0.74, 0.84, 0.92];
const CHROMAS = [0.12, 0.17, 0.22, 0.27];
const HUES = 24;

/** Protanopia, deuteranopia and tritanopia on linear RGB (Machado, Oliveira, Fernandes 2009, severity 1). */
const VISIONS = [
  [0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998],
  [0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881],
  [1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039],
];

/** Whether a class is by its name what surrounds the others. */
export function isQuiet(name) {
  return /\b(background|backdrop)\b/i.test(name);
}

/**
 * Gives every class a colour of its own.
 *
 * @param {Map<string, string>} known colours by class name, `#rrggbb`, that should stay as they are
 * @param {{name: string, near: number[][]}[]} classes those on the picture, largest first, each with colours of the
 *   image under it and around it, three values from 0 to 255
 * @returns {Map<string, string>} colours by class name
 */
export function assignColours(known, classes) {
  const given = new Map();
  const seen = [];
  const take = (name, colour) => {
    given.set(name, colour);
    seen.push(appearances(channels(colour)));
  };
  const isTaken = (colour) => [...given.values()].includes(colour);
  const fresh = classes.filter(({ name }) => {
    const colour = known.get(name);
    if (colour === undefined || isTaken(colour)) return true;
    take(name, colour);
    return false;
  });
  let quiet = classes.length - fresh.length;
  for (const { name, near } of fresh) {
    if (isQuiet(name)) take(name, QUIET.find((grey) => !isTaken(grey)) ?? QUIET[quiet++ % QUIET.length]);
    else take(name, farthest(seen, near));
  }
  return given;
}

/** Red, green and blue of `#rrggbb`, 0 to 255. */
export function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

/** The candidate that is least like any colour seen so far and the image. */
function farthest(seen, near) {
  const image = near.map(appearances);
  let best = null;
  let bestDistance = -1;
  for (const { colour, looks } of candidates()) {
    let nearest = Infinity;
    for (const other of image) nearest = Math.min(nearest, distance(looks, other) * IMAGE_FACTOR);
    for (const other of seen) nearest = Math.min(nearest, distance(looks, other));
    if (nearest === Infinity) nearest = looks[0][0]; // the first of all, on no image: a light one
    if (nearest > bestDistance) [best, bestDistance] = [colour, nearest];
  }
  return best;
}

/** The distance of two colours for whoever sees the least difference. */
function distance(looks, others) {
  let least = Infinity;
  for (let vision = 0; vision < looks.length; vision++) {
    const [a, b] = [looks[vision], others[vision]];
    const apart = Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
    least = Math.min(least, vision === 0 ? apart : apart * BLINDNESS_FACTOR);
  }
  return least;
}

let knownCandidates = null;

function candidates() {
  knownCandidates ??= LIGHTNESSES.flatMap((lightness) =>
    CHROMAS.flatMap((chroma) =>
      Array.from({ length: HUES }, (_, i) => (2 * Math.PI * i) / HUES)
        .map((hue) => toLinear([lightness, chroma * Math.cos(hue), chroma * Math.sin(hue)]))
        .filter((linear) => linear.every((value) => value >= 0 && value <= 1)),
    ),
  ).map((linear) => ({ colour: hex(linear), looks: looksOf(linear) }));
  return knownCandidates;
}

/** A colour in OKLab for normal vision and for each of `VISIONS`. */
function appearances(colour) {
  return looksOf(colour.map((value) => linearOf(value / 255)));
}

function looksOf(linear) {
  const seen = VISIONS.map((m) => [0, 3, 6].map((i) => m[i] * linear[0] + m[i + 1] * linear[1] + m[i + 2] * linear[2]));
  return [linear, ...seen].map(toOklab);
}

function linearOf(value) {
  return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
}

function hex(linear) {
  const coded = linear.map((value) => (value <= 0.0031308 ? 12.92 * value : 1.055 * value ** (1 / 2.4) - 0.055));
  return `#${coded
    .map((value) =>
      Math.round(255 * value)
        .toString(16)
        .padStart(2, "0"),
    )
    .join("")}`;
}

function toOklab([red, green, blue]) {
  const l = Math.cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue);
  const m = Math.cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue);
  const s = Math.cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function toLinear([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}
