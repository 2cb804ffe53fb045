// The input of classes: a combobox (ARIA 1.2) that suggests words. What is being typed is already asked for.

import { element, make } from "./dom.js";
import { parseClasses } from "./words.js";

export class ClassInput {
  #input = element("class-input");
  #list = element("suggestions");
  #words;
  #suggestions;
  /** The index of the active suggestion, or -1. */
  #active = -1;

  constructor(words, suggestions) {
    this.#words = words;
    this.#suggestions = suggestions;
    const input = this.#input;
    input.addEventListener("focus", () => suggestions.fetch().then(() => this.#suggest()));
    input.addEventListener("keydown", (event) => this.#pressed(event));
    // Not on keydown: on-screen keyboards do not report the comma there.
    input.addEventListener("input", () => {
      if (input.value.includes(",")) return this.takePending();
      this.#words.type(input.value);
      this.#suggest();
    });
    input.addEventListener("paste", (event) => this.#pasted(event));
    input.addEventListener("blur", () => this.takePending());
    this.#list.addEventListener("pointerdown", (event) => event.preventDefault()); // the input keeps the focus
    this.#list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.#take(option.textContent);
    });
  }

  /** Adds the text that is still in the input. */
  takePending() {
    const added = parseClasses(this.#input.value);
    this.#input.value = "";
    this.#close();
    if (added.length > 0) this.#words.add(added);
  }

  #take(text) {
    this.#input.value = text;
    this.takePending();
  }

  #pasted(event) {
    const text = event.clipboardData.getData("text");
    if (!/[,\n]/.test(text)) return;
    event.preventDefault();
    this.#words.add(parseClasses(text));
  }

  #pressed(event) {
    if (event.isComposing) return;
    const options = this.#list.children;
    if (event.key === "Enter") {
      event.preventDefault();
      if (this.#active >= 0) this.#take(options[this.#active].textContent);
      else this.takePending();
    } else if (event.key === "Escape" && !this.#list.hidden) {
      event.preventDefault();
      this.#close();
    } else if (event.key === "Backspace" && this.#input.value === "" && this.#words.classes.length > 0) {
      this.#words.remove(this.#words.classes.at(-1).name);
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && options.length > 0) {
      event.preventDefault();
      const step = event.key === "ArrowDown" ? 1 : -1;
      this.#activate((this.#active + step + options.length + 1) % (options.length + 1));
    }
  }

  /** Makes a suggestion the active one; the index after the last one is the input itself. */
  #activate(index) {
    const options = [...this.#list.children];
    this.#active = index < options.length ? index : -1;
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === this.#active)));
    if (this.#active < 0) this.#input.removeAttribute("aria-activedescendant");
    else this.#input.setAttribute("aria-activedescendant", options[this.#active].id);
  }

  #suggest() {
    const found =
      document.activeElement === this.#input ? this.#suggestions.matching(this.#input.value, this.#words.names()) : [];
    this.#list.replaceChildren(
      ...found.map((name, i) => make("li", { id: `suggestion-${i}`, role: "option", "aria-selected": "false" }, name)),
    );
    this.#list.hidden = found.length === 0;
    this.#input.setAttribute("aria-expanded", String(found.length > 0));
    this.#activate(-1);
  }

  #close() {
    this.#list.replaceChildren();
    this.#list.hidden = true;
    this.#input.setAttribute("aria-expanded", "false");
    this.#activate(-1);
  }
}
