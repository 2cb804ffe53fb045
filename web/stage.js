// The stage: one picture, or two with one cursor, and the controls of how results are drawn. What a user does with a
// region is told by the events "rename", "refuse" and "likeness"; "view" tells that something else must be asked or
// remembered, "result" that there is another result or none.

import { coloursNear } from "./backdrop.js";
import { assignColours } from "./colours.js";
import { element, make } from "./dom.js";
import { Picture } from "./picture.js";
import { RegionMenu } from "./region-menu.js";

export const MODES = ["fill", "outline", "heat"];

export class Stage extends EventTarget {
  #pictures = [
    new Picture("The image with its label map"),
    new Picture("The image with the other settings’ label map"),
  ];
  #menu = new RegionMenu();
  #results = [null, null];
  /** Colours by class name. They stay as they are while the class list changes. */
  #colours = new Map();
  #highlighted = null;
  #hidden = new Set();
  #likeness = null;
  /** Counts what shows a likeness or ends it: one that comes later is not shown. */
  #likenessTurns = 0;
  #isPinned = false;
  mode = "fill";
  /** The class whose probability the heat map shows, or null for the largest one. */
  heatName = null;

  constructor() {
    super();
    element("pictures").replaceChildren(...this.#pictures.map(({ root }) => root));
    this.#pictures[1].root.hidden = true;
    this.#pictures.forEach((picture) => this.#follow(picture));
    this.#listenToControls();
    for (const action of ["rename", "refuse", "likeness"]) {
      this.#menu.addEventListener(action, ({ detail }) => this.dispatchEvent(new CustomEvent(action, { detail })));
    }
    this.#menu.addEventListener("heat", ({ detail }) => this.showHeat(detail.name));
  }

  get colours() {
    return this.#colours;
  }

  get picture() {
    return this.#pictures[0];
  }

  get result() {
    return this.#results[0];
  }

  /** The class whose probabilities must come with a result, or null. */
  heatOf(names) {
    if (this.mode !== "heat") return null;
    if (names.includes(this.heatName)) return this.heatName;
    const largest = this.result?.classes.reduce(
      (best, entry) => (entry.pixels > (best?.pixels ?? -1) ? entry : best),
      null,
    );
    return largest && names.includes(largest.name) ? largest.name : (names[0] ?? null);
  }

  setImage(image) {
    this.#results = [null, null];
    this.showLikeness(null);
    this.#isPinned = false;
    for (const picture of this.#pictures) picture.setImage(image);
    this.dispatchEvent(new Event("result"));
    element("stage").classList.remove("is-empty");
  }

  /** Shows a result on the first picture (0) or on the second (1). */
  show(result, side = 0) {
    this.#results[side] = result;
    this.#chooseColours();
    if (side === 0 && this.mode === "heat") this.#offerHeatClasses();
    this.#draw();
    if (this.#isPinned) this.#readAt(...this.picture.cursor);
    this.dispatchEvent(new Event("result"));
  }

  /** Removes the results. */
  clear() {
    this.#results = [null, null];
    this.showLikeness(null);
    for (const picture of this.#pictures) picture.clear();
    this.dispatchEvent(new Event("result"));
  }

  /** Shows a second picture, or takes it away. */
  compare(isComparing, titles = ["", ""]) {
    this.#pictures[1].root.hidden = !isComparing;
    element("pictures").classList.toggle("is-comparing", isComparing);
    this.#pictures.forEach((picture, side) => picture.setTitle(isComparing ? titles[side] : ""));
    if (isComparing) return;
    this.#results[1] = null;
    this.#pictures[1].clear();
  }

  /** Shows how like every place is to one point: `{ width, height, values, at }`. Null ends that. */
  showLikeness(likeness) {
    this.#likenessTurns++;
    this.#likeness = likeness;
    element("likeness-note").hidden = likeness === null;
    this.#draw();
  }

  /** Shows a likeness that is on its way, unless the user has gone on by the time it is there. */
  async awaitLikeness(coming) {
    const turn = ++this.#likenessTurns;
    const isAwaited = () => turn === this.#likenessTurns;
    try {
      const likeness = await coming;
      if (isAwaited()) this.showLikeness(likeness);
    } catch (problem) {
      if (isAwaited()) throw problem;
    }
  }

  /** Shows the heat map of a class. */
  showHeat(name) {
    this.heatName = name;
    this.setMode("heat");
  }

  setMode(mode) {
    this.mode = mode;
    element("stage-form").elements.mode.value = mode;
    this.showLikeness(null);
    this.#offerHeatClasses();
    this.#tellView();
  }

  highlight(name) {
    if (this.#highlighted === name) return;
    this.#highlighted = name;
    this.#draw();
  }

  /** Shows or hides a class. */
  setShown(name, isShown) {
    if (isShown) this.#hidden.delete(name);
    else this.#hidden.add(name);
    this.#highlighted = null;
    this.#draw();
  }

  /** Forgets which classes are hidden that are not in the list any more. */
  forgetOthers(names) {
    this.#hidden = new Set(names.filter((name) => this.#hidden.has(name)));
  }

  isShown(name) {
    return !this.#hidden.has(name);
  }

  /** How labels are drawn, as texts for an address: what differs from the page as it opens. */
  get drawing() {
    const { names, strength, fade } = element("stage-form").elements;
    return {
      strength: strength.value === strength.defaultValue ? "" : strength.value,
      names: names.checked ? "" : "0",
      fade: fade.checked ? "1" : "",
    };
  }

  /** Takes texts of `drawing`. */
  set drawing(texts) {
    const { names, strength, fade } = element("stage-form").elements;
    strength.value = texts.strength || strength.defaultValue;
    names.checked = texts.names !== "0";
    fade.checked = texts.fade === "1";
    this.#draw();
  }

  #tellView() {
    this.dispatchEvent(new Event("view"));
  }

  // --- drawing ---

  /** Colours for classes that have pixels on either picture. A class keeps the colour that it has. */
  #chooseColours() {
    const sizes = new Map();
    for (const result of this.#results) {
      for (const { name, pixels } of result?.classes ?? []) sizes.set(name, Math.max(sizes.get(name) ?? 0, pixels));
    }
    const [first] = this.#results;
    const near = first ? coloursNear(this.picture.image, first) : new Map();
    const present = [...sizes].filter(([, pixels]) => pixels > 0).sort((a, b) => b[1] - a[1]);
    const classes = present.map(([name]) => ({ name, near: near.get(first?.classNamed(name)?.id) ?? [] }));
    const remembered = new Map([...this.#colours].filter(([name]) => sizes.has(name)));
    this.#colours = new Map([...remembered, ...assignColours(this.#colours, classes)]);
  }

  #look() {
    const { names, strength, fade } = element("stage-form").elements;
    return {
      colours: this.#colours,
      mode: this.mode,
      heatName: this.#results[0] ? this.heatOf(this.#results[0].classes.map(({ name }) => name)) : null,
      strength: strength.value / 100,
      hasNames: names.checked,
      isFaded: fade.checked,
      hidden: this.#hidden,
      highlighted: this.#highlighted,
      likeness: this.#likeness,
    };
  }

  #draw() {
    this.#pictures.forEach((picture, side) => {
      if (this.#results[side]) picture.show(this.#results[side], this.#look());
    });
  }

  #listenToControls() {
    const form = element("stage-form");
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const radio of form.elements.mode)
      radio.addEventListener("change", () => this.setMode(form.elements.mode.value));
    for (const name of ["names", "strength", "fade"]) form.elements[name].addEventListener("input", () => this.#draw());
    for (const name of ["names", "strength", "fade"])
      form.elements[name].addEventListener("change", () => this.#tellView());
    form.elements.heat.addEventListener("change", () => this.showHeat(form.elements.heat.value));
    element("end-likeness").addEventListener("click", () => this.showLikeness(null));
  }

  /** Fills the choice of the class of the heat map. */
  #offerHeatClasses() {
    const isHeat = this.mode === "heat";
    element("heat-choice").hidden = !isHeat;
    element("heat-scale").hidden = !isHeat;
    if (!isHeat || !this.#results[0]) return;
    const names = this.#results[0].classes.map(({ name }) => name);
    element("heat").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    element("heat").value = this.heatOf(names);
  }

  // --- cursor ---

  #follow(picture) {
    picture.addEventListener("point", ({ detail: { x, y, isPinned = false, isByKey = false } }) => {
      this.#isPinned = isPinned;
      const text = this.#readAt(x, y, { hasCrosshair: isByKey || isPinned, origin: picture });
      if (isByKey || isPinned) element("spoken").textContent = text;
    });
    picture.addEventListener("leave", () => {
      if (!this.#isPinned) for (const each of this.#pictures) each.hideReading();
    });
    picture.addEventListener("pick", ({ detail }) => this.#openMenu(picture, detail));
  }

  /** Reads a pixel on both pictures. Returns both readings. */
  #readAt(x, y, { hasCrosshair = true, origin = this.picture } = {}) {
    const isComparing = !this.#pictures[1].root.hidden;
    const shown = this.#pictures.filter(({ result }) => result !== null);
    const texts = shown.map((picture) => {
      const edit = this.#isPinned && picture === origin ? () => this.#openPinned(picture, x, y) : null;
      return picture.read(x, y, { hasCrosshair: hasCrosshair || picture !== origin, edit });
    });
    return isComparing ? texts.join("; with the other settings ") : texts.join("");
  }

  #openPinned(picture, x, y) {
    const box = picture.root.getBoundingClientRect();
    this.#openMenu(picture, { x, y, clientX: box.left + 8, clientY: box.bottom, opener: null });
  }

  #openMenu(picture, { x, y, clientX, clientY, opener }) {
    const { result } = picture;
    if (!result) return;
    const name = result.classAt(x, y)?.name ?? null;
    const reading = picture.read(x, y, { hasCrosshair: true });
    picture.hideReading({ keepsCrosshair: true }); // the menu has it
    element("region-likeness").hidden = picture !== this.picture;
    this.#menu.open({ region: { x, y, name }, reading, clientX, clientY, opener });
  }
}
