// Shows one reply of POST /v1/segment: the label map over the image, the probe, the legend, warnings and timings.
//
// app.js sends the request; nothing here knows of it.

import { decodePng } from "./png.js";

/** The most pixels of the overlay's canvas: browsers on phones refuse canvases of about this size and more. */
const MAX_OVERLAY_PIXELS = 8_000_000;
/** Up to this many classes without pixels are listed openly; more are folded away. */
const ABSENT_LISTED = 4;

const element = (id) => document.getElementById(id);

/** The reply on the page. The page has one; `show` and `clear` change its content. */
export class ResultView {
  #reply = null;
  /** Class id per pixel, rows from the top. */
  #labels = null;
  /** Probability times 255 per pixel. */
  #confidence = null;
  /** The pixel value that means no class. */
  #unlabelled = 255;
  /** Ids of the classes that the user switched off in the legend. */
  #hidden = new Set();
  /** The id of the class under the pointer in the legend, or null. */
  #highlighted = null;
  #paintQueued = false;
  /** The pixel under the probe, `[x, y]`, or null. */
  #cursor = null;

  constructor() {
    element("opacity").addEventListener("input", () => this.#applyOpacity());
    element("fade").addEventListener("change", () => this.#queuePaint());
    element("show-all").addEventListener("click", () => this.#setAll(true));
    element("hide-all").addEventListener("click", () => this.#setAll(false));
    element("save-label-map").addEventListener("click", () => this.#saveLabelMap());
    element("save-overlay").addEventListener("click", () => this.#saveOverlay());
    this.#listenToLegend();
    this.#listenToPicture();
    this.#applyOpacity();
  }

  /**
   * Shows a reply that has a PNG label map and a confidence map.
   *
   * @param {object} reply the body of POST /v1/segment
   * @param {number} roundTripSeconds the time from sending the request to reading the reply
   * @param {AbortSignal} signal aborted when the user has chosen another image or sent another request
   */
  async show(reply, roundTripSeconds, signal) {
    const labelMap = await decodePng(fromBase64(reply.label_map.data));
    const confidence = await decodePng(fromBase64(reply.confidence_map.data));
    signal.throwIfAborted();
    this.#reply = reply;
    this.#labels = labelMap.samples;
    this.#confidence = confidence.samples;
    this.#unlabelled = labelMap.samples instanceof Uint16Array ? 65535 : 255;
    this.#hidden.clear();
    this.#highlighted = null;
    this.#cursor = null;
    this.#fillLegend();
    this.#fillWarnings();
    element("timings").textContent = describeTimings(reply, roundTripSeconds);
    element("status").textContent = describeResult(reply.classes);
    element("result").hidden = false;
    this.#paint();
  }

  /** Removes the reply from the page, for another image. */
  clear() {
    this.#reply = null;
    this.#labels = null;
    this.#confidence = null;
    element("overlay").width = 0;
    element("result").hidden = true;
    element("status").textContent = "";
    this.#hideProbe();
  }

  // --- overlay ---

  #applyOpacity() {
    element("overlay").style.opacity = element("opacity").value / 100;
  }

  #queuePaint() {
    if (this.#paintQueued) return;
    this.#paintQueued = true;
    requestAnimationFrame(() => {
      this.#paintQueued = false;
      if (this.#reply) this.#paint();
    });
  }

  /** Draws the label map. Of an image that is larger than a canvas may be, draws every n-th pixel. */
  #paint() {
    const { width, height } = this.#reply;
    const step = Math.ceil(Math.sqrt((width * height) / MAX_OVERLAY_PIXELS));
    const canvas = element("overlay");
    canvas.width = Math.ceil(width / step);
    canvas.height = Math.ceil(height / step);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = this.#colourTable();
    const fade = element("fade").checked;
    for (let y = 0, to = 0; y < height; y += step) {
      for (let x = 0; x < width; x += step, to++) {
        const from = y * width + x;
        const colour = colours[this.#labels[from]];
        pixels[to] = fade ? withAlpha(colour, ((colour >>> 24) * this.#confidence[from]) / 255) : colour;
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** The colour of each pixel value as a little-endian RGBA word; 0 (transparent) for classes that are not shown. */
  #colourTable() {
    const table = new Uint32Array(this.#unlabelled + 1);
    for (const { id, color } of this.#reply.classes) {
      const shown = this.#highlighted === null ? !this.#hidden.has(id) : this.#highlighted === id;
      if (!shown) continue;
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
      table[id] = withAlpha((blue << 16) | (green << 8) | red, 255);
    }
    return table;
  }

  // --- probe ---

  #listenToPicture() {
    const picture = element("picture");
    const probeAt = (event) => {
      if (!this.#reply) return;
      const box = picture.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.#reply.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.#reply.height);
      this.#cursor = this.#clampToImage(x, y);
      element("crosshair").hidden = true;
      this.#showProbe(event.clientX, event.clientY);
    };
    picture.addEventListener("pointermove", probeAt);
    picture.addEventListener("pointerdown", probeAt);
    picture.addEventListener("pointerleave", () => this.#hideProbe());
    picture.addEventListener("blur", () => this.#hideProbe());
    picture.addEventListener("keydown", (event) => this.#moveCursor(event));
  }

  /** Arrow keys move the probe by a fiftieth of the longer side; with shift, by one pixel. */
  #moveCursor(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const direction = directions[event.key];
    if (!direction || !this.#reply) return;
    event.preventDefault();
    const { width, height } = this.#reply;
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / 50));
    const [x, y] = this.#cursor ?? [Math.floor(width / 2), Math.floor(height / 2)];
    this.#cursor = this.#clampToImage(x + direction[0] * step, y + direction[1] * step);
    const box = element("picture").getBoundingClientRect();
    const [left, top] = [(this.#cursor[0] + 0.5) / width, (this.#cursor[1] + 0.5) / height];
    const crosshair = element("crosshair");
    crosshair.style.left = `${left * 100}%`;
    crosshair.style.top = `${top * 100}%`;
    crosshair.hidden = false;
    this.#showProbe(box.left + left * box.width, box.top + top * box.height);
    element("probe-spoken").textContent = element("probe").textContent;
  }

  #clampToImage(x, y) {
    const { width, height } = this.#reply;
    return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  }

  /** Shows the class and confidence of the pixel under the probe, beside a point of the window. */
  #showProbe(clientX, clientY) {
    const [x, y] = this.#cursor;
    const at = y * this.#reply.width + x;
    const found = this.#reply.classes[this.#labels[at]];
    const probe = element("probe");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    if (found) swatch.style.backgroundColor = found.color;
    const name = found ? found.name : "unlabelled";
    probe.replaceChildren(swatch, `${name} ${percent(this.#confidence[at] / 255, 0)}, x ${x}, y ${y}`);
    probe.hidden = false;
    const margin = 14;
    const left = Math.min(clientX + margin, document.documentElement.clientWidth - probe.offsetWidth - 4);
    const above = clientY - margin - probe.offsetHeight;
    probe.style.left = `${Math.max(4, left)}px`;
    probe.style.top = `${above < 4 ? clientY + margin : above}px`;
  }

  #hideProbe() {
    element("probe").hidden = true;
    element("crosshair").hidden = true;
  }

  // --- legend ---

  #fillLegend() {
    const classes = this.#reply.classes;
    const present = classes.filter((entry) => entry.pixels > 0).sort((a, b) => b.pixels - a.pixels);
    const absent = classes.filter((entry) => entry.pixels === 0).sort((a, b) => b.presence - a.presence);
    const rows = present.map(legendRow);
    const labelled = present.reduce((sum, entry) => sum + entry.pixels, 0);
    const pixels = this.#reply.width * this.#reply.height;
    if (labelled < pixels) rows.push(unlabelledRow(1 - labelled / pixels));
    element("present").replaceChildren(...rows);
    element("absent").replaceChildren(...absent.map(legendRow));
    element("absent-fold").hidden = absent.length === 0;
    element("absent-fold").open = absent.length <= ABSENT_LISTED;
    element("absent-summary").textContent =
      absent.length === 1 ? "1 class without pixels" : `${absent.length} classes without pixels`;
  }

  #listenToLegend() {
    const legend = element("legend");
    const highlight = (event) => {
      const row = event.target.closest("tr[data-id]");
      const id = row === null ? null : Number(row.dataset.id);
      const useful = id !== null && this.#reply.classes[id].pixels > 0 && !this.#hidden.has(id);
      this.#setHighlight(useful ? id : null);
    };
    legend.addEventListener("pointerover", highlight);
    legend.addEventListener("pointerleave", () => this.#setHighlight(null));
    legend.addEventListener("change", (event) => {
      const id = Number(event.target.closest("tr").dataset.id);
      if (event.target.checked) this.#hidden.delete(id);
      else this.#hidden.add(id);
      this.#highlighted = null;
      this.#queuePaint();
    });
  }

  #setHighlight(id) {
    if (this.#highlighted === id) return;
    this.#highlighted = id;
    this.#queuePaint();
  }

  #setAll(shown) {
    this.#hidden = new Set(shown ? [] : this.#reply.classes.map((entry) => entry.id));
    for (const box of element("legend").querySelectorAll("input")) box.checked = shown;
    this.#queuePaint();
  }

  #fillWarnings() {
    const items = this.#reply.warnings.map(({ message }) => {
      const item = document.createElement("li");
      item.textContent = message;
      return item;
    });
    element("warnings").replaceChildren(...items);
    element("warnings").hidden = items.length === 0;
  }

  // --- files ---

  /** Saves the server's own PNG: pixel values are class ids. */
  #saveLabelMap() {
    save(new Blob([fromBase64(this.#reply.label_map.data)], { type: "image/png" }), "label-map.png");
  }

  /** Saves the image with the label map over it, as the page shows it. */
  #saveOverlay() {
    const overlay = element("overlay");
    const canvas = document.createElement("canvas");
    canvas.width = overlay.width;
    canvas.height = overlay.height;
    const context = canvas.getContext("2d");
    context.drawImage(element("image"), 0, 0, canvas.width, canvas.height);
    context.globalAlpha = element("opacity").value / 100;
    context.drawImage(overlay, 0, 0);
    canvas.toBlob((blob) => save(blob, "overlay.png"), "image/png");
  }
}

function legendRow({ id, name, color, fraction, pixels, confidence, presence }) {
  const box = document.createElement("input");
  box.type = "checkbox";
  box.className = "swatch";
  box.checked = true;
  box.disabled = pixels === 0;
  box.style.setProperty("--class-colour", color);
  box.setAttribute("aria-label", `Show ${name}`);
  const row = rowOf(box, name, percent(fraction, 1), percent(confidence.mean, 0), percent(presence, 0));
  row.dataset.id = id;
  row.style.setProperty("--fraction", fraction);
  return row;
}

function unlabelledRow(fraction) {
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  const row = rowOf(swatch, "unlabelled", percent(fraction, 1), "", "");
  row.style.setProperty("--fraction", fraction);
  return row;
}

function rowOf(swatch, name, ...values) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  const label = document.createElement("label");
  const text = document.createElement("span");
  text.textContent = name;
  label.append(swatch, text);
  head.append(label);
  row.append(head);
  for (const value of values) row.insertCell().textContent = value;
  return row;
}

/** A share from 0 to 1 in percent; a dash for null. */
function percent(value, digits) {
  if (value === null) return "–";
  return new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: digits }).format(value);
}

/** One sentence for users who cannot see the picture. */
function describeResult(classes) {
  const present = classes.filter((entry) => entry.pixels > 0).sort((a, b) => b.pixels - a.pixels);
  if (present.length === 0) return "Done. No class has pixels.";
  const first = present.slice(0, 5).map(({ name, fraction }) => `${name} ${percent(fraction, 0)}`);
  return `Done. ${present.length} of ${classes.length} classes have pixels: ${first.join(", ")}.`;
}

function describeTimings({ model, width, height, timings }, roundTripSeconds) {
  const stages = Object.entries(timings).map(
    ([key, seconds]) => `${key.replace(/_seconds$/, "").replaceAll("_", " ")} ${milliseconds(seconds)}`,
  );
  const whole = `round trip ${milliseconds(roundTripSeconds)}`;
  return [`model ${model}, ${width} × ${height} pixels`, ...stages, whole].join(" · ");
}

function milliseconds(seconds) {
  return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
}

function withAlpha(colour, alpha) {
  return ((Math.round(alpha) << 24) | (colour & 0xffffff)) >>> 0;
}

function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // The download may start after this call, and the browser reads the address then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
