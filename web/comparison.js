// The choice of what the second picture shows: the same classes with one thing changed (another model, the baseline's
// attention), or the settings of a moment that the user has kept.

import { element, make } from "./dom.js";

/** What can be changed, by the request's field. */
const GROUPS = [
  ["model", "Another model"],
  ["attention", "Another attention"],
  ["refinement", "Another refinement"],
  ["key_smoothing", "Another key smoothing"],
  ["templates", "Other prompt templates"],
];
/** The choice that keeps the settings of this moment, and the one that compares with them. */
const KEEP = "keep";
const KEPT = "kept";

export class Comparison extends EventTarget {
  #models = [];
  /** The text that was chosen last. It is taken up as soon as the models are known that offer it. */
  #wanted = "";
  /** The fields that were kept, or null. */
  #kept = null;

  constructor() {
    super();
    element("compare").addEventListener("change", ({ target }) => {
      if (target.value === KEEP) return this.dispatchEvent(new Event("keep"));
      this.#wanted = target.value;
      this.#changed();
    });
  }

  get isOn() {
    return element("compare").value !== "";
  }

  /** What is changed, `field=value`, for an address; nothing for kept settings, which no address has. */
  get text() {
    const value = this.#models.length > 0 ? element("compare").value : this.#wanted;
    return value === KEPT ? "" : value;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Offers what the models can do. */
  setModels(models, model) {
    this.#models = models;
    const select = element("compare");
    const values = {
      model: models.map(({ name }) => name).filter((name) => name !== model.name),
      attention: model.attentions,
      refinement: ["none", "pamr", "pearl-propagation"],
      key_smoothing: model.key_smoothings,
      templates: ["maskclip-85", "imagenet-80", "simple"],
    };
    const groups = GROUPS.filter(([field]) => values[field].length > 0).map(([field, label]) => {
      const options = values[field].map((value) => new Option(this.#titleOf(field, value), `${field}=${value}`));
      return make("optgroup", { label }, ...options);
    });
    const kept = this.#kept ? [new Option("The kept settings", KEPT)] : [];
    const now = new Option("These settings, to change some", KEEP);
    select.replaceChildren(new Option("Compare with …", ""), now, ...kept, ...groups);
    this.choose(this.#wanted);
  }

  /**
   * Switches off what would show the same twice.
   *
   * @param {object} fields those of the first picture's request
   * @param {(field: string) => string} standardOf what holds for a field that this request leaves out
   */
  leaveOut(fields, standardOf) {
    for (const option of element("compare").querySelectorAll("optgroup option")) {
      const [field, value] = option.value.split("=");
      option.disabled = nameOf(fields[field] ?? standardOf(field)) === value;
    }
  }

  #titleOf(field, value) {
    return field === "attention" && value === "clip" ? "clip, the baseline" : value;
  }

  /** Chooses a text of `text`, or nothing as long as it is not offered. */
  choose(text) {
    this.#wanted = text === KEEP ? "" : text;
    const select = element("compare");
    select.value = [...select.options].some(({ value }) => value === this.#wanted) ? this.#wanted : "";
  }

  /** Keeps the fields of a request to compare others with. */
  keep(fields, model) {
    this.#kept = fields;
    this.#wanted = KEPT;
    this.setModels(this.#models, model);
    this.#changed();
  }

  /** The model that answers a request of these fields. */
  modelOf(fields) {
    return this.#models.find(({ name }) => name === (fields.model ?? this.#models[0].name));
  }

  /** The second picture's request, by that of the first, whose class list it shares. */
  fieldsOf(fields) {
    if (element("compare").value === KEPT) {
      const { classes, vocabulary, output } = fields;
      const { classes: _, vocabulary: __, ...kept } = this.#kept;
      return { ...kept, ...(vocabulary ? { vocabulary } : { classes }), output };
    }
    const [field, value] = this.text.split("=");
    return { ...fields, [field]: value };
  }

  /**
   * The titles of both pictures.
   *
   * @param {(field: string) => string} standardOf what holds for a field that the first request leaves out
   */
  titles(fields, standardOf) {
    if (element("compare").value === KEPT) return ["now", "kept"];
    const [field, value] = this.text.split("=");
    const first = fields[field] ?? standardOf(field);
    return [this.#titleOf(field, nameOf(first)), this.#titleOf(field, value)];
  }
}

/** The name of a setting: of key smoothing with a threshold, its method. */
function nameOf(value) {
  return value.method ?? value;
}
