// The class lists of the server's vocabularies, each fetched once: for suggestions and for the search.

import { getJson } from "./api.js";

export class ClassLists {
  /** Promises of names and synonyms by the vocabulary's name. */
  #lists = new Map();

  /**
   * The names and synonyms of a vocabulary's classes, as it writes them.
   *
   * @returns {Promise<string[]>} rejects if the server does not give the vocabulary; the next call asks anew then
   */
  of(name) {
    if (!this.#lists.has(name)) {
      const list = getJson(`v1/vocabularies/${encodeURIComponent(name)}`).then(wordsOf);
      list.catch(() => this.#lists.delete(name));
      this.#lists.set(name, list);
    }
    return this.#lists.get(name);
  }

  /** Forgets a list that has changed. */
  forget(name) {
    this.#lists.delete(name);
  }
}

function wordsOf({ classes }) {
  return classes.flatMap((entry) => (typeof entry === "string" ? [entry] : [entry.name, ...(entry.synonyms ?? [])]));
}
