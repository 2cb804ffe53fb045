// What an address names and this server does not have. It is said until the user has made a choice of their own.

import { element, make } from "./dom.js";

/** What stands in the place of what is missing. */
const INSTEAD = {
  vocabulary: "The classes on the page stand in its place.",
  example: "Another image stands in its place.",
  model: "The default model answers in its place.",
};

/**
 * The sentences on what is missing.
 *
 * @param {"vocabulary" | "example" | "model"} kind
 * @param {string} name as the address has it
 * @param {{title: string, message: string} | null} problem why it could not be fetched; null if there is no such thing
 */
export function sentencesOn(kind, name, problem = null) {
  if (!problem) return `The address names the ${kind} “${name}”, which this server does not have. ${INSTEAD[kind]}`;
  const why = [problem.title, problem.message].filter(Boolean).join(": ");
  return `The ${kind} “${name}” could not be fetched (${why}).`;
}

export class Missing {
  /** Sentences by kind. */
  #sentences = new Map();

  /** Says that something is missing; with null for its name that it is not, or does not matter any more. */
  set(kind, name, problem = null) {
    if (name === null) this.#sentences.delete(kind);
    else this.#sentences.set(kind, sentencesOn(kind, name, problem));
    this.#show();
  }

  clear() {
    this.#sentences.clear();
    this.#show();
  }

  #show() {
    const notice = element("missing");
    notice.replaceChildren(...[...this.#sentences.values()].map((text) => make("p", {}, text)));
    notice.hidden = this.#sentences.size === 0;
  }
}
