// One answer of POST /v1/segment, decoded: labels, confidences and statistics, with the user's corrections.
//
// Nothing here knows where the answer comes from or how it is drawn.

import { decodePng } from "./png.js";
import { findRegions, regionMask } from "./regions.js";
import { fromBase64 } from "./text.js";

export class Result {
  /** @type {object} the reply's body, without its maps */
  reply;
  width;
  height;
  /** Class id per pixel, rows from the top. */
  labels;
  /** Probability of the pixel's own label times 255. */
  confidence;
  /** The pixel value that means no class. */
  unlabelled;
  /** The reply's classes by id; `pixels` and `fraction` count corrections, too. */
  classes;
  /** Probability times 255 per pixel, by class name, of the classes that were asked for. */
  probabilities = new Map();
  /** The time from sending the request to reading the reply. */
  roundTripSeconds;
  #regions = null;

  /** Decodes a reply that has a PNG label map and a confidence map. */
  static async read(reply, roundTripSeconds) {
    const { label_map, confidence_map, probability_maps = [], ...rest } = reply;
    const maps = [label_map, confidence_map, ...probability_maps].map(({ data }) => decodePng(fromBase64(data)));
    const [labels, confidence, ...probabilities] = (await Promise.all(maps)).map(({ samples }) => samples);
    const result = new Result();
    Object.assign(result, {
      reply: rest,
      labels,
      confidence,
      roundTripSeconds,
      width: reply.width,
      height: reply.height,
    });
    result.unlabelled = labels instanceof Uint16Array ? 65535 : 255;
    result.classes = reply.classes;
    probability_maps.forEach(({ name }, i) => result.probabilities.set(name, probabilities[i]));
    return result;
  }

  /** The class at a pixel, or null. */
  classAt(x, y) {
    return this.classes[this.labels[y * this.width + x]] ?? null;
  }

  /** The probability of a pixel's own label, or of the named class if its map was asked for. */
  probabilityAt(x, y, name = null) {
    return (this.probabilities.get(name) ?? this.confidence)[y * this.width + x] / 255;
  }

  classNamed(name) {
    return this.classes.find((entry) => entry.name === name) ?? null;
  }

  /** The regions of classes, largest first, as `findRegions` has them. */
  regions() {
    this.#regions ??= findRegions(this.labels, this.width, this.height).filter(
      ({ label }) => label !== this.unlabelled,
    );
    return this.#regions;
  }

  /** The share of pixels without a class. */
  unlabelledFraction() {
    return Math.max(0, 1 - this.classes.reduce((sum, { fraction }) => sum + fraction, 0));
  }

  /**
   * Gives the region around a pixel what another result has there.
   *
   * @param {number} x
   * @param {number} y
   * @param {Result | null} other of the same image without the region's class; null leaves the region unlabelled
   */
  correct(x, y, other) {
    const mask = regionMask(this.labels, this.width, x, y);
    const ids = other ? other.classes.map(({ name }) => this.classNamed(name)?.id ?? this.unlabelled) : [];
    for (let at = 0; at < mask.length; at++) {
      if (!mask[at]) continue;
      this.labels[at] = other ? (ids[other.labels[at]] ?? this.unlabelled) : this.unlabelled;
      this.confidence[at] = other ? other.confidence[at] : 0;
    }
    this.#regions = null;
    this.#count();
  }

  /** Counts the pixels of every class anew. */
  #count() {
    const [pixels, sums] = [new Uint32Array(this.unlabelled + 1), new Float64Array(this.unlabelled + 1)];
    for (let at = 0; at < this.labels.length; at++) {
      pixels[this.labels[at]]++;
      sums[this.labels[at]] += this.confidence[at];
    }
    this.classes = this.classes.map((entry) => {
      const own = pixels[entry.id];
      const mean = own === 0 ? null : sums[entry.id] / own / 255;
      return { ...entry, pixels: own, fraction: own / this.labels.length, confidence: { ...entry.confidence, mean } };
    });
  }
}
