// The page in headless Chromium against a running server, from picking an example to the copied command.
//
//     npm ci && MASKCLIP_KEY=KEY node page.test.js http://127.0.0.1:8080 http://127.0.0.1:8081 [SCREENSHOT.png]
//
// The second server answers with the key alone. Needs Node 20.15, curl and Chromium: the program that CHROMIUM names, or one of the usual names. A test fails on every
// error that the page writes to the console; violations of the content security policy are such errors.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.js";

const [server, closedServer, screenshot = "page.png"] = process.argv.slice(2);
const key = process.env.MASKCLIP_KEY;
assert.ok(server && closedServer && key, "usage: MASKCLIP_KEY=KEY node page.test.js URL CLOSED_URL [SCREENSHOT.png]");

let browser;
let examples;

before(async () => {
  browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox", "--disable-gpu"] });
  examples = await (await fetch(new URL("/assets/examples/index.json", server))).json();
});

after(() => browser?.close());

/** A test with a fresh page. Errors in the console that match `allowed` are expected. */
function pageTest(name, body, allowed = /^$/) {
  test(name, async () => {
    const context = await browser.newContext({ permissions: ["clipboard-read", "clipboard-write"] });
    try {
      const page = await context.newPage();
      page.setDefaultTimeout(30_000);
      const errors = [];
      page.on("pageerror", (error) => errors.push(error.message));
      page.on("console", (message) => {
        if (message.type() === "error" && !allowed.test(message.text())) errors.push(message.text());
      });
      await page.goto(server);
      await body(page);
      assert.deepEqual(errors, []);
    } finally {
      await context.close();
    }
  });
}

/** Takes the first example and waits for its label map. */
async function takeExample(page) {
  await page.locator("#example-list button").first().click();
  await page.locator("#result").waitFor();
}

/** Replaces the list of classes by typing. */
async function typeClasses(page, names) {
  await page.locator("#class-input").focus();
  while ((await page.locator("#class-list li").count()) > 0) await page.keyboard.press("Backspace");
  for (const name of names) {
    await page.keyboard.insertText(name);
    await page.keyboard.press("Enter");
  }
}

/** Sends the form by the keyboard and waits until the page shows the answer. Returns the response. */
async function send(page) {
  const [response] = await Promise.all([
    page.waitForResponse("**/v1/segment"),
    page.locator("#class-input").press("Enter"),
  ]);
  await page.locator("#progress").waitFor({ state: "hidden" });
  return response;
}

async function legend(page) {
  return (await page.locator("#legend tbody tr[data-id] th").allTextContents()).sort();
}

/** The API's own reply for the first example, with the label map as rows of ids. */
async function segmentRaw(request) {
  const form = new FormData();
  const image = await fetch(new URL(`/assets/examples/${examples[0].image}`, server));
  form.append("image", await image.blob());
  form.append("request", JSON.stringify({ ...request, output: { label_map: "raw" } }));
  const response = await fetch(new URL("/v1/segment", server), { method: "POST", body: form });
  assert.equal(response.status, 200);
  return response.json();
}

pageTest("an example is labelled with its own classes at one click", async (page) => {
  await takeExample(page);
  const names = examples[0].classes.map((text) => text.split(/[=;]/)[0].trim());
  assert.deepEqual(await legend(page), [...names].sort());
  assert.match(await page.locator("#status").textContent(), /^Done\. /);
  assert.match(await page.locator("#timings").textContent(), /model [\d.]+ ms/);
  await page.screenshot({ path: screenshot, fullPage: true });
});

pageTest("typed classes with a synonym make the legend", async (page) => {
  await takeExample(page);
  await typeClasses(page, ["tiger", "lemon", "boat = ship; sailboat"]);
  const { vocabulary } = await (await send(page)).json();
  const same = await segmentRaw({ classes: ["tiger", "lemon", { name: "boat", synonyms: ["ship", "sailboat"] }] });
  assert.equal(vocabulary.id, same.vocabulary.id, "equal class lists have equal ids");
  assert.deepEqual(await legend(page), ["boat", "lemon", "tiger"]);
});

pageTest("an image is sent once, whatever is asked of it", async (page) => {
  let sent = 0;
  page.on("request", (request) => (sent += Number(request.url().endsWith("/v1/images"))));
  await takeExample(page);
  for (const names of [["tiger"], ["lemon", "boat"]]) {
    await typeClasses(page, names);
    const response = await send(page);
    assert.ok((await response.json()).features_cached);
    assert.deepEqual(await legend(page), [...names].sort());
  }
  assert.equal(sent, 1);
  await page.locator("#example-list button").nth(1).click();
  await page.waitForResponse("**/v1/segment");
  assert.equal(sent, 2);
});

pageTest(
  "an image that the server holds no more is sent again",
  async (page) => {
    const [held] = await Promise.all([page.waitForResponse("**/v1/images"), takeExample(page)]);
    const { image_id } = await held.json();
    await fetch(new URL(`/v1/images/${image_id}`, server), { method: "DELETE" });
    await typeClasses(page, ["tiger", "lemon"]);
    const [again] = await Promise.all([
      page.waitForResponse("**/v1/images"),
      page.waitForResponse((response) => response.url().endsWith("/v1/segment") && response.ok()),
      page.locator("#class-input").press("Enter"),
    ]);
    assert.notEqual((await again.json()).image_id, image_id);
    await page.locator("#progress").waitFor({ state: "hidden" });
    assert.deepEqual(await legend(page), ["lemon", "tiger"]);
  },
  /status of 404/,
);

pageTest(
  "an image that the server has no room for is sent with each request",
  async (page) => {
    const problem = { type: "/problems/image-too-large-to-hold", title: "Too large", status: 413 };
    await page.route("**/v1/images", (route) => route.fulfill({ status: 413, json: problem }));
    await takeExample(page);
    await typeClasses(page, ["tiger", "lemon"]);
    assert.equal((await send(page)).status(), 200);
    assert.deepEqual(await legend(page), ["lemon", "tiger"]);
  },
  /status of 413/,
);

pageTest("the overlay is the API's label map, pixel for pixel", async (page) => {
  await takeExample(page);
  await typeClasses(page, ["tiger", "lemon", "boat"]);
  await page.locator("#background").check();
  await send(page);
  const { classes, label_map, width, height } = await segmentRaw({
    classes: ["tiger", "lemon", "boat"],
    background: true,
  });
  const drawn = await page.locator("#overlay").evaluate(
    (canvas, { rows, colours }) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      const transparent = [0, 0, 0, 0];
      const differs = (id, i) => (colours[id] ?? transparent).some((value, channel) => data[4 * i + channel] !== value);
      return { size: [canvas.width, canvas.height], wrong: rows.flat().filter(differs).length };
    },
    { rows: label_map.data, colours: classes.map(({ color }) => [...Buffer.from(color.slice(1), "hex"), 255]) },
  );
  assert.deepEqual(drawn, { size: [width, height], wrong: 0 });
});

pageTest("the arrow keys read the class under the probe", async (page) => {
  await takeExample(page);
  await typeClasses(page, ["tiger", "lemon"]);
  await send(page);
  const { classes, label_map, width, height } = await segmentRaw({ classes: ["tiger", "lemon"] });
  await page.locator("#picture").press("Shift+ArrowLeft");
  const [x, y] = [Math.floor(width / 2) - 1, Math.floor(height / 2)];
  const name = classes[label_map.data[y][x]].name;
  const spoken = await page.locator("#probe-spoken").textContent();
  assert.match(spoken, new RegExp(`^${name} \\d+%, x ${x}, y ${y}$`));
});

pageTest("a class that is switched off leaves the overlay", async (page) => {
  await takeExample(page);
  const opaque = () =>
    page.locator("#overlay").evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, i) => i % 4 === 3 && value > 0).length;
    });
  const before = await opaque();
  assert.ok(before > 0, "an example's classes have pixels");
  await page.locator("#hide-all").click();
  await page.waitForFunction(() => document.querySelectorAll("#legend input:checked").length === 0);
  await page.evaluate(() => new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted))));
  assert.equal(await opaque(), 0);
});

pageTest(
  "a refused request is explained in the server's words",
  async (page) => {
    await takeExample(page);
    await typeClasses(page, ["tiger".repeat(1000)]);
    const response = await send(page);
    assert.equal(response.status(), 422);
    const { title, detail } = await response.json();
    assert.equal(await page.locator("#problem strong").textContent(), title);
    assert.equal(await page.locator("#problem p").textContent(), detail);
  },
  /status of 422/,
);

pageTest("without an image or classes the page says what is missing", async (page) => {
  await page.locator("#run").click();
  assert.match(await page.locator("#problem").textContent(), /no image yet/);
  await takeExample(page);
  await typeClasses(page, []);
  await page.locator("#run").click();
  assert.match(await page.locator("#problem").textContent(), /no classes yet/);
});

pageTest("every choice that the settings offer is one that the server takes", async (page) => {
  await takeExample(page);
  await page.locator("#advanced summary").click();
  for (const field of ["attention", "templates", "key-smoothing", "refinement"]) {
    const select = page.locator(`#${field}`);
    const values = await select.locator("option").evaluateAll((options) => options.map(({ value }) => value));
    assert.ok(values.length > 2, field);
    for (const value of values) {
      await select.selectOption(value);
      const response = await send(page);
      assert.equal(response.status(), 200, `${field}: ${value}`);
    }
    await select.selectOption("");
  }
});

pageTest("the model that is picked answers and offers what it can do", async (page) => {
  await takeExample(page);
  const { models } = await (await fetch(new URL("/v1/models", server))).json();
  assert.deepEqual(await page.locator("#model-choice option").allTextContents(), ["demo", "demo-vit"]);
  for (const { name, attentions } of models) {
    await page.locator("#model-choice").selectOption(name);
    const offered = await page.locator("#attention option").evaluateAll((options) => options.map(({ value }) => value));
    assert.deepEqual(offered, ["", ...attentions]);
    assert.equal((await (await send(page)).json()).model, name);
  }
});

pageTest("what a model lacks is off and not asked for", async (page) => {
  const student = { name: "student", attentions: [], key_smoothings: ["none"], student: { classes: ["tiger"] } };
  await page.route("**/v1/models", async (route) => {
    const response = await route.fetch();
    const list = await response.json();
    list.models[1] = { ...list.models[1], ...student };
    await route.fulfill({ response, json: list });
  });
  await page.reload();
  await page.locator("#advanced summary").click();
  await page.locator("#attention").selectOption("clip");
  await page.locator("#model-choice").selectOption("student");
  assert.ok(await page.locator("#attention").isDisabled());
  assert.ok(await page.locator("#key-smoothing").isDisabled());
  assert.match(await page.locator("#trained-on").textContent(), /trained on tiger;/);
  await page.locator("#copy-curl").click();
  const command = await page.locator("#curl-command").inputValue();
  assert.ok(command.includes('"model":"student"') && !command.includes("attention"), command);
});

pageTest("the curl command works as pasted, quotes and semicolons in class names too", async (page) => {
  await takeExample(page);
  await typeClasses(page, ["tiger", "bird's nest", "boat = ship; sailboat"]);
  await page.locator("#copy-curl").click();
  await page.locator("#copied", { hasText: "Copied." }).waitFor();
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const folder = mkdtempSync(join(tmpdir(), "maskclip-page-"));
  try {
    const output = execFileSync("sh", ["-c", command], { cwd: folder, encoding: "utf8" });
    assert.equal(output, "HTTP 200, saved as reply.json\n");
    const reply = JSON.parse(readFileSync(join(folder, "reply.json"), "utf8"));
    assert.deepEqual(reply.classes.map(({ name }) => name), ["tiger", "bird's nest", "boat"]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

pageTest(
  "a server that needs a key is used with the key that the page is given, until the tab is closed",
  async (page) => {
    assert.ok(await page.locator("#key-panel").isHidden(), "a server without keys asks for none");
    await page.goto(closedServer);
    await page.locator("#key-panel").waitFor();
    await page.locator("#model", { hasText: "needs a key" }).waitFor();
    await page.locator("#example-list button").first().click();
    await page.locator("#problem strong", { hasText: "A key is needed" }).waitFor();
    await page.locator("#key").fill(key);
    await page.locator("#key").press("Tab");
    await page.locator("#model", { hasText: "demo" }).waitFor();
    await takeExample(page);
    await page.locator("#copy-curl").click();
    const command = await page.locator("#curl-command").inputValue();
    assert.ok(command.includes('"Authorization: Bearer $MASKCLIP_KEY"') && !command.includes(key), command);
    await page.reload();
    await page.locator("#model", { hasText: "demo" }).waitFor();
    assert.equal(await page.evaluate(() => localStorage.length), 0);
  },
  /status of 401/,
);
