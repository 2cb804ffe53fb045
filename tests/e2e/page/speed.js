// Measures the time from a keystroke to the new label map on the screen, beyond the pause that the page makes for
// typing:
//
//     npm ci && node speed.js http://127.0.0.1:8080 ["model=ViT-B-16&option.templates=simple"]
//
// Types words letter by letter, each letter once the map of the one before is there, so every map is of a text that the
// server has not embedded before. The settings are those of the page's address. Prints the median and the 90th
// percentile over the letters. Needs what the tests need.

import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.js";

const [server, settings = ""] = process.argv.slice(2);
assert.ok(server, "usage: node speed.js URL [SETTINGS]");

/** The pause of app.js, TYPING_PAUSE_MILLISECONDS. */
const PAUSE_MILLISECONDS = 150;
const WORDS = ["watermelon", "helicopter", "strawberry jam", "snowman"];

const browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox", "--disable-gpu"] });
const page = await browser.newPage({ viewport: { width: 1280, height: 800 } });
await page.goto(new URL(settings && `#${settings}`, server).href);
await page.waitForFunction(() => document.querySelector("#status").textContent.startsWith("Done"));
// Counts from the input's event to the frame after the one in which the answer is shown.
await page.evaluate(() => {
  globalThis.times = [];
  let started = 0;
  document.querySelector("#class-input").addEventListener("input", () => (started = performance.now()), true);
  new MutationObserver(() => {
    requestAnimationFrame(() => setTimeout(() => globalThis.times.push(performance.now() - started)));
  }).observe(document.querySelector("#timings"), { childList: true });
});
const input = page.locator("#class-input");
for (const word of WORDS) {
  for (const letter of word) {
    const before = await page.evaluate(() => globalThis.times.length);
    await input.press(letter === " " ? "Space" : letter);
    if (letter === " ") continue; // the same word: nothing is asked
    await page.waitForFunction((before) => globalThis.times.length > before, before);
  }
  await input.fill("");
  await page.waitForTimeout(1000);
}
const times = (await page.evaluate(() => globalThis.times))
  .map((time) => time - PAUSE_MILLISECONDS)
  .sort((a, b) => a - b);
const at = (share) => times[Math.min(times.length - 1, Math.floor(share * times.length))].toFixed(0);
console.log(`${times.length} keystrokes, beyond the pause of ${PAUSE_MILLISECONDS} ms:`);
console.log(`median ${at(0.5)} ms, 90 % within ${at(0.9)} ms`);
await browser.close();
