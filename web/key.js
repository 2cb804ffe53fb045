// The field for the API key. It is shown once the server has refused an answer for the lack of a key.

import { currentKey, keepKey, keys } from "./api.js";
import { element } from "./dom.js";

/** Shows the field when it is needed, and calls `changed` when the user has entered another key. */
export function listenForKey(changed) {
  const input = element("key");
  input.value = currentKey();
  element("key-panel").hidden = input.value === "";
  keys.addEventListener("refused", () => (element("key-panel").hidden = false));
  input.addEventListener("change", () => {
    keepKey(input.value.trim());
    changed();
  });
}
