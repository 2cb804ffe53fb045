// Requests to the API of the server that sent the page. All addresses are relative, so a path before them, as proxies
// have it, makes no difference.

import { count } from "./text.js";

/** Where the browser keeps the API key: until the tab is closed, and for this server alone. */
const KEY_ITEM = "maskclip-key";

/** Tells when an answer refuses the key, or the lack of one: the event "refused" with `{ key, status }`. */
export const keys = new EventTarget();

export function currentKey() {
  return sessionStorage.getItem(KEY_ITEM) ?? "";
}

export function keepKey(key) {
  sessionStorage.setItem(KEY_ITEM, key);
}

/**
 * An answer that is no result. `message` is for people; `type`, `limit` and `path` are the server's, if it said any;
 * `status` is 0 if there was no answer.
 */
export class RequestProblem extends Error {
  constructor({ title, detail = "", type, status = 0, limit, path, retrySeconds = 0 }) {
    super(detail);
    Object.assign(this, { title, type, status, limit, path, retrySeconds });
  }
}

/** Whether an error only says that nobody waits for the answer any more. */
export function isAbort(error) {
  return error.name === "AbortError";
}

/**
 * Sends a request and returns the response, which is a good one.
 *
 * @throws {RequestProblem} if the server refuses or does not answer; an `AbortError` if the signal is aborted
 */
export async function send(url, { headers, ...options } = {}) {
  const key = currentKey();
  const all = key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
  let response;
  try {
    response = await fetch(url, { ...options, headers: all });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new RequestProblem({ title: "The server did not answer" });
  }
  if (response.ok) return response;
  const problem = await problemOf(response);
  const { status } = response;
  if (status === 401 || status === 403) keys.dispatchEvent(new CustomEvent("refused", { detail: { key, status } }));
  throw problem;
}

export async function getJson(url, options) {
  return (await send(url, options)).json();
}

export async function postJson(url, body, options) {
  const headers = { "Content-Type": "application/json" };
  return (await send(url, { method: "POST", headers, body: JSON.stringify(body), ...options })).json();
}

/** Sends an image in a form with the request's other fields. */
export async function postImage(url, image, fields, options) {
  const form = new FormData();
  form.append("image", image.blob, image.name);
  form.append("request", JSON.stringify(fields));
  return (await send(url, { method: "POST", body: form, ...options })).json();
}

/**
 * Sends images in one form with the fields of all. Gives a line of the answer for each, in the order in which they are
 * done: `{ index, result }`, or `{ index, problem }` of an image that the server refuses.
 *
 * @throws {RequestProblem} if the server refuses all of them
 */
export async function* postBatch(url, images, fields, options) {
  const form = new FormData();
  for (const image of images) form.append("image", image.blob, image.name);
  form.append("request", JSON.stringify(fields));
  const { body } = await send(url, { method: "POST", body: form, ...options });
  for await (const line of lines(body)) {
    const { index, result, problem, status, retry_after_seconds } = JSON.parse(line);
    yield problem ? { index, problem: toProblem(problem, status, retry_after_seconds ?? 0) } : { index, result };
  }
}

/** The lines of a stream of bytes. */
async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = value.split("\n");
    parts[0] = rest + parts[0];
    rest = parts.pop();
    yield* parts;
  }
  if (rest) yield rest;
}

/** Reads problem details (RFC 9457). Of any other page, such as a proxy's, only the status is shown. */
async function problemOf(response) {
  const details = await response.json().catch(() => ({}));
  return toProblem(details, response.status, Number(response.headers.get("Retry-After")) || 0);
}

function toProblem({ type, title, detail, instance, limit, path }, status, retrySeconds) {
  const record = !detail && instance ? `The server’s log has the details under ${instance}.` : "";
  const named = title ?? `The server answered ${status}`;
  return new RequestProblem({ title: named, detail: detail ?? record, type, status, limit, path, retrySeconds });
}

/** Whether a problem is one of the image that was sent, and not of the server, the key or the line to it. */
export function isOfImage({ status }) {
  return [400, 413, 415, 422].includes(status);
}

/** Whether the same request may have another answer later. */
export function isPassing({ status = 0 }) {
  return status === 0 || status === 408 || status === 429 || status >= 500;
}

/** What a user can do about a problem; nothing if that is known to its detail alone. */
export function adviceOn({ type, status, limit, path, retrySeconds }) {
  const wait = retrySeconds > 0 ? ` in ${count(retrySeconds, "second", "seconds")}` : "";
  switch (type) {
    case "/problems/unauthorized":
    case "/problems/forbidden":
      return "Ask whoever runs this server for a key, and enter it under “API key”.";
    case "/problems/overloaded":
    case "/problems/quota":
    case "/problems/unavailable":
    case "/problems/model-unavailable":
    case "/problems/store-busy":
    case "/problems/shared-state-unavailable":
      return `Try again${wait || " in a moment"}.`;
    case "/problems/deadline-exceeded":
      return "Ask for fewer classes, a smaller short side, no refinement, or another model.";
    case "/problems/image-too-large":
      return `Make the image smaller: at most ${limit ? (limit.value / 1e6).toFixed(1) : "so many"} million pixels.`;
    case "/problems/request-too-large":
      return "Make the image smaller, or save it as JPEG.";
    case "/problems/undecodable-image":
      return "Open the image in another program and save it as PNG or JPEG.";
    case "/problems/vocabulary-not-found":
      return "Choose another vocabulary.";
    case "/problems/vocabulary-read-only":
      return "Keep the classes under another name.";
    case "/problems/unsupported-by-model":
      return "Change this setting, or take another model.";
    case "/problems/invalid-request":
      return path?.startsWith("classes") ? "Change or remove this class." : "";
    default:
      return status === 0 ? "Look whether the server runs and this device is connected. Then try again." : "";
  }
}
