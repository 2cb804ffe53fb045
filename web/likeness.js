// How like every place of an image is to one of its points: POST /v1/images/{id}/similar.

import { postJson, RequestProblem } from "./api.js";
import { decodePng } from "./png.js";
import { fromBase64 } from "./text.js";

/** The fields of a request for labels that this one takes, too. */
const FIELDS = ["model", "attention", "short_side", "scales", "window", "resize", "orientation", "protocol"];

/**
 * @param {import("./labelling.js").GivenImage} image
 * @param {object} fields those of the request for labels, so that the same features are used
 * @returns {Promise<object>} `{ width, height, values, at }`: a grid of values from 0 to 255, and the cosine at a pixel
 */
export async function likenessTo(image, fields, x, y) {
  const look = Object.fromEntries(FIELDS.filter((name) => name in fields).map((name) => [name, fields[name]]));
  const { id } = await image.hold(fields);
  if (!id) throw new RequestProblem({ title: "The server has no room to hold this image", detail: "Make it smaller." });
  const { columns, rows, map, range } = await postJson(`v1/images/${id}/similar`, { x, y, ...look });
  const { samples } = await decodePng(fromBase64(map.data));
  const at = (x, y, { width, height }) => {
    const cell = Math.floor((y / height) * rows) * columns + Math.floor((x / width) * columns);
    return range[0] + (samples[cell] / 255) * (range[1] - range[0]);
  };
  return { width: columns, height: rows, values: samples, at };
}
