// Asks the server for label maps. An image is sent once, by POST /v1/images; class lists then ask about its id. Of
// several questions the last one wins: an older one is aborted, and its answer is never shown.

import { isAbort, isOfImage, postBatch, postImage, postJson, RequestProblem } from "./api.js";
import { Result } from "./result.js";
import { megabytes } from "./text.js";

/** The fields of a request that decide an image's features: POST /v1/images takes them too. */
const LOOK_FIELDS = [
  "model",
  "attention",
  "key_smoothing",
  "short_side",
  "scales",
  "resize",
  "window",
  "orientation",
  "protocol",
];

/** Problem types after which the page sends the image itself instead of its id, or sends it anew. */
const IMAGE_NOT_HELD = "/problems/image-not-held";
const IMAGE_TOO_LARGE_TO_HOLD = "/problems/image-too-large-to-hold";

/**
 * An image that the user has given: its bytes, file name and size in pixels, the address of its file if it is an
 * example, and what the user corrected on it.
 */
export class GivenImage {
  /** What a region is not, said by one of its pixels: `{ x, y, name }`. */
  corrections = [];
  /**
   * The promise of `{ id, timings }`, null before the image is sent; its id is null if the server has no room for it.
   */
  #holding = null;
  #sending = null;

  constructor({ blob, name, url, width, height, exampleUrl = null, isPhotograph = false }) {
    Object.assign(this, { blob, name, url, width, height, exampleUrl, isPhotograph });
  }

  /** Sends the image, unless it is held or on its way. Returns its id, and the timings to the one who sent it. */
  async hold(fields) {
    if (this.#holding) return { id: (await this.#holding).id, timings: {} };
    this.#sending = new AbortController();
    const sending = this.#send(fields, this.#sending.signal);
    this.#holding = sending;
    try {
      return await sending;
    } catch (error) {
      if (this.#holding === sending) this.#holding = null;
      throw error;
    } finally {
      this.#sending = null;
    }
  }

  async #send(fields, signal) {
    const look = Object.fromEntries(LOOK_FIELDS.filter((name) => name in fields).map((name) => [name, fields[name]]));
    try {
      const { image_id, timings } = await postImage("v1/images", this, look, { signal });
      return { id: image_id, timings };
    } catch (problem) {
      if (problem.type !== IMAGE_TOO_LARGE_TO_HOLD) throw problem;
      return { id: null, timings: {} };
    }
  }

  /** Whether the image was sent, so that its id may stand for it. */
  get isSent() {
    return this.#holding !== null;
  }

  /** Notes that the server holds the image no more. */
  forget() {
    this.#holding = null;
  }

  /** Stops sending the image. */
  stopSending() {
    this.#sending?.abort();
  }
}

/**
 * Labels an image.
 *
 * @param {GivenImage} image
 * @param {object} fields the request's fields without the image
 * @param {AbortSignal} signal
 * @param {(phase: "sending" | "labelling") => void} enter told which part begins
 * @returns {Promise<object>} the reply's body; its timings count the sending of the image, too
 * @throws {RequestProblem | DOMException}
 */
export async function segment(image, fields, signal, enter = () => {}) {
  for (const isRepeated of [false, true]) {
    enter("sending");
    const { id, timings } = await unlessAborted(image.hold(fields), signal);
    enter("labelling");
    try {
      const reply = id
        ? await postJson("v1/segment", { ...fields, image_id: id }, { signal })
        : await postImage("v1/segment", image, fields, { signal });
      return { ...reply, timings: added(reply.timings, timings) };
    } catch (problem) {
      if (isRepeated || problem.type !== IMAGE_NOT_HELD) throw problem;
      image.forget();
    }
  }
}

/** A promise's value. Rejects as soon as the signal is aborted, while the promise goes on. */
function unlessAborted(promise, signal) {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    promise.then(resolve, reject);
  });
}

/** The seconds of each stage, summed over both requests. */
function added(timings, before) {
  return Object.fromEntries(Object.entries(timings).map(([stage, seconds]) => [stage, seconds + (before[stage] ?? 0)]));
}

/**
 * Labels an image and applies the user's corrections of it.
 *
 * @param {number} maxBytes the longest body that the server reads
 * @returns {Promise<Result>}
 */
export async function label(image, fields, maxBytes, signal, enter) {
  if (image.blob.size > maxBytes) {
    // The page checks this itself: a server may close the connection before its answer to a long body can be read.
    const detail = `It has ${megabytes(image.blob.size)}; limits.max_request_bytes is ${megabytes(maxBytes)}.`;
    throw new RequestProblem({
      title: "The image is too large for this server",
      detail,
      type: "/problems/request-too-large",
      status: 413,
    });
  }
  const started = performance.now();
  const reply = await segment(image, fields, signal, enter);
  const result = await Result.read(reply, (performance.now() - started) / 1000);
  for (const correction of image.corrections) await applyCorrection(image, fields, result, correction, signal);
  signal.throwIfAborted();
  return result;
}

/** More bytes than a part of a form has beside its file. */
const PART_BYTES = 1024;

/**
 * Labels images and applies the user's corrections of them. Those that were never sent go in batches.
 *
 * @param {GivenImage[]} images
 * @param {object} fields the request's fields without the images
 * @param {{max_request_bytes: number, max_batch_images: number}} limits
 * @param {(done: number) => void} tell told how many images are done
 * @returns {Promise<{image: GivenImage, result: Result | null, problem: RequestProblem | null}[]>} in the order of the
 *   images; of one that the server refuses, the problem
 * @throws {RequestProblem} if no image can be labelled, or none any more
 */
export async function labelAll(images, fields, limits, tell) {
  const { signal } = new AbortController();
  const answers = new Map();
  const keep = (image, result, problem = null) => tell(answers.set(image, { image, result, problem }).size);
  const refuse = (image, problem) => {
    if (!isOfImage(problem)) throw problem;
    keep(image, null, problem);
  };
  tell(0);
  for (const batch of batches(
    images.filter(({ isSent }) => !isSent),
    fields,
    limits,
  )) {
    for await (const { index, result: reply, problem } of postBatch("v1/segment/batch", batch, fields, { signal })) {
      const image = batch[index];
      if (problem) {
        refuse(image, problem);
        continue;
      }
      const result = await Result.read(reply, 0);
      for (const correction of image.corrections) await applyCorrection(image, fields, result, correction, signal);
      keep(image, result);
    }
  }
  for (const image of images) {
    if (answers.has(image)) continue;
    try {
      keep(image, await label(image, fields, limits.max_request_bytes, signal));
    } catch (problem) {
      refuse(image, problem);
    }
  }
  const inOrder = images.map((image) => answers.get(image));
  if (inOrder.every(({ result }) => result === null)) throw inOrder[0].problem;
  return inOrder;
}

/** Divides images into batches that the server takes. One alone is no batch. */
function batches(images, fields, limits) {
  const room = limits.max_request_bytes - PART_BYTES - new TextEncoder().encode(JSON.stringify(fields)).length;
  const found = [[]];
  let bytes = 0;
  for (const image of images) {
    const more = image.blob.size + PART_BYTES;
    if (found.at(-1).length === limits.max_batch_images || bytes + more > room) {
      found.push([]);
      bytes = 0;
    }
    found.at(-1).push(image);
    bytes += more;
  }
  return found.filter(({ length }) => length > 1);
}

/** Gives a region what the model says without the class that the user has refused there. */
async function applyCorrection(image, fields, result, { x, y, name }, signal) {
  const refused = result.classAt(x, y);
  if (refused?.name !== name) return;
  const classes = fields.classes?.filter((entry) => (entry.name ?? entry) !== name) ?? [];
  if (classes.length === 0) return result.correct(x, y, null);
  const { output, ...rest } = fields;
  const without = { ...rest, classes, output: { label_map: "png", confidence_map: true } };
  result.correct(x, y, await Result.read(await segment(image, without, signal), 0));
}

/** Asks one question at a time, after a pause in which a newer one takes its place. */
export class Labelling {
  #handlers;
  #timer;
  #running = null;

  /**
   * @param {{started: () => void, entered: (phase: string) => void, shown: (result: Result) => void,
   *   failed: (error: Error) => void, ended: () => void}} handlers
   */
  constructor(handlers) {
    this.#handlers = handlers;
  }

  get isRunning() {
    return this.#running !== null;
  }

  /**
   * Asks `question`, a function of a signal and of `enter` that gives a promise of a `Result`, once the pause is over.
   */
  ask(question, pauseMilliseconds = 0) {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#running = new AbortController();
    const { signal } = this.#running;
    this.#handlers.started();
    this.#timer = setTimeout(() => this.#run(question, signal), pauseMilliseconds);
  }

  /** Drops the question that is waiting or running. */
  cancel() {
    clearTimeout(this.#timer);
    if (!this.#running) return;
    this.#running.abort();
    this.#running = null;
    this.#handlers.ended();
  }

  async #run(question, signal) {
    try {
      const result = await question(signal, (phase) => signal.aborted || this.#handlers.entered(phase));
      if (!signal.aborted) this.#handlers.shown(result);
    } catch (error) {
      if (!signal.aborted && !isAbort(error)) this.#handlers.failed(error);
    } finally {
      if (!signal.aborted) {
        this.#running = null;
        this.#handlers.ended();
      }
    }
  }
}
