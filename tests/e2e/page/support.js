// What the tests of the page have in common: the browser, a fresh page for each test, and the things that users do.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.js";

const [firstServer, secondServer] = process.argv.slice(2);

/** The server that answers everybody. */
export const server = firstServer;
/** The server that answers with the key alone. */
export const closedServer = secondServer;
export const key = process.env.MASKCLIP_KEY;
assert.ok(server && closedServer && key, "usage: MASKCLIP_KEY=KEY node FILE.test.js URL CLOSED_URL");

let browser;
/** The example scenes of the server. */
export let examples;

before(async () => {
  browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox", "--disable-gpu"] });
  examples = await (await fetch(new URL("assets/examples/index.json", server))).json();
});

after(() => browser?.close());

/** A phone's screen and finger. */
export const phone = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

/**
 * A test with a fresh page that has opened on its first example. A test fails on every error that the page writes to
 * the console; violations of the content security policy are such errors.
 *
 * @param {RegExp} options.allowed errors in the console that match are expected
 * @param {object} options.context options of the browser's context, such as `phone`
 * @param {string} options.url where the page is
 * @param {boolean} options.isLabelled whether to wait for the first label map
 */
export function pageTest(name, body, { allowed = /^$/, context = {}, url = server, isLabelled = true, prepare } = {}) {
  test(name, async () => {
    const opened = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"], ...context });
    try {
      const page = await opened.newPage();
      page.setDefaultTimeout(30_000);
      const errors = [];
      page.on("pageerror", (error) => errors.push(error.message));
      page.on("console", (message) => {
        if (message.type() === "error" && !allowed.test(message.text())) errors.push(message.text());
      });
      await prepare?.(page);
      await page.goto(url);
      if (isLabelled) await labelled(page);
      await body(page);
      assert.deepEqual(errors, []);
    } finally {
      await opened.close();
    }
  });
}

/** Waits until the page shows the answer to its latest question. */
export async function labelled(page) {
  await page.waitForFunction(
    () =>
      document.querySelector("#stage").getAttribute("aria-busy") === "false" &&
      document.querySelector("#status").textContent !== "",
  );
  await painted(page);
}

/** Waits until what is queued for the next frame is drawn. */
export async function painted(page) {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

/**
 * Does something after which the page asks anew, and waits for the answer. Returns the response of `POST /v1/segment`.
 */
export async function asking(page, action) {
  const [response] = await Promise.all([page.waitForResponse("**/v1/segment"), action()]);
  await labelled(page);
  return response;
}

/** Replaces the list of classes. Returns the response. */
export async function takeClasses(page, names) {
  await page.locator("#clear-classes").click();
  await page.locator("#legend").waitFor({ state: "hidden" });
  return asking(page, () => paste(page, names.join("\n")));
}

/** Pastes a text of one class or several into the input of classes. */
export async function paste(page, text) {
  await page.locator("#class-input").evaluate((input, text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text", `${text}\n`); // the page itself takes what has several lines
    input.dispatchEvent(new ClipboardEvent("paste", { clipboardData, cancelable: true, bubbles: true }));
  }, text);
}

/** Opens the fold of the command, which the page fills once the browser has opened it, and returns the command. */
export async function shownCommand(page) {
  await page.locator("#curl summary").click();
  await page.waitForFunction(() => document.getElementById("curl-command").value !== "");
  return page.locator("#curl-command").inputValue();
}

/** Names in the legend. */
export function legend(page) {
  return page.locator("#legend tbody tr th").allTextContents();
}

/** Names on the picture, with their number. */
export async function namesOnPicture(page, side = 0) {
  await painted(page);
  return page.locator(".picture").nth(side).locator(".name").allTextContents();
}

/** The RGBA bytes of a picture's overlay. */
export async function overlay(page, side = 0) {
  await painted(page);
  const text = await page
    .locator(".overlay")
    .nth(side)
    .evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let text = "";
      for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
      return btoa(text);
    });
  return Buffer.from(text, "base64");
}

/** The API's own reply for an example, with the label map as rows of ids. */
export async function segmentRaw(request, example = examples[0]) {
  const form = new FormData();
  const image = await fetch(new URL(`assets/examples/${example.image}`, server));
  form.append("image", await image.blob());
  form.append("request", JSON.stringify({ ...request, output: { label_map: "raw" } }));
  const response = await fetch(new URL("v1/segment", server), { method: "POST", body: form });
  assert.equal(response.status, 200);
  return response.json();
}

/** A file for the page's input: an example under another name, so that it counts as the user's own. */
export async function fileOf(example, name) {
  const response = await fetch(new URL(`assets/examples/${example.image}`, server));
  return { name, mimeType: "image/png", buffer: Buffer.from(await response.arrayBuffer()) };
}

/** The middle of a picture's pixel, relative to its frame. */
export async function pixelPosition(page, [x, y], [width, height], side = 0) {
  const box = await page.locator(".frame").nth(side).boundingBox();
  return { x: ((x + 0.5) / width) * box.width, y: ((y + 0.5) / height) * box.height };
}
