// The class list with what the result says of each class. Rows stay the same elements while results come, so that the
// keyboard's focus stays where it is. Told by events: "remove", "heat", "show", "highlight", each with the class's
// name.

import { element, make } from "./dom.js";
import { count, percent } from "./text.js";
import { writeClass } from "./words.js";

/** Longer lists are sorted by area, with the classes without pixels folded away. */
const LONGEST_OPEN_LIST = 12;

export class Legend extends EventTarget {
  /** @type {Map<string, Row>} */
  #rows = new Map();

  constructor() {
    super();
    const legend = element("legend");
    const nameAt = (event) => event.target.closest("tr[data-name]")?.dataset.name ?? null;
    legend.addEventListener("pointerover", (event) => this.#tell("highlight", { name: nameAt(event) }));
    legend.addEventListener("pointerleave", () => this.#tell("highlight", { name: null }));
    legend.addEventListener("change", (event) => {
      this.#tell("show", { name: nameAt(event), isShown: event.target.checked });
    });
    legend.addEventListener("click", (event) => {
      const action = event.target.closest("button")?.dataset.action;
      if (action) this.#tell(action, { name: nameAt(event) });
    });
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /**
   * Shows the list.
   *
   * @param {{name: string, synonyms: string[]}[]} classes in the order of the request
   * @param {import("./result.js").Result | null} result values of classes that it has
   * @param {object} view `{ colours, heatName, isShown, pendingName }`
   */
  show(classes, result, view) {
    const statistics = new Map(result?.classes.map((entry) => [entry.name, entry]));
    const rows = classes.map((entry) => {
      const row = this.#rows.get(entry.name) ?? new Row(entry.name);
      row.show(entry, statistics.get(entry.name) ?? null, view);
      return row;
    });
    this.#rows = new Map(rows.map((row) => [row.name, row]));
    const isLong = classes.length > LONGEST_OPEN_LIST && result !== null;
    const present = isLong ? rows.filter(({ pixels }) => pixels > 0).sort((a, b) => b.pixels - a.pixels) : rows;
    const absent = isLong ? rows.filter(({ pixels }) => pixels === 0).sort((a, b) => b.presence - a.presence) : [];
    place(element("present"), present);
    place(element("absent"), absent);
    element("absent-fold").hidden = absent.length === 0;
    const isAnswered = absent.every(({ name }) => statistics.has(name) || name === view.pendingName);
    const what = isAnswered ? "without pixels" : "not looked for yet";
    element("absent-summary").textContent = `${count(absent.length, "class", "classes")} ${what}`;
    const unlabelled = result?.unlabelledFraction() ?? 0;
    element("unlabelled").hidden = unlabelled < 0.0005;
    element("unlabelled").textContent = `${percent(unlabelled, 1)} of the picture has no class.`;
    element("legend").hidden = classes.length === 0;
  }

  /** Moves the focus to the row after a removed one. */
  focusAfter(index) {
    const buttons = element("legend").querySelectorAll('[data-action="remove"]');
    (buttons[Math.min(index, buttons.length - 1)] ?? element("class-input")).focus();
  }
}

/** Puts rows into a table's body, unless they stand there in this order. */
function place(body, rows) {
  const wanted = rows.map(({ root }) => root);
  const isSame = wanted.length === body.children.length && wanted.every((root, i) => root === body.children[i]);
  if (!isSame) body.replaceChildren(...wanted);
}

class Row {
  root;
  name;
  pixels = 0;
  presence = 0;
  #box;
  #text = make("span", {});
  #area;
  #confidence;
  #heat;
  #remove;

  constructor(name) {
    this.name = name;
    this.#box = make("input", { type: "checkbox", className: "swatch", "aria-label": `Show ${name}` });
    const head = make("th", { scope: "row" }, make("label", {}, this.#box, this.#text));
    this.root = make("tr", { "data-name": name }, head);
    this.#area = this.root.insertCell();
    this.#confidence = this.root.insertCell();
    const action = { type: "button", className: "quiet" };
    this.#heat = make(
      "button",
      { ...action, "data-action": "heat", "aria-label": `Heat map of ${name}`, title: "Heat map" },
      "◉",
    );
    this.#remove = make(
      "button",
      { ...action, "data-action": "remove", "aria-label": `Remove ${name}`, title: "Remove" },
      "×",
    );
    this.root.append(make("td", { className: "row-actions" }, this.#heat, this.#remove));
  }

  show(entry, statistics, { colours, heatName, isShown, pendingName, isReadOnly }) {
    const { name } = this;
    this.pixels = statistics?.pixels ?? 0;
    this.presence = statistics?.presence ?? 0;
    const isPending = name === pendingName;
    this.#text.textContent = writeClass(entry);
    this.#box.checked = isShown(name);
    this.#box.disabled = this.pixels === 0;
    this.#box.style.setProperty("--class-colour", colours.get(name) ?? "transparent");
    this.root.style.setProperty("--fraction", statistics?.fraction ?? 0);
    this.root.classList.toggle("is-absent", this.pixels === 0);
    this.root.classList.toggle("is-pending", isPending);
    this.#area.textContent = statistics ? percent(statistics.fraction, 1) : "";
    this.#confidence.textContent = confidenceOf(statistics);
    this.#heat.setAttribute("aria-pressed", String(heatName === name));
    this.#remove.hidden = isPending || isReadOnly;
  }
}

/** The mean over the class's pixels; of a class without pixels the best probability anywhere. */
function confidenceOf(statistics) {
  if (!statistics) return "";
  if (statistics.pixels > 0) return percent(statistics.confidence.mean);
  return `≤ ${percent(statistics.presence)}`;
}
