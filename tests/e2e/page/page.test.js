// The question: classes, models, settings, keys and the copied command.
//
//     npm ci && MASKCLIP_KEY=KEY node page.test.js http://127.0.0.1:8080 http://127.0.0.1:8081
//
// Both servers have the models demo and demo-vit; the second answers with the key alone. These files need Node 20.15,
// curl and Chromium: the program that CHROMIUM names, or one of the usual names.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  asking,
  closedServer,
  examples,
  key,
  labelled,
  legend,
  namesOnPicture,
  pageTest,
  paste,
  segmentRaw,
  server,
  shownCommand,
  takeClasses,
} from "./support.js";

const nameOf = (text) => text.split(/[=;]/)[0].trim();

pageTest("the page opens on an example that is labelled with its own classes", async (page) => {
  assert.deepEqual(await legend(page), examples[0].classes.map(nameOf));
  assert.match(await page.locator("#status").textContent(), /^Done\. \d of \d classes have pixels: /);
  assert.match(await page.locator("#timings").textContent(), /model [\d.]+ ms.* round trip [\d.]+ ms/);
  assert.ok((await namesOnPicture(page)).length > 0, "regions carry their names");
  assert.ok(await page.locator("#problem").isHidden());
});

pageTest("another example brings its classes, unless the user has a list", async (page) => {
  await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
  assert.deepEqual(await legend(page), examples[1].classes.map(nameOf));
  await takeClasses(page, ["tiger", "lemon"]);
  await asking(page, () => page.getByRole("button", { name: examples[0].title }).click());
  assert.deepEqual(await legend(page), ["tiger", "lemon"]);
});

pageTest("the map follows the word that is being typed", async (page) => {
  await takeClasses(page, ["tiger"]);
  const response = await asking(page, () => page.locator("#class-input").pressSequentially("lemon"));
  assert.deepEqual(response.request().postDataJSON().classes, ["tiger", "lemon"]);
  assert.deepEqual(await legend(page), ["tiger", "lemon"]);
  await page.locator("#class-input").press("Enter");
  await labelled(page);
  assert.deepEqual(await legend(page), ["tiger", "lemon"]);
  assert.equal(await page.locator("#class-input").inputValue(), "");
});

pageTest("of several keystrokes the last one is answered", async (page) => {
  await takeClasses(page, ["tiger"]);
  const asked = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/segment")) asked.push(request.postDataJSON().classes.at(-1));
  });
  // The first answer comes last.
  await page.route("**/v1/segment", async (route) => {
    if (route.request().postDataJSON().classes.at(-1) === "lem") await new Promise((done) => setTimeout(done, 700));
    await route.continue().catch(() => {}); // the page may have aborted it
  });
  const input = page.locator("#class-input");
  await Promise.all([
    page.waitForRequest((request) => request.url().endsWith("/v1/segment")),
    input.pressSequentially("lem"),
  ]);
  await asking(page, () => input.pressSequentially("on"));
  await page.waitForTimeout(900);
  assert.deepEqual(asked.slice(0, 1), ["lem"]);
  assert.equal(asked.at(-1), "lemon");
  assert.deepEqual(await legend(page), ["tiger", "lemon"]);
  assert.match(await page.locator('tr[data-name="lemon"] td').first().textContent(), /%/);
});

pageTest("typed classes with a synonym make the legend", async (page) => {
  const response = await takeClasses(page, ["tiger", "lemon", "boat = ship; sailboat"]);
  const { vocabulary } = await response.json();
  const same = await segmentRaw({ classes: ["tiger", "lemon", { name: "boat", synonyms: ["ship", "sailboat"] }] });
  assert.equal(vocabulary.id, same.vocabulary.id, "equal class lists have equal ids");
  assert.deepEqual(await legend(page), ["tiger", "lemon", "boat = ship; sailboat"]);
});

pageTest("words are suggested from the server's vocabularies and taken by the keyboard", async (page) => {
  await takeClasses(page, ["tiger"]);
  const input = page.locator("#class-input");
  await input.pressSequentially("traffic l");
  await page.locator("#suggestions li", { hasText: /^traffic light$/ }).waitFor();
  assert.equal(await input.getAttribute("aria-expanded"), "true");
  await input.press("ArrowDown");
  const active = await input.getAttribute("aria-activedescendant");
  const word = await page.locator(`#${active}`).textContent();
  await asking(page, () => input.press("Enter"));
  assert.deepEqual(await legend(page), ["tiger", word]);
  await input.pressSequentially("ca");
  await page.locator("#suggestions li").first().waitFor();
  await input.press("Escape");
  assert.ok(await page.locator("#suggestions").isHidden());
});

pageTest("classes are removed by their buttons and by Backspace", async (page) => {
  await takeClasses(page, ["tiger", "lemon", "boat"]);
  await asking(page, () => page.getByRole("button", { name: "Remove lemon" }).click());
  assert.deepEqual(await legend(page), ["tiger", "boat"]);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Remove boat");
  await asking(page, () => page.locator("#class-input").press("Backspace"));
  assert.deepEqual(await legend(page), ["tiger"]);
  await page.locator("#class-input").press("Backspace");
  await page.locator("#no-classes").waitFor();
  assert.ok(await page.locator("#problem").isHidden(), "an empty list is no error");
});

pageTest("an image is sent once, whatever is asked of it", async (page) => {
  let sent = 0;
  page.on("request", (request) => (sent += Number(request.url().endsWith("/v1/images"))));
  for (const names of [["tiger"], ["lemon", "boat"]]) {
    const response = await takeClasses(page, names);
    assert.ok((await response.json()).features_cached);
    assert.deepEqual(await legend(page), names);
  }
  assert.equal(sent, 0, "it was sent when the page opened");
  await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
  assert.equal(sent, 1);
});

pageTest(
  "an image that the server holds no more is sent again",
  async (page) => {
    const [held] = await Promise.all([
      page.waitForResponse("**/v1/images"),
      page.getByRole("button", { name: examples[1].title }).click(),
    ]);
    await labelled(page);
    const { image_id } = await held.json();
    await fetch(new URL(`v1/images/${image_id}`, server), { method: "DELETE" });
    const [again] = await Promise.all([
      page.waitForResponse("**/v1/images"),
      page.waitForResponse((response) => response.url().endsWith("/v1/segment") && response.ok()),
      paste(page, "tiger,lemon"),
    ]);
    assert.notEqual((await again.json()).image_id, image_id);
    await labelled(page);
    assert.ok((await legend(page)).includes("tiger"));
  },
  { allowed: /status of 404/ },
);

pageTest(
  "an image that the server has no room for is sent with each request",
  async (page) => {
    const response = await takeClasses(page, ["tiger", "lemon"]);
    assert.equal(response.status(), 200);
    assert.match(response.request().headers()["content-type"], /^multipart\/form-data/);
    assert.deepEqual(await legend(page), ["tiger", "lemon"]);
  },
  {
    allowed: /status of 413/,
    prepare: async (page) => {
      const problem = { type: "/problems/image-too-large-to-hold", title: "Too large", status: 413 };
      await page.route("**/v1/images", (route) => route.fulfill({ status: 413, json: problem }));
    },
  },
);

pageTest("a shipped vocabulary is found by its title and previewed", async (page) => {
  await page.locator("#open-vocabularies").click();
  await page.locator("#vocabulary-search").fill("pascal voc 20");
  await page.locator('.vocabulary[data-name="voc-20"]').click();
  await page.locator("#preview-title", { hasText: "PASCAL VOC 20" }).waitFor();
  assert.equal(await page.locator("#preview-classes li").count(), 20);
  assert.match(await page.locator("#preview-facts").textContent(), /^20 classes/);
  assert.ok(await page.locator("#delete-vocabulary").isHidden());
  await page.locator("#copy-vocabulary").click();
  assert.equal((await legend(page)).length, 20);
});

pageTest("vocabularies are found by any of their classes", async (page) => {
  await page.locator("#open-vocabularies").click();
  await page.locator("#vocabulary-search").fill("toothbrush"); // the last class of COCO
  await page.locator('.vocabulary[data-name="coco-object-81"]').waitFor();
  assert.ok(await page.locator("#no-vocabulary").isHidden());
  await page.locator("#vocabulary-search").fill("toothbrushes of giraffes");
  await page.locator("#no-vocabulary").waitFor();
  assert.equal(await page.locator(".vocabulary").count(), 0);
});

pageTest("a vocabulary is taken by its name with its options, and changed as a list of one's own", async (page) => {
  const name = `page-taken-${process.pid}`;
  const url = new URL(`v1/vocabularies/${name}`, server);
  const body = JSON.stringify({
    classes: ["tiger", "lemon", "boat"],
    background: ["sky"],
    options: { templates: "simple" },
  });
  await fetch(url, { method: "PUT", headers: { "Content-Type": "application/json" }, body });
  await page.locator("#open-vocabularies").click();
  await page.locator(`.vocabulary[data-name="${name}"]`).click();
  await page.locator("#preview-facts", { hasText: "3 classes · background: sky · templates: simple" }).waitFor();
  const response = await asking(page, () => page.locator("#take-vocabulary").click());
  assert.equal(response.request().postDataJSON().vocabulary, name);
  assert.equal(await page.locator("#vocabulary-name").textContent(), name);
  await page.locator("#settings summary").click();
  assert.equal(await page.locator("#option-templates option").first().textContent(), "simple (default)");
  const copied = await asking(page, () => page.locator("#change-vocabulary").click());
  assert.deepEqual(copied.request().postDataJSON().classes, ["tiger", "lemon", "boat"]);
  assert.ok(await page.locator("#vocabulary-chip").isHidden());
  await asking(page, () => page.getByRole("button", { name: "Remove lemon" }).click());
  assert.deepEqual(await legend(page), ["tiger", "boat"]);
  await fetch(url, { method: "DELETE" });
});

pageTest(
  "the user's classes are kept under a name, replaced and deleted",
  async (page) => {
    const name = `page-${process.pid}`;
    await takeClasses(page, ["tiger", "boat = ship"]);
    const keep = async () => {
      await page.locator("#keep-name").fill(name);
      await page.locator("#keep-form button").click();
    };
    const status = (text) => page.locator("#vocabulary-status", { hasText: text }).waitFor();
    await page.locator("#open-vocabularies").click();
    await keep();
    await status("Kept as");
    const kept = await (await fetch(new URL(`v1/vocabularies/${name}`, server))).json();
    assert.deepEqual(kept.classes, ["tiger", { name: "boat", synonyms: ["ship"] }]);
    await keep();
    await status("already");
    await page.locator("#keep-replace").check();
    await keep();
    await status("Kept as");
    await page.locator("#delete-vocabulary").click();
    await status("is deleted");
    assert.equal((await fetch(new URL(`v1/vocabularies/${name}`, server))).status, 404);
  },
  { allowed: /status of 412/ },
);

pageTest("every choice that the settings offer is one that the server takes", async (page) => {
  await page.locator("#settings summary").click();
  for (const field of ["attention", "templates", "key-smoothing", "refinement", "synonyms", "resize", "orientation"]) {
    const select = page.locator(`#option-${field}`);
    const values = await select.locator("option").evaluateAll((options) => options.map(({ value }) => value));
    assert.ok(values.length > 1, field);
    for (const value of values.slice(1)) {
      const response = await asking(page, () => select.selectOption(value));
      assert.equal(response.status(), 200, `${field}: ${value}`);
      assert.equal(response.request().postDataJSON()[field.replace("-", "_")], value);
    }
    await asking(page, () => select.selectOption(""));
  }
});

pageTest("an option shows the value that it has, and a change can be taken back", async (page) => {
  const { defaults, models } = await (await fetch(new URL("v1/models", server))).json();
  await page.locator("#settings summary").click();
  assert.equal(await page.locator("#option-attention option").first().textContent(), `${defaults.attention} (default)`);
  assert.equal(await page.locator("#option-temperature").getAttribute("placeholder"), String(models[0].temperature));
  assert.equal(await page.locator("#option-short-side").getAttribute("placeholder"), String(models[0].short_side));
  // The server leaves both to the model.
  const refinements = await page.locator("#option-refinement option").allTextContents();
  assert.deepEqual(refinements, [`${models[0].refinement} (default)`, "pamr", "pearl-propagation"]);
  assert.equal(await page.locator("#option-scales").getAttribute("placeholder"), models[0].scales.join(", "));
  const slider = page.locator("#option-prompt-denoising");
  const output = page.locator('output[for="option-prompt-denoising"]');
  assert.equal(await output.textContent(), "0.00 (default)");
  const response = await asking(page, () => slider.fill("0.4"));
  assert.equal(response.request().postDataJSON().prompt_denoising, 0.4);
  assert.equal(await output.textContent(), "0.40");
  assert.equal(await page.locator("#options-changed").textContent(), "1 changed");
  const back = await asking(page, () => page.getByRole("button", { name: "Take back: Prompt denoising" }).click());
  assert.ok(!("prompt_denoising" in back.request().postDataJSON()));
  assert.equal(await page.locator("#options-changed").textContent(), "");
});

pageTest("thresholds, windows and scales are sent as the API has them", async (page) => {
  await page.locator("#settings summary").click();
  const change = async (id, value) => {
    const response = await asking(page, async () => {
      await page.locator(`#option-${id}`).fill(value);
      await page.locator(`#option-${id}`).press("Tab");
    });
    assert.equal(response.status(), 200, id);
    return response.request().postDataJSON();
  };
  await asking(page, () => page.locator("#option-templates").selectOption("simple")); // the quickest to embed
  assert.equal((await change("short-side", "112")).short_side, 112); // quick in a debug build, too
  assert.deepEqual((await change("background-threshold", "0.3")).background, { names: [], threshold: 0.3 });
  assert.deepEqual((await change("background-area", "0.01")).background, { names: [], threshold: 0.3, area: 0.01 });
  const withNames = await asking(page, () => page.locator("#background").check());
  assert.deepEqual(withNames.request().postDataJSON().background, { threshold: 0.3, area: 0.01 });
  assert.deepEqual((await change("scales", "0.75, 1")).scales, [0.75, 1]);
  assert.deepEqual((await change("window-side", "64")).window, { side: 64 });
  assert.deepEqual((await change("window-stride", "32")).window, { side: 64, stride: 32 });
  const select = page.locator("#option-key-smoothing");
  await asking(page, () => select.selectOption("reference"));
  assert.deepEqual((await change("key-smoothing-threshold", "0.9")).key_smoothing, {
    method: "reference",
    threshold: 0.9,
  });
});

pageTest("the model that is picked answers and offers what it can do", async (page) => {
  const { models } = await (await fetch(new URL("v1/models", server))).json();
  assert.deepEqual(await page.locator("#model-choice option").allTextContents(), ["demo", "demo-vit"]);
  await page.locator("#settings summary").click();
  for (const { name, attentions } of models.toReversed()) {
    const response = await asking(page, () => page.locator("#model-choice").selectOption(name));
    assert.equal((await response.json()).model, name);
    assert.equal(await page.locator("#option-attention option").count(), attentions.length);
  }
});

pageTest(
  "what a model lacks is off and not asked for",
  async (page) => {
    await page.locator("#settings summary").click();
    await page.locator("#option-attention").selectOption("clip");
    await page.locator("#model-choice").selectOption("student");
    assert.ok(await page.locator("#option-attention").isDisabled());
    assert.ok(await page.locator("#option-key-smoothing").isDisabled());
    assert.match(await page.locator("#trained-on").textContent(), /trained on tiger;/);
    const command = await shownCommand(page);
    assert.ok(command.includes('"model":"student"') && !command.includes("attention"), command);
  },
  {
    allowed: /status of 4/, // there is no such model
    prepare: async (page) => {
      const student = { name: "student", attentions: [], key_smoothings: ["none"], student: { classes: ["tiger"] } };
      await page.route("**/v1/models", async (route) => {
        const response = await route.fetch();
        const list = await response.json();
        list.models[1] = { ...list.models[1], ...student };
        await route.fulfill({ response, json: list });
      });
    },
  },
);

pageTest("the curl command works as pasted, quotes and semicolons in class names too", async (page) => {
  await takeClasses(page, ["tiger", "bird's nest", "boat = ship; sailboat"]);
  await page.locator("#curl summary").click();
  await page.locator("#copy-curl").click();
  await page.locator("#copied", { hasText: "Copied." }).waitFor();
  const command = await page.evaluate(() => navigator.clipboard.readText());
  const folder = mkdtempSync(join(tmpdir(), "maskclip-page-"));
  try {
    const output = execFileSync("sh", ["-c", command], { cwd: folder, encoding: "utf8" });
    assert.equal(output, "HTTP 200, saved as reply.json\n");
    const reply = JSON.parse(readFileSync(join(folder, "reply.json"), "utf8"));
    assert.deepEqual(
      reply.classes.map(({ name }) => name),
      ["tiger", "bird's nest", "boat"],
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
});

pageTest("a server without keys asks for none", async (page) => {
  assert.ok(await page.locator("#key-panel").isHidden());
});

pageTest(
  "a server that needs a key is used with the key that the page is given, until the tab is closed",
  async (page) => {
    await page.locator("#key-panel").waitFor();
    await page.locator("#model", { hasText: "needs a key" }).waitFor();
    assert.equal(await page.locator("#key-problem").textContent(), "");
    await page.locator("#key").fill(`${key}x`);
    await page.locator("#key").press("Tab");
    await page.locator("#key-problem", { hasText: "does not know this key" }).waitFor();
    assert.equal(await page.locator("#key").getAttribute("aria-invalid"), "true");
    await page.locator("#key").fill(key);
    await page.locator("#key").press("Tab");
    await labelled(page);
    assert.equal(await page.locator("#key-problem").textContent(), "");
    assert.deepEqual(await legend(page), examples[0].classes.map(nameOf));
    const command = await shownCommand(page);
    assert.ok(command.includes('"Authorization: Bearer $MASKCLIP_KEY"') && !command.includes(key), command);
    await page.reload();
    await labelled(page);
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    assert.ok(!page.url().includes(key));
  },
  { allowed: /status of 401/, url: closedServer, isLabelled: false },
);

pageTest(
  "an address whose vocabulary needs a key is followed once there is one",
  async (page) => {
    await page.locator("#missing", { hasText: "“voc-20” could not be fetched (A key is needed" }).waitFor();
    await page.locator("#key").fill(key);
    await page.locator("#key").press("Tab");
    await labelled(page);
    assert.match(await page.locator("#vocabulary-name").textContent(), /VOC 20/);
    assert.ok(await page.locator("#missing").isHidden());
  },
  {
    allowed: /status of 401/,
    url: `${closedServer}/#vocabulary=voc-20&option.templates=simple&option.short_side=112`,
    isLabelled: false,
  },
);
