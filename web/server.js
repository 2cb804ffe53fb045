// What the server has: its models, with what each can do, its limits and its defaults. Asks again while it is still
// loading.

import { getJson } from "./api.js";
import { element } from "./dom.js";

/** The pause between two questions whether the server has loaded its model. */
const MODEL_RETRY_MILLISECONDS = 2000;

export class Server extends EventTarget {
  /** The loaded models, as `GET /v1/models` lists them; the first is the default. */
  models = [];
  limits = null;
  defaults = null;
  /** The name that was chosen last. It is taken up as soon as the models are known. */
  #wanted = "";
  #retry;

  constructor() {
    super();
    element("model-choice").addEventListener("change", () => this.choose(this.model.name));
  }

  /** The chosen model, or null before any is ready. */
  get model() {
    return this.models[element("model-choice").selectedIndex] ?? null;
  }

  /** The chosen model's name for an address; nothing for the default. */
  get text() {
    if (this.models.length === 0) return this.#wanted;
    return this.model === this.models[0] ? "" : this.model.name;
  }

  /** The name that was chosen although no model has it; null if there is none. */
  get missing() {
    const isThere = this.#wanted === "" || this.models.some(({ name }) => name === this.#wanted);
    return isThere ? null : this.#wanted;
  }

  /** Chooses a model; the default without a name. */
  choose(name) {
    this.#wanted = name ?? "";
    const index = this.models.findIndex((model) => model.name === this.#wanted);
    element("model-choice").selectedIndex = Math.max(index, 0);
    if (this.model) this.#changed();
  }

  async load() {
    clearTimeout(this.#retry);
    try {
      const { models, limits, defaults } = await getJson("v1/models");
      Object.assign(this, { models, limits, defaults });
    } catch (problem) {
      if (problem.status === 401 || problem.status === 403) {
        element("model").textContent = "This server needs a key.";
        return;
      }
    }
    if (this.models.length === 0) {
      element("model").textContent = "No model is ready yet.";
      this.#retry = setTimeout(() => this.load(), MODEL_RETRY_MILLISECONDS);
      return;
    }
    element("model-choice").replaceChildren(...this.models.map(({ name }) => new Option(name)));
    element("model-label").hidden = this.models.length === 1;
    this.choose(this.#wanted);
  }

  #changed() {
    const { name, architecture, precision, device, student } = this.model;
    const facts = [architecture, precision, device];
    element("model").textContent = (this.models.length === 1 ? [name, ...facts] : facts).join(" · ");
    const classes = student?.classes.map((entry) => entry.name ?? entry) ?? [];
    element("trained-on").hidden = !student;
    element("trained-on").textContent = `A student trained on ${classes.join(", ")}; it can label other classes too.`;
    this.dispatchEvent(new Event("change"));
  }
}
