// The dialog of vocabularies: what the server has, what is in it, taking one, keeping one's own classes under a name,
// deleting. Tells of a choice by the event "take", with the vocabulary as the API has it.

import { getJson, send } from "./api.js";
import { element, make } from "./dom.js";
import { count } from "./text.js";
import { classOf, writeClass } from "./words.js";

/** Data sets as people write them; other names are shown as they are. */
const TITLES = [
  ["sclip-", "SCLIP’s words for "],
  ["clearclip-", "ClearCLIP’s words for "],
  ["ade20k", "ADE20K"],
  ["cityscapes", "Cityscapes"],
  ["coco-object", "COCO objects"],
  ["coco-stuff", "COCO-Stuff"],
  ["pascal-context", "PASCAL Context"],
  ["voc", "PASCAL VOC"],
];

/** A vocabulary's name for people: `sclip-voc-21` is "SCLIP's words for PASCAL VOC 21". */
export function titleOf({ name, shipped }) {
  if (!shipped) return name;
  return TITLES.reduce((text, [from, to]) => (text.includes(to) ? text : text.replace(from, to)), name).replace(
    /-(\d+)$/,
    " $1",
  );
}

/** The users' own come first, then plain lists, then those of published protocols. */
export function rankOf({ shipped, name }) {
  if (!shipped) return 0;
  return /^(sclip|clearclip)-/.test(name) ? 2 : 1;
}

export class Vocabularies extends EventTarget {
  #dialog = element("vocabularies");
  #words;
  #lists;
  /** The text that is searched for, lower case. */
  #wanted = "";
  /** The names of vocabularies that have a class of the wanted text. */
  #withClass = new Set();
  /** The summaries that the list shows. */
  #summaries = [];
  /** The vocabulary in the preview, with its entity tag. */
  #previewed = null;
  #etag = null;

  /**
   * @param {import("./words.js").Words} words
   * @param {import("./class-lists.js").ClassLists} lists
   */
  constructor(words, lists) {
    super();
    this.#words = words;
    this.#lists = lists;
    element("open-vocabularies").addEventListener("click", () => this.open());
    element("close-vocabularies").addEventListener("click", () => this.#dialog.close());
    element("vocabulary-search").addEventListener("input", () => this.#try(() => this.#search()));
    element("take-vocabulary").addEventListener("click", () => this.#leave(() => this.#tell(this.#previewed)));
    element("copy-vocabulary").addEventListener("click", () => {
      this.#leave(() => this.#words.take(this.#previewed.classes.map(classOf)));
    });
    element("delete-vocabulary").addEventListener("click", () => this.#try(() => this.#delete()));
    element("keep-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try(() => this.#keep());
    });
  }

  #tell(vocabulary) {
    this.dispatchEvent(new CustomEvent("take", { detail: vocabulary }));
  }

  #leave(action) {
    this.#dialog.close();
    action();
  }

  async open() {
    this.#dialog.showModal();
    this.#preview(null);
    const own = this.#words.classes.length;
    element("keep-form").hidden = own === 0;
    element("keep-label").textContent = `Keep my ${count(own, "class", "classes")} as`;
    await this.#try(() => this.#load());
  }

  /** Runs an action of the dialog and shows there why it failed. */
  async #try(action) {
    element("vocabulary-status").textContent = "";
    try {
      await action();
    } catch (problem) {
      element("vocabulary-status").textContent = [problem.title, problem.message].filter(Boolean).join(": ");
    }
  }

  async #load() {
    const { vocabularies, durable } = await getJson("v1/vocabularies?kind=named");
    this.#summaries = vocabularies;
    element("not-durable").hidden = durable;
    await this.#search();
  }

  /** Lists the vocabularies with the wanted text in their names, then those with a class of it as they are fetched. */
  async #search() {
    const wanted = element("vocabulary-search").value.trim().toLowerCase();
    const summaries = this.#summaries;
    this.#wanted = wanted;
    this.#withClass = new Set();
    this.#showList(wanted !== "");
    if (wanted === "") return;
    for (const { name } of summaries) {
      const texts = await this.#lists.of(name).catch(nothingIfGone);
      if (wanted !== this.#wanted || summaries !== this.#summaries || !this.#dialog.open) return;
      if (!texts.some((text) => text.toLowerCase().includes(wanted))) continue;
      this.#withClass.add(name);
      this.#showList(true);
    }
    this.#showList(false);
  }

  /** Shows what is found; `isSearching` if there may be more. */
  #showList(isSearching) {
    const matches = (summary) =>
      this.#withClass.has(summary.name) ||
      [titleOf(summary), summary.name].some((text) => text.toLowerCase().includes(this.#wanted));
    const found = this.#summaries.filter(matches);
    const inOrder = found.toSorted((a, b) => rankOf(a) - rankOf(b));
    element("vocabulary-list").replaceChildren(...inOrder.map((summary) => this.#item(summary)));
    element("no-vocabulary").hidden = found.length > 0 || isSearching;
  }

  #item(summary) {
    const { name, class_count, first_names } = summary;
    const more = class_count > first_names.length ? ", …" : "";
    const isPreviewed = name === this.#previewed?.name;
    const button = make(
      "button",
      { type: "button", className: "vocabulary", "data-name": name, "aria-pressed": String(isPreviewed) },
      make("strong", {}, titleOf(summary)),
      make("span", { className: "muted" }, count(class_count, "class", "classes")),
      make("span", { className: "muted first-names" }, first_names.join(", ") + more),
    );
    button.addEventListener("click", () => this.#try(() => this.#fetch(name)));
    return make("li", {}, button);
  }

  /** Fetches a vocabulary and previews it. */
  async #fetch(name) {
    const response = await send(`v1/vocabularies/${encodeURIComponent(name)}`);
    this.#etag = response.headers.get("ETag");
    this.#preview(await response.json());
    element("vocabulary-preview").scrollIntoView({ block: "nearest" }); // on a phone it stands below the list
  }

  #preview(vocabulary) {
    this.#previewed = vocabulary;
    for (const button of element("vocabulary-list").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.name === vocabulary?.name));
    }
    element("vocabulary-preview").hidden = vocabulary === null;
    if (vocabulary === null) return;
    element("preview-title").textContent = titleOf(vocabulary);
    element("preview-facts").textContent = factsOf(vocabulary);
    const names = vocabulary.classes.map((entry) => make("li", {}, writeClass(classOf(entry))));
    element("preview-classes").replaceChildren(...names);
    element("delete-vocabulary").hidden = vocabulary.shipped;
    if (!vocabulary.shipped) element("keep-name").value = vocabulary.name;
  }

  // --- changes ---

  /** Defines a vocabulary of the user's classes. Of a name that is taken, asks before it is replaced. */
  async #keep() {
    const name = element("keep-name").value.trim();
    const url = `v1/vocabularies/${encodeURIComponent(name)}`;
    const classes = this.#words.classes.map((entry) => (entry.synonyms.length === 0 ? entry.name : entry));
    const isReplaced = element("keep-replace").checked;
    const condition = isReplaced ? {} : { "If-None-Match": "*" };
    try {
      await send(url, {
        method: "PUT",
        headers: { "Content-Type": "application/json", ...condition },
        body: JSON.stringify({ classes }),
      });
    } catch (problem) {
      if (problem.type !== "/problems/precondition-failed") throw problem;
      element("keep-replace-choice").hidden = false;
      element("vocabulary-status").textContent =
        `There is a vocabulary “${name}” already. Tick “Replace it”, or take another name.`;
      return;
    }
    element("keep-replace").checked = false;
    element("keep-replace-choice").hidden = true;
    this.#lists.forget(name);
    await this.#load();
    await this.#fetch(name);
    element("vocabulary-status").textContent = `Kept as “${name}”.`;
  }

  /** Deletes the previewed vocabulary, unless somebody has changed it since it was read. */
  async #delete() {
    const { name } = this.#previewed;
    const headers = this.#etag ? { "If-Match": this.#etag } : {};
    await send(`v1/vocabularies/${encodeURIComponent(name)}`, { method: "DELETE", headers });
    this.#preview(null);
    this.#lists.forget(name);
    await this.#load();
    element("vocabulary-status").textContent = `“${name}” is deleted.`;
  }
}

/** No words for a vocabulary that somebody has deleted in the meantime. */
function nothingIfGone(problem) {
  if (problem.status !== 404) throw problem;
  return [];
}

/** Size, options, background and how much is embedded. */
function factsOf({ classes, background, options, embeddings }) {
  const facts = [count(classes.length, "class", "classes")];
  if (background.length > 0) facts.push(`background: ${background.join(", ")}`);
  for (const [name, value] of Object.entries(options ?? {})) {
    if (value !== null) facts.push(`${name.replaceAll("_", " ")}: ${value}`);
  }
  for (const { model, embedded, total } of embeddings) {
    if (embedded < total) facts.push(`${embedded} of ${total} texts embedded for ${model}`);
  }
  return facts.join(" · ");
}
