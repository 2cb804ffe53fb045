// The red notice: what went wrong, in words, and what to do. It goes when the next question is asked.

import { adviceOn, isPassing } from "./api.js";
import { element, make } from "./dom.js";

/**
 * Shows a problem.
 *
 * @param {{title?: string, message?: string}} problem an error, or an object with these
 * @param {(() => void) | null} repeat what a button "Try again" does; no button without it, or if the answer would be
 *   the same
 */
export function showProblem(problem, repeat = null) {
  const notice = element("problem");
  const texts = [problem.message, adviceOn(problem)].filter(Boolean);
  notice.replaceChildren(
    make("strong", {}, problem.title ?? "This did not work"),
    ...texts.map((text) => make("p", {}, text)),
  );
  if (repeat && isPassing(problem)) {
    const button = make("button", { type: "button" }, "Try again");
    button.addEventListener("click", () => {
      hideProblem();
      repeat();
    });
    notice.append(button);
  }
  notice.hidden = false;
}

export function hideProblem() {
  element("problem").hidden = true;
}
