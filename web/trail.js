// The browser's history of this page: Back and Forward go to the images and questions that the user has left, and not
// off the page with images that nothing else holds. The event "travel" tells where to.

/** Entries whose images are held: as many as browsers keep. */
const MAX_ENTRIES = 50;

/** Tells entries of this page from those before a reload, whose images are gone. */
const page = Math.random().toString(36);

export class Trail extends EventTarget {
  /** The image of each entry by its number, oldest first. */
  #images = new Map();
  #numbers = 0;
  /** What the entry on which the browser stands is about: `{ image, question, number }`. Null before that is known. */
  #entry = null;
  /** Whether the entry's question is finished, so that another one is another entry. */
  #isFinished = false;

  constructor() {
    super();
    // Told of addresses that the user types, too.
    addEventListener("popstate", ({ state }) => {
      const isOwn = state?.page === page;
      this.#entry = null;
      this.#isFinished = isOwn;
      const image = (isOwn && this.#images.get(state.number)) || null;
      this.dispatchEvent(new CustomEvent("travel", { detail: { image } }));
    });
  }

  /**
   * Writes the address. Another image is a new entry, and so is another question after a finished one; all else
   * changes the entry that there is.
   *
   * @param {GivenImage} image
   * @param {string} question the part of the address that decides what the server is asked
   * @param {string} address
   */
  write(image, question, address) {
    const isKnown = this.#entry !== null;
    const isOther = isKnown && question !== this.#entry.question;
    const isNew = isKnown && (image !== this.#entry.image || (isOther && this.#isFinished));
    if (isNew || isOther) this.#isFinished = false;
    const number = isKnown && !isNew ? this.#entry.number : ++this.#numbers;
    this.#entry = { image, question, number };
    this.#images.set(number, image);
    if (this.#images.size > MAX_ENTRIES) this.#images.delete(this.#images.keys().next().value);
    const write = isNew ? "pushState" : "replaceState";
    history[write]({ page, number }, "", `#${address}`);
  }

  /** Notes that a question has its answer, and that the user has seen it. */
  finish(image, question) {
    if (this.#entry?.image === image && this.#entry.question === question) this.#isFinished = true;
  }
}
