// The images of this tab: choosing, dropping, pasting and photographing them, the examples, and the strip. Tells by the
// event "choose" which image is to be shown, and by "list" that images have come or gone.

import { getJson, RequestProblem } from "./api.js";
import { element, make } from "./dom.js";
import { GivenImage } from "./labelling.js";
import { looksLikePhotograph } from "./photograph.js";
import { showProblem } from "./problem.js";
import { count } from "./text.js";

export class Images extends EventTarget {
  /** @type {GivenImage[]} */
  list = [];
  /** @type {GivenImage | null} */
  current = null;
  /** Example scenes: `{ image, title, classes }`. */
  examples = [];
  /** Counts choices: a slow one gives way to a later one. */
  #choices = 0;

  constructor() {
    super();
    for (const id of ["file", "camera"]) {
      element(id).addEventListener("change", (event) => {
        this.addFiles([...event.target.files]);
        event.target.value = ""; // choosing the same file again is then a change
      });
    }
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files].filter(({ type }) => type.startsWith("image/"));
      if (files.length === 0) return;
      event.preventDefault();
      this.addFiles(files);
    });
    this.#listenForDrops(document.documentElement);
  }

  /** The images whose labels are files to the user: their own, or the examples that were opened if there are none. */
  get forFiles() {
    const own = this.#own();
    return own.length > 0 ? own : [...this.list];
  }

  #own() {
    return this.list.filter(({ exampleUrl }) => exampleUrl === null);
  }

  #listChanged() {
    this.#showStrip();
    this.dispatchEvent(new Event("list"));
  }

  #listenForDrops(root) {
    const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
    root.addEventListener("dragover", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      root.classList.add("dropping");
    });
    root.addEventListener("dragleave", (event) => {
      if (event.relatedTarget === null) root.classList.remove("dropping");
    });
    root.addEventListener("drop", (event) => {
      root.classList.remove("dropping");
      if (!carriesFiles(event)) return;
      event.preventDefault();
      this.addFiles([...event.dataTransfer.files]);
    });
  }

  /** Adds files to the strip and shows the first of them. Files that the browser cannot read are named. */
  async addFiles(files) {
    const choice = ++this.#choices;
    const added = [];
    const unread = [];
    for (const file of files) {
      const image = await read(file, file.name);
      if (image) added.push(image);
      else unread.push(file.name);
    }
    this.list.push(...added);
    this.#listChanged();
    if (added.length > 0 && choice === this.#choices) this.choose(added[0]);
    if (unread.length === 0) return;
    showProblem({
      title: `${count(unread.length, "file", "files")} cannot be shown`,
      message: `This browser cannot read ${unread.join(", ")}. It can read PNG, JPEG and WebP.`,
    });
  }

  /** Shows an image, which stands in the list from then on. */
  choose(image, detail = {}) {
    this.#choices++;
    this.current?.stopSending();
    this.current = image;
    if (!this.list.includes(image)) this.list.push(image);
    this.#listChanged();
    this.dispatchEvent(new CustomEvent("choose", { detail: { image, ...detail } }));
  }

  /** Takes one of the user's images out of the list. If it is the one that is shown, another takes its place. */
  remove(image) {
    const own = this.#own();
    const next = own[own.indexOf(image) + 1] ?? own[own.indexOf(image) - 1];
    this.list = this.list.filter((each) => each !== image);
    this.#listChanged();
    if (image !== this.current) return;
    if (next) this.choose(next);
    else this.takeExample(this.examples[0]);
  }

  // --- examples ---

  /** Lists the example scenes; does nothing if the server does not give them. */
  async loadExamples() {
    this.examples = await getJson("assets/examples/index.json").catch(() => []);
    this.#showStrip();
  }

  /**
   * The image of an example, which stands in the list from then on.
   *
   * @throws {RequestProblem} if it cannot be loaded
   */
  async loadExample({ image: name }) {
    const exampleUrl = `assets/examples/${name}`;
    const find = () => this.list.find((each) => each.exampleUrl === exampleUrl);
    if (find()) return find();
    const response = await fetch(exampleUrl).catch(() => null);
    const image = response?.ok ? await read(await response.blob(), name, exampleUrl) : null;
    if (!image) throw new RequestProblem({ title: "The example could not be loaded", status: response?.status ?? 0 });
    if (!find()) {
      this.list.push(image);
      this.#listChanged();
    }
    return find();
  }

  /** The example of an image; null for the user's own. */
  exampleOf({ exampleUrl }) {
    return this.examples.find(({ image }) => exampleUrl === `assets/examples/${image}`) ?? null;
  }

  /** Shows an example with its classes. */
  async takeExample(example) {
    const choice = ++this.#choices;
    try {
      const image = await this.loadExample(example);
      if (choice === this.#choices) this.choose(image, { example });
    } catch (problem) {
      if (choice === this.#choices) showProblem(problem, () => this.takeExample(example));
    }
  }

  // --- strip ---

  /** Shows the user's images and then the examples. */
  #showStrip() {
    const own = this.#own();
    const isOnly = own.length + this.examples.length === 1;
    const items = own.map((image) => {
      const item = this.#item(image.url, image.name, image === this.current, () => this.choose(image));
      if (!isOnly) item.append(this.#removeButton(image));
      return item;
    });
    const examples = this.examples.map((example) => {
      const url = `assets/examples/${example.image}`;
      const isCurrent = this.current?.exampleUrl === url;
      return this.#item(url, example.title, isCurrent, () => this.takeExample(example));
    });
    const strip = element("strip");
    const focused = [...strip.children].findIndex((item) => item.contains(document.activeElement));
    strip.replaceChildren(...items, ...examples);
    if (focused >= 0) strip.children[focused]?.querySelector("button").focus();
  }

  #removeButton(image) {
    const action = { type: "button", className: "remove", "aria-label": `Remove ${image.name}`, title: "Remove" };
    const button = make("button", action, "×");
    button.addEventListener("click", () => this.remove(image));
    return button;
  }

  #item(url, title, isCurrent, choose) {
    const button = make(
      "button",
      { type: "button", className: "thumbnail", title, "aria-pressed": String(isCurrent) },
      make("img", { src: url, alt: "", loading: "lazy" }),
      make("span", {}, title),
    );
    button.addEventListener("click", choose);
    return make("li", {}, button);
  }
}

/** Reads a file as an image; null if the browser cannot. */
async function read(blob, name, exampleUrl = null) {
  const url = URL.createObjectURL(blob);
  const picture = new Image();
  picture.src = url;
  try {
    await picture.decode();
  } catch {
    URL.revokeObjectURL(url);
    return null;
  }
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const isPhotograph = exampleUrl === null && looksLikePhotograph(picture, width, height);
  return new GivenImage({ blob, name, url, width, height, exampleUrl, isPhotograph });
}
