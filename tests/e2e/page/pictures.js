// Makes the pictures of the page in docs/pictures, each under 200 kB:
//
//     npm ci && node pictures.js http://127.0.0.1:8080 ../../../docs/pictures
//
// The server has the models demo and demo-vit. Needs what the tests need.

import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.js";
import { withPalette } from "./palette.js";

const [server, folder] = process.argv.slice(2);
assert.ok(server && folder, "usage: node pictures.js URL FOLDER");

const MAX_BYTES = 200_000;
const DESKTOP = { viewport: { width: 1280, height: 800 } };
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };

/** Name, browser's context and what is done before the picture is taken. */
const PICTURES = [
  ["page", DESKTOP, async () => {}],
  [
    "page-dark",
    { ...DESKTOP, colorScheme: "dark" },
    async (page) => {
      await page.getByText("Outline").click();
      await page.locator(".name", { hasText: "penguin" }).first().click();
    },
  ],
  ["page-phone", PHONE, async () => {}],
  [
    "page-comparison",
    DESKTOP,
    async (page) => {
      await page.locator("#compare").selectOption("attention=clip");
      await page.waitForFunction(() => document.querySelectorAll(".overlay")[1].width > 0);
      await page
        .locator(".frame")
        .first()
        .hover({ position: { x: 90, y: 90 } });
    },
  ],
  [
    "page-heat-map",
    DESKTOP,
    async (page) => {
      await page.getByRole("button", { name: "Heat map of tiger" }).click();
      await page.waitForResponse("**/v1/segment");
      await labelled(page);
      await page.locator("#classes-heading").hover();
    },
  ],
];

/** Waits until the page shows the answer to its latest question. */
async function labelled(page) {
  await page.waitForFunction(
    () =>
      document.querySelector("#stage").getAttribute("aria-busy") === "false" &&
      document.querySelector("#status").textContent !== "",
  );
}

/** The pixels of a screenshot, which the browser itself decodes on an empty page. */
async function pixelsOf(browser, png) {
  const page = await browser.newPage();
  const text = await page.evaluate(
    async (url) => {
      const bitmap = await createImageBitmap(await (await fetch(url)).blob());
      const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
      context.drawImage(bitmap, 0, 0);
      const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
      let text = "";
      for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
      return btoa(text);
    },
    `data:image/png;base64,${png.toString("base64")}`,
  );
  await page.close();
  return { rgba: Buffer.from(text, "base64"), width: png.readUInt32BE(16), height: png.readUInt32BE(20) };
}

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox", "--disable-gpu"] });
for (const [name, context, prepare] of PICTURES) {
  const opened = await browser.newContext(context);
  const page = await opened.newPage();
  await page.goto(server);
  await labelled(page);
  await prepare(page);
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  const path = join(folder, `${name}.png`);
  const { rgba, width, height } = await pixelsOf(browser, await page.screenshot());
  const picture = await withPalette(rgba, width, height);
  assert.ok(picture.length <= MAX_BYTES, `${path} has ${picture.length} bytes`);
  writeFileSync(path, picture);
  console.log(`${path}: ${picture.length} bytes`);
  await opened.close();
}
await browser.close();
