// One picture: the image, the result over it, the names of the regions and the reading under the pointer. The page has
// one of it, or two with one cursor. It tells of what the user does by the events "point", "leave" and "pick".

import { isQuiet } from "./colours.js";
import { make, oncePerFrame } from "./dom.js";
import { paintHeat, paintLabels } from "./paint.js";
import { percent } from "./text.js";

/** The most pixels of the overlay's canvas: browsers on phones refuse canvases of about this size and more. */
const MAX_OVERLAY_PIXELS = 8_000_000;
/** Smaller regions get no name on the picture. */
const SMALLEST_NAMED_SHARE = 0.004;
/** At most this many names stand on the picture. */
const MAX_NAMES = 40;
/** Width of outlines in pixels of the screen. */
const EDGE_PIXELS = 1.6;

export class Picture extends EventTarget {
  root;
  #title = make("figcaption", { className: "picture-title", hidden: true });
  #image = make("img", { className: "image", alt: "", draggable: false });
  #overlay = make("canvas", { className: "overlay", "aria-hidden": "true" });
  #names = make("div", { className: "names" });
  #crosshair = make("span", { className: "crosshair", "aria-hidden": "true", hidden: true });
  #reading = make("p", { className: "reading", "aria-hidden": "true", hidden: true });
  #frame;
  /** @type {import("./result.js").Result | null} */
  #result = null;
  #look = null;
  #paint = oncePerFrame(() => this.#paintNow());
  #placeNames = oncePerFrame(() => this.#placeNamesNow());

  constructor(label) {
    super();
    this.#frame = make(
      "div",
      { className: "frame", tabIndex: 0, role: "group", "aria-label": label, "aria-describedby": "picture-hint" },
      this.#image,
      this.#overlay,
      this.#names,
      this.#crosshair,
    );
    this.root = make("figure", { className: "picture" }, this.#title, this.#frame, this.#reading);
    this.#listen();
    new ResizeObserver(() => {
      this.#paint();
      this.#placeNames();
    }).observe(this.#frame);
  }

  get image() {
    return this.#image;
  }

  get overlay() {
    return this.#overlay;
  }

  get result() {
    return this.#result;
  }

  /** The names that stand on the picture, with their places in shares of it. */
  get names() {
    return [...this.#names.children].map((button) => ({
      text: button.textContent,
      colour: button.firstChild.style.backgroundColor,
      left: parseFloat(button.style.left) / 100,
      top: parseFloat(button.style.top) / 100,
    }));
  }

  setTitle(title) {
    this.#title.textContent = title;
    this.#title.hidden = title === "";
  }

  /** Shows an image, without a result. */
  setImage({ url, name, width, height }) {
    this.#image.src = url;
    this.#image.alt = `The image ${name}`;
    this.#image.width = width;
    this.#image.height = height;
    this.root.style.setProperty("--ratio", width / height);
    this.root.style.setProperty("--natural-width", `${width}px`);
    this.clear();
  }

  clear() {
    this.#result = null;
    this.#overlay.width = 0;
    this.#names.replaceChildren();
    this.hideReading();
  }

  /**
   * Shows a result, or the same one in another way.
   *
   * @param {object} look how: `{ colours, mode, strength, isFaded, hasNames, hidden, highlighted, heatName, likeness }`
   */
  show(result, look) {
    this.#result = result;
    this.#look = look;
    this.#paint();
    this.#placeNames();
  }

  /** Whether a class is to be seen. */
  #isShown(name) {
    const { highlighted, hidden } = this.#look;
    return highlighted === null ? !hidden.has(name) : highlighted === name;
  }

  // --- overlay ---

  #paintNow() {
    if (!this.#result) return;
    const { likeness, mode, heatName, strength } = this.#look;
    if (likeness) {
      this.#paintOn(likeness, (pixels, columns, step) => paintHeat(pixels, columns, step, likeness, strength));
      return;
    }
    const heat = mode === "heat" ? this.#result.probabilities.get(heatName) : undefined;
    this.#paintOn(this.#result, (pixels, columns, step) => {
      const { width, height } = this.#result;
      if (heat) paintHeat(pixels, columns, step, { values: heat, width, height }, strength);
      else if (mode !== "heat") paintLabels(pixels, columns, step, this.#result, this.#labelLook(columns));
    });
  }

  /** Sizes the canvas, lets `paint` fill its pixels, and shows them. Of a very large map, takes every n-th pixel. */
  #paintOn({ width, height }, paint) {
    const step = Math.ceil(Math.sqrt((width * height) / MAX_OVERLAY_PIXELS));
    const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
    if (this.#overlay.width !== columns || this.#overlay.height !== rows) {
      this.#overlay.width = columns;
      this.#overlay.height = rows;
    }
    const context = this.#overlay.getContext("2d");
    const data = context.createImageData(columns, rows);
    paint(new Uint32Array(data.data.buffer), columns, step);
    context.putImageData(data, 0, 0);
  }

  #labelLook(columns) {
    const { colours, mode, strength, isFaded } = this.#look;
    const scale = this.#frame.clientWidth / columns || 1;
    const classes = this.#result.classes.map(({ name }) => ({
      colour: colours.get(name) ?? "#000000",
      isShown: colours.has(name) && this.#isShown(name),
      isQuiet: isQuiet(name),
    }));
    const edge = Math.max(1, Math.round((mode === "outline" ? 2 : 1) * (EDGE_PIXELS / scale)));
    return { classes, strength, isFaded, isOutline: mode === "outline", edge };
  }

  // --- names ---

  #placeNamesNow() {
    const { hasNames, mode, likeness } = this.#look ?? {};
    if (!this.#result || !hasNames || mode === "heat" || likeness) {
      this.#names.replaceChildren();
      return;
    }
    const regions = this.#result.regions().filter(({ label, share }) => {
      const { name } = this.#result.classes[label];
      return share >= SMALLEST_NAMED_SHARE && this.#isShown(name);
    });
    this.#names.replaceChildren(...regions.slice(0, MAX_NAMES).map((region) => this.#nameOf(region)));
    this.#dropOverlapping();
  }

  #nameOf({ label, x, y }) {
    const { name } = this.#result.classes[label];
    const swatch = make("span", { className: "dot" });
    swatch.style.backgroundColor = this.#look.colours.get(name);
    const properties = { type: "button", className: "name", "aria-haspopup": "dialog" };
    const button = make("button", properties, swatch, make("span", {}, name));
    button.classList.toggle("is-quiet", isQuiet(name));
    button.style.left = `${(100 * (x + 0.5)) / this.#result.width}%`;
    button.style.top = `${(100 * (y + 0.5)) / this.#result.height}%`;
    button.addEventListener("click", (event) => {
      event.stopPropagation();
      const box = button.getBoundingClientRect();
      this.#tell("pick", { x, y, clientX: box.left + box.width / 2, clientY: box.bottom, opener: button });
    });
    return button;
  }

  /** Removes names that would cover those of larger regions, and moves the others inside the picture. */
  #dropOverlapping() {
    const frame = this.#frame.getBoundingClientRect();
    const placed = [];
    for (const button of [...this.#names.children]) {
      const box = button.getBoundingClientRect();
      const shift = Math.max(frame.left + 2 - box.left, 0) + Math.min(frame.right - 2 - box.right, 0);
      if (shift !== 0) button.style.marginLeft = `${shift}px`;
      const moved = new DOMRect(box.x + shift, box.y, box.width, box.height);
      const isFree = placed.every(
        (other) =>
          moved.right < other.left || moved.left > other.right || moved.bottom < other.top || moved.top > other.bottom,
      );
      if (isFree) placed.push(moved);
      else button.remove();
    }
  }

  // --- reading ---

  #listen() {
    const frame = this.#frame;
    frame.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "touch") this.#tellPoint(event);
    });
    frame.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "touch") this.#tell("leave");
    });
    frame.addEventListener("click", (event) => {
      if (!this.#result) return;
      const [x, y] = this.#pixelAt(event);
      // A finger cannot point without a click: its tap pins the reading, which has a button for the rest.
      if (event.pointerType === "touch") this.#tell("point", { x, y, isPinned: true });
      else this.#tell("pick", { x, y, clientX: event.clientX, clientY: event.clientY, opener: frame });
    });
    frame.addEventListener("keydown", (event) => this.#pressed(event));
    frame.addEventListener("blur", () => this.#tell("leave"));
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #pixelAt({ clientX, clientY }) {
    const box = this.#frame.getBoundingClientRect();
    const { width, height } = this.#result;
    return this.#inside(
      Math.floor(((clientX - box.left) / box.width) * width),
      Math.floor(((clientY - box.top) / box.height) * height),
    );
  }

  #inside(x, y) {
    const { width, height } = this.#result;
    return [Math.min(Math.max(x, 0), width - 1), Math.min(Math.max(y, 0), height - 1)];
  }

  #tellPoint(event) {
    if (!this.#result) return;
    const [x, y] = this.#pixelAt(event);
    this.#tell("point", { x, y });
  }

  /** Arrow keys move the cursor by a fiftieth of the longer side, with shift by one pixel; Enter picks the region. */
  #pressed(event) {
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!this.#result || event.target !== this.#frame) return;
    const { width, height } = this.#result;
    const [x, y] = this.cursor ?? [Math.floor(width / 2), Math.floor(height / 2)];
    if (event.key === "Enter") {
      event.preventDefault();
      const { left, top } = this.#placeOf(x, y);
      this.#tell("pick", { x, y, clientX: left, clientY: top, opener: this.#frame });
      return;
    }
    const direction = directions[event.key];
    if (!direction) return;
    event.preventDefault();
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(width, height) / 50));
    const [toX, toY] = this.#inside(x + direction[0] * step, y + direction[1] * step);
    this.#tell("point", { x: toX, y: toY, isByKey: true });
  }

  /** The pixel that was pointed at last, `[x, y]`, or null. */
  cursor = null;

  #placeOf(x, y) {
    const box = this.#frame.getBoundingClientRect();
    const { width, height } = this.#result;
    return { left: box.left + ((x + 0.5) / width) * box.width, top: box.top + ((y + 0.5) / height) * box.height };
  }

  /**
   * Shows the class and the probability of a pixel beside it.
   *
   * @param {{hasCrosshair: boolean, edit: (() => void) | null}} how `edit` is what a button beside the reading does
   * @returns {string} the reading, for screen readers
   */
  read(x, y, { hasCrosshair, edit = null }) {
    if (!this.#result) return "";
    [x, y] = this.#inside(x, y);
    this.cursor = [x, y];
    const text = this.#textOf(x, y);
    const found = this.#result.classAt(x, y);
    const swatch = make("span", { className: "dot" });
    swatch.style.backgroundColor = found ? (this.#look.colours.get(found.name) ?? "") : "";
    this.#reading.replaceChildren(swatch, text);
    this.#reading.classList.toggle("is-pinned", edit !== null);
    if (edit) {
      const button = make("button", { type: "button" }, "Change");
      button.addEventListener("click", edit);
      this.#reading.append(button);
    }
    this.#crosshair.style.left = `${(100 * (x + 0.5)) / this.#result.width}%`;
    this.#crosshair.style.top = `${(100 * (y + 0.5)) / this.#result.height}%`;
    this.#crosshair.hidden = !hasCrosshair;
    this.#reading.setAttribute("aria-hidden", String(edit === null));
    this.#reading.hidden = false;
    this.#placeReading(x, y);
    return text;
  }

  #textOf(x, y) {
    const { mode, heatName, likeness } = this.#look;
    if (likeness) return `likeness ${likeness.at(x, y, this.#result).toFixed(2)}, x ${x}, y ${y}`;
    const isHeat = mode === "heat" && this.#result.probabilities.has(heatName);
    const name = isHeat ? heatName : (this.#result.classAt(x, y)?.name ?? "unlabelled");
    const share = this.#result.probabilityAt(x, y, isHeat ? heatName : null);
    return `${name} ${percent(share)}, x ${x}, y ${y}`;
  }

  #placeReading(x, y) {
    const { left, top } = this.#placeOf(x, y);
    const home = this.root.getBoundingClientRect();
    const margin = 14;
    const rightmost = document.documentElement.clientWidth - this.#reading.offsetWidth - 4;
    const above = top - margin - this.#reading.offsetHeight;
    this.#reading.style.left = `${Math.max(4, Math.min(left + margin, rightmost)) - home.left}px`;
    this.#reading.style.top = `${(above < 4 ? top + margin : above) - home.top}px`;
  }

  hideReading({ keepsCrosshair = false } = {}) {
    this.#reading.hidden = true;
    if (!keepsCrosshair) this.#crosshair.hidden = true;
  }
}
