// The field for the API key. It is shown once the server has refused an answer for the lack of a key, and says so when
// the server does not know the one that was entered.

import { currentKey, keepKey, keys } from "./api.js";
import { element } from "./dom.js";

/** Shows the field when it is needed, and calls `changed` when the user has entered another key. */
export function listenForKey(changed) {
  const input = element("key");
  input.value = currentKey();
  element("key-panel").hidden = input.value === "";
  keys.addEventListener("refused", ({ detail: { key, status } }) => {
    element("key-panel").hidden = false;
    // Only the key in use: an answer to an older one may come late. With 403 the server knows the key.
    if (status === 401 && key !== "" && key === currentKey()) showRefusal(input, "The server does not know this key.");
  });
  input.addEventListener("change", () => {
    showRefusal(input, "");
    keepKey(input.value.trim());
    changed();
  });
}

function showRefusal(input, text) {
  element("key-problem").textContent = text;
  input.setAttribute("aria-invalid", String(text !== ""));
}
