// The class list as the user makes it: own classes with synonyms, or a vocabulary of the server by its name. Pure state
// without elements; tells of changes by the event "change".

/** Reads `name`, or `name = synonym; synonym`; null if there is no name. */
export function parseClass(text) {
  const [name, ...synonyms] = text
    .split(/[=;]/)
    .map((part) => part.trim())
    .filter(Boolean);
  return name === undefined ? null : { name, synonyms };
}

export function writeClass({ name, synonyms }) {
  return synonyms.length === 0 ? name : `${name} = ${synonyms.join("; ")}`;
}

/** Reads classes that commas or line ends split. */
export function parseClasses(text) {
  return text.split(/[,\n]/).map(parseClass).filter(Boolean);
}

/** A class of the API, a name or an object, as this module has it. */
export function classOf(entry) {
  return typeof entry === "string" ? { name: entry, synonyms: [] } : { synonyms: [], ...entry };
}

export class Words extends EventTarget {
  /** Own classes in the order of their ids: `{ name, synonyms }`. */
  classes = [];
  /** The class that is being typed, or null. It is asked for as if it stood last in the list. */
  pending = null;
  /** The vocabulary that is used in place of own classes, as `GET /v1/vocabularies/{name}` has it, or null. */
  vocabulary = null;
  /** Whether names of what surrounds the classes compete with them. */
  hasBackground = false;
  /** The text of the example's classes while they are in the list unchanged, else null. */
  #ofExample = null;

  /** Names that are asked for now. */
  names() {
    return this.asked().map(({ name }) => name);
  }

  /** Whether there is nothing to ask for. */
  get isEmpty() {
    return this.asked().length === 0;
  }

  /** Whether the user has made a list of their own. */
  get isOwn() {
    return this.vocabulary !== null || (this.classes.length > 0 && this.text() !== this.#ofExample);
  }

  /** Classes that are asked for now, in the order of their ids. */
  asked() {
    if (this.vocabulary) return this.vocabulary.classes.map(classOf);
    const isNew = this.pending && !this.classes.some(({ name }) => name === this.pending.name);
    return isNew ? [...this.classes, this.pending] : this.classes;
  }

  /** The fields of a request. */
  fields() {
    const background = this.hasBackground ? { background: true } : {};
    if (this.vocabulary) return { vocabulary: this.vocabulary.name, ...background };
    const classes = this.asked().map((entry) => (entry.synonyms.length === 0 ? entry.name : entry));
    return { classes, ...background };
  }

  /** The list as one text that `take` reads. */
  text() {
    return this.classes.map(writeClass).join(",");
  }

  #changed(isTyped = false) {
    this.dispatchEvent(new CustomEvent("change", { detail: { isTyped } }));
  }

  /** Replaces the list. */
  take(classes, { isExample = false } = {}) {
    this.vocabulary = null;
    this.pending = null;
    this.classes = classes;
    this.#ofExample = isExample ? this.text() : null;
    this.#changed();
  }

  takeVocabulary(vocabulary) {
    this.vocabulary = vocabulary;
    this.pending = null;
    this.#changed();
  }

  /** Makes a vocabulary's classes the user's own, to be changed. */
  copyVocabulary() {
    this.take(this.vocabulary.classes.map(classOf));
  }

  /** Adds classes; names that are in the list already are not added again. */
  add(classes) {
    if (this.vocabulary) this.classes = [];
    this.vocabulary = null;
    this.pending = null;
    for (const added of classes) {
      if (!this.classes.some(({ name }) => name === added.name)) this.classes.push(added);
    }
    this.#changed();
  }

  type(text) {
    const typed = parseClass(text);
    if (this.vocabulary || typed?.name === this.pending?.name) return;
    this.pending = typed;
    this.#changed(true);
  }

  remove(name) {
    if (this.vocabulary) this.copyVocabulary();
    this.classes = this.classes.filter((entry) => entry.name !== name);
    this.#changed();
  }

  /** Puts another class in the place of one. */
  rename(name, to) {
    if (this.vocabulary) this.copyVocabulary();
    const isThere = this.classes.some((entry) => entry.name === to.name);
    this.classes = isThere
      ? this.classes.filter((entry) => entry.name !== name || entry.name === to.name)
      : this.classes.map((entry) => (entry.name === name ? to : entry));
    this.#changed();
  }

  setBackground(hasBackground) {
    this.hasBackground = hasBackground;
    this.#changed();
  }
}
