// A result in words: for people who do not see the picture, for warnings and for the times of all stages.

import { element, make } from "./dom.js";
import { count, milliseconds, percent } from "./text.js";
import { sentenceOf } from "./warnings.js";

/** Shows a result's sentence, warnings and times; warnings not about a word that is still being typed. */
export function showSummary(result, isTyping) {
  element("status").textContent = describe(result.classes);
  element("timings").textContent = describeTimings(result);
  const warnings = isTyping ? [] : result.reply.warnings;
  element("warnings").replaceChildren(...warnings.map((warning) => make("li", {}, sentenceOf(warning))));
  element("warnings").hidden = warnings.length === 0;
}

export function clearSummary() {
  for (const id of ["status", "timings"]) element(id).textContent = "";
  element("warnings").hidden = true;
}

function describe(classes) {
  const present = classes.filter(({ pixels }) => pixels > 0).sort((a, b) => b.pixels - a.pixels);
  if (present.length === 0) return "Done. No class has pixels.";
  const first = present.slice(0, 5).map(({ name, fraction }) => `${name} ${percent(fraction)}`);
  return `Done. ${present.length} of ${count(classes.length, "class", "classes")} have pixels: ${first.join(", ")}.`;
}

function describeTimings({ reply, roundTripSeconds }) {
  const { model, width, height, timings } = reply;
  const stages = Object.entries(timings).map(
    ([key, seconds]) => `${key.replace(/_seconds$/, "").replaceAll("_", " ")} ${milliseconds(seconds)}`,
  );
  const whole = `round trip ${milliseconds(roundTripSeconds)}`;
  return [`model ${model}, ${width} × ${height} pixels`, ...stages, whole].join(" · ");
}
