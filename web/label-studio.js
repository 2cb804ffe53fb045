// Label maps as tasks of Label Studio, with the labels as predictions: brush strokes in Label Studio's own run-length
// encoding.

/** Bits of a value, and bits of the lengths of the four kinds of runs, shortest first. */
const WORD_BITS = 8;
const RUN_BITS = [3, 4, 8, 16];
/** Label Studio packs red, green, blue and opacity of a pixel as four values. */
const CHANNELS = 4;

/**
 * @param {{name: string, result: import("./result.js").Result}[]} labelled images with their results
 * @returns {object[]} tasks to import; `data.image` is the file's name, to be replaced by its address in Label Studio
 */
export function labelStudioOf(labelled) {
  return labelled.map(({ name, result }) => {
    const present = result.classes.filter(({ pixels }) => pixels > 0);
    const strokes = present.map((entry) => strokeOf(result, entry));
    return { data: { image: name }, predictions: [{ model_version: result.reply.model, result: strokes }] };
  });
}

function strokeOf({ labels, width, height }, { id, name, confidence }) {
  return {
    id: `class-${id}`,
    from_name: "tag",
    to_name: "image",
    type: "brushlabels",
    original_width: width,
    original_height: height,
    image_rotation: 0,
    score: confidence.mean,
    value: { format: "rle", rle: [...encodeBrush(labels, id)], brushlabels: [name] },
  };
}

/**
 * Packs the pixels of a class as Label Studio's converter does: a header, then runs, each with whether it is longer
 * than one value, the kind of its length, the length less one, and the value.
 *
 * @returns {Uint8Array}
 */
export function encodeBrush(labels, id) {
  const bits = new Bits();
  bits.write(labels.length * CHANNELS, 32);
  bits.write(WORD_BITS - 1, 5);
  for (const size of RUN_BITS) bits.write(size - 1, 4);
  for (let from = 0; from < labels.length;) {
    const isInside = labels[from] === id;
    let to = from + 1;
    while (to < labels.length && (labels[to] === id) === isInside) to++;
    writeRun(bits, (to - from) * CHANNELS, isInside ? 255 : 0);
    from = to;
  }
  return bits.bytes();
}

function writeRun(bits, length, value) {
  for (let rest = length; rest > 0;) {
    const kind = RUN_BITS.findIndex((size) => rest <= 2 ** size);
    const index = kind < 0 ? RUN_BITS.length - 1 : kind;
    const part = Math.min(rest, 2 ** RUN_BITS[index]);
    bits.write(1, 1);
    bits.write(index, 2);
    bits.write(part - 1, RUN_BITS[index]);
    bits.write(value, WORD_BITS);
    rest -= part;
  }
}

/** Bits, the highest of each number first. */
class Bits {
  #bytes = [];
  #last = 0;
  #filled = 0;

  write(value, count) {
    for (let bit = count - 1; bit >= 0; bit--) {
      this.#last = (this.#last << 1) | (Math.floor(value / 2 ** bit) & 1);
      if (++this.#filled < 8) continue;
      this.#bytes.push(this.#last);
      [this.#last, this.#filled] = [0, 0];
    }
  }

  /** All bits, with zeros up to a whole byte; a byte of zeros after whole bytes, as the converter has it. */
  bytes() {
    return Uint8Array.from([...this.#bytes, this.#last << (8 - this.#filled)]);
  }
}
