// What a user can do with a region: give its class another name, say that it is not this, see where its class is
// probable, or what else looks like it. A popover: Escape or a click elsewhere closes it.

import { element } from "./dom.js";
import { parseClass } from "./words.js";

export class RegionMenu extends EventTarget {
  #menu = element("region-menu");
  /** The region that the menu is about: `{ x, y, name }`; `name` is null where nothing is labelled. */
  #region = null;
  #opener = null;

  constructor() {
    super();
    element("region-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const to = parseClass(element("region-name").value);
      if (to && to.name !== this.#region.name) this.#tell("rename", { to });
      else this.#menu.hidePopover();
    });
    for (const action of ["refuse", "heat", "likeness"]) {
      element(`region-${action}`).addEventListener("click", () => this.#tell(action));
    }
    this.#menu.addEventListener("toggle", ({ newState }) => {
      if (newState === "closed" && this.#opener?.isConnected) this.#opener.focus({ preventScroll: true });
    });
  }

  #tell(action, more = {}) {
    const region = this.#region;
    this.#menu.hidePopover();
    this.dispatchEvent(new CustomEvent(action, { detail: { ...region, ...more } }));
  }

  /** Opens the menu beside a point of the window. */
  open({ region, reading, clientX, clientY, opener }) {
    this.#region = region;
    this.#opener = opener;
    const isLabelled = region.name !== null;
    element("region-reading").textContent = reading;
    element("region-name-label").textContent = isLabelled ? "Another name" : "Name what is here";
    element("region-name").value = region.name ?? "";
    element("region-rename").textContent = isLabelled ? "Rename" : "Add";
    element("region-refuse").textContent = `Not “${region.name}” here`;
    element("region-refuse").hidden = !isLabelled;
    element("region-heat").textContent = `Where is “${region.name}” probable?`;
    element("region-heat").hidden = !isLabelled;
    this.#menu.showPopover();
    const { offsetWidth, offsetHeight } = this.#menu;
    const { clientWidth, clientHeight } = document.documentElement;
    this.#menu.style.left = `${Math.max(8, Math.min(clientX + 8, clientWidth - offsetWidth - 8))}px`;
    this.#menu.style.top = `${Math.max(8, Math.min(clientY + 8, clientHeight - offsetHeight - 8))}px`;
    // On a phone the focus in a field would open the keyboard over the picture.
    const isTouched = matchMedia("(pointer: coarse)").matches;
    (isTouched ? this.#menu : element("region-name")).focus({ preventScroll: true });
    if (!isTouched) element("region-name").select();
  }
}
