// What was labelled in this tab: small pictures that bring image and settings back. Kept until the tab is closed, and
// not over a reload, since the images are not.

import { element, make } from "./dom.js";

/** At most this many are kept; the oldest go first. */
const MAX_ENTRIES = 24;
/** Width of a small picture. */
const WIDTH = 160;

export class Past extends EventTarget {
  /** Latest first: `{ image, address, canvas, title }`. */
  #entries = [];

  /** Adds what the picture shows, in place of an entry of the same image and settings. */
  add(image, address, title, picture) {
    const height = Math.max(1, Math.round((WIDTH * image.height) / image.width));
    const canvas = make("canvas", { width: WIDTH, height, "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    context.drawImage(picture.image, 0, 0, WIDTH, height);
    if (picture.overlay.width > 0) context.drawImage(picture.overlay, 0, 0, WIDTH, height);
    const others = this.#entries.filter((entry) => entry.image !== image || entry.address !== address);
    this.#entries = [{ image, address, canvas, title }, ...others].slice(0, MAX_ENTRIES);
    this.#show();
  }

  #show() {
    element("past-panel").hidden = this.#entries.length < 2;
    element("past").replaceChildren(...this.#entries.map((entry) => this.#item(entry)));
  }

  #item({ image, address, canvas, title }) {
    const button = make("button", { type: "button", className: "thumbnail", title }, canvas, make("span", {}, title));
    button.addEventListener("click", () => {
      this.dispatchEvent(new CustomEvent("choose", { detail: { image, address } }));
    });
    return make("li", {}, button);
  }
}
