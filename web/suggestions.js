// Words to suggest while a class is typed: those of the examples and of the server's vocabularies. They are fetched
// when the user first goes to the input.

import { getJson } from "./api.js";
import { rankOf } from "./vocabularies.js";

/** At most this many vocabularies are read for their words. */
const MAX_VOCABULARIES = 24;
/** At most this many words are suggested at once. */
const MAX_SUGGESTED = 8;

export class Suggestions {
  /** Lower-case word to the word as its vocabulary writes it, in the order in which they came. */
  #words = new Map();
  #fetched = null;
  #lists;

  /** @param {import("./class-lists.js").ClassLists} lists */
  constructor(lists) {
    this.#lists = lists;
  }

  /** Adds words of a list. */
  add(names) {
    for (const name of names) {
      const key = name.toLowerCase();
      if (!this.#words.has(key)) this.#words.set(key, name);
    }
  }

  /** Fetches the words of the server's vocabularies, once. A server that does not give them suggests nothing. */
  fetch() {
    this.#fetched ??= this.#fetchAll().catch(() => (this.#fetched = null));
    return this.#fetched;
  }

  async #fetchAll() {
    const { vocabularies } = await getJson("v1/vocabularies?kind=named");
    const chosen = vocabularies.toSorted((a, b) => rankOf(a) - rankOf(b)).slice(0, MAX_VOCABULARIES);
    for (const { name } of chosen) this.add(await this.#lists.of(name));
  }

  /** Words that start with a text, then words with a part that does; none of those that are in the list already. */
  matching(text, taken) {
    const start = text.trim().toLowerCase();
    if (start === "") return [];
    const isTaken = new Set(taken.map((name) => name.toLowerCase()));
    const found = [[], []];
    for (const [key, name] of this.#words) {
      if (isTaken.has(key) || key === start) continue;
      if (key.startsWith(start)) found[0].push(name);
      else if (key.includes(` ${start}`)) found[1].push(name);
    }
    return found.flat().slice(0, MAX_SUGGESTED);
  }
}
