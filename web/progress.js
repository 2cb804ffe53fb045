// What the server is doing while the user waits: sending, labelling, or embedding texts, with how many are done.

import { getJson } from "./api.js";
import { element } from "./dom.js";
import { megabytes } from "./text.js";

/** Quicker answers need no words. */
const PATIENCE_MILLISECONDS = 500;
/** The pause between two questions how many texts are embedded. */
const POLL_MILLISECONDS = 400;

export class Progress {
  #timer;

  /** Shows that a question is on its way. */
  start() {
    element("progress").hidden = false;
    element("stage").setAttribute("aria-busy", "true");
  }

  /**
   * Says what goes on, if it lasts.
   *
   * @param {"sending" | "labelling"} phase
   * @param {import("./labelling.js").GivenImage} image
   * @param {{names: string[], vocabulary: string | null, model: string}} question
   */
  enter(phase, image, question) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (phase === "sending") this.#say(`Sending ${image.name}, ${megabytes(image.blob.size)} …`);
      else {
        this.#say("Labelling …");
        this.#watchTexts(question);
      }
    }, PATIENCE_MILLISECONDS);
  }

  /** Says again and again how many texts are embedded, until `enter` or `end` is called. */
  async #watchTexts(question) {
    const timer = this.#timer;
    const { embedded, total } = (await embeddingOf(question).catch(() => null)) ?? { embedded: 0, total: 0 };
    if (timer !== this.#timer) return;
    if (embedded < total) this.#say(`Embedding words: ${embedded} of ${total} …`);
    else this.#say("Labelling …");
    this.#timer = setTimeout(() => this.#watchTexts(question), POLL_MILLISECONDS);
  }

  #say(text) {
    element("busy").textContent = text;
  }

  end() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    element("progress").hidden = true;
    element("busy").textContent = "";
    element("stage").setAttribute("aria-busy", "false");
  }
}

/** How many texts of a question's class list are embedded for its model; null if the server does not know the list. */
async function embeddingOf({ names, vocabulary, model }) {
  const list = vocabulary
    ? await getJson(`v1/vocabularies/${encodeURIComponent(vocabulary)}/status`)
    : (await getJson("v1/vocabularies?kind=recent")).vocabularies.find(
        ({ class_count, first_names }) =>
          class_count === names.length && first_names.every((name, i) => name === names[i]),
      );
  return list?.embeddings.find((state) => state.model === model) ?? null;
}
