// Short forms for what every module of the page does with the document.

/** The element with this id. */
export const element = (id) => document.getElementById(id);

/**
 * Makes an element. Keys with a dash, `role` and `for` become attributes, all others properties; children are elements
 * or texts.
 */
export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** Runs a task once in the next frame, however often it is asked for until then. */
export function oncePerFrame(task) {
  let isQueued = false;
  return () => {
    if (isQueued) return;
    isQueued = true;
    requestAnimationFrame(() => {
      isQueued = false;
      task();
    });
  };
}

/** Hands a file to the user. */
export function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  // The download may start after this call, and the browser reads the address then.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
