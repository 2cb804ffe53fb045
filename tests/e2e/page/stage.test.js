// The answer: how labels are drawn, read, changed and compared.

import assert from "node:assert/strict";
import {
  asking,
  examples,
  labelled,
  legend,
  namesOnPicture,
  overlay,
  pageTest,
  painted,
  paste,
  phone,
  pixelPosition,
  segmentRaw,
  server,
  takeClasses,
} from "./support.js";

/** Colours of the legend by class name, as red, green and blue. */
function colours(page) {
  return page.locator("#legend tbody tr").evaluateAll((rows) =>
    Object.fromEntries(
      rows.map((row) => {
        const colour = row.querySelector(".swatch").style.getPropertyValue("--class-colour");
        return [row.dataset.name, [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16))];
      }),
    ),
  );
}

/** Puts the slider between image and labels somewhere, 0 to 100. */
async function setStrength(page, value) {
  await page.locator('[name="strength"]').fill(String(value));
  await painted(page);
}

/** The number of pixels of an overlay that are not transparent. */
const opaque = (bytes) => bytes.filter((value, at) => at % 4 === 3 && value > 0).length;

pageTest("the slider's ends are the image alone and the API's label map, pixel for pixel", async (page) => {
  await takeClasses(page, ["tiger", "lemon", "boat"]);
  await asking(page, () => page.locator("#background").check());
  const { classes, label_map } = await segmentRaw({ classes: ["tiger", "lemon", "boat"], background: true });
  await setStrength(page, 100);
  const drawn = await overlay(page);
  const shown = await colours(page);
  const wanted = label_map.data
    .flat()
    .flatMap((id) => (classes[id] ? [...shown[classes[id].name], 255] : [0, 0, 0, 0]));
  assert.deepEqual(drawn, Buffer.from(wanted));
  await setStrength(page, 0);
  assert.equal(opaque(await overlay(page)), 0);
});

pageTest("an outline leaves the inside of regions free", async (page) => {
  const filled = opaque(await overlay(page));
  await page.getByText("Outline").click();
  const outlined = opaque(await overlay(page));
  assert.ok(outlined > 0 && outlined < filled / 4, `${outlined} of ${filled}`);
});

pageTest("no two classes look alike, and the background stays quiet", async (page) => {
  const shown = await colours(page);
  const names = Object.keys(shown);
  for (const [i, name] of names.entries()) {
    for (const other of names.slice(i + 1)) {
      const apart = Math.hypot(...shown[name].map((value, channel) => value - shown[other][channel]));
      assert.ok(apart > 60, `${name} and ${other} are ${apart} apart`);
    }
  }
  const background = names.find((name) => name.endsWith("background"));
  const [least, most] = [Math.min(...shown[background]), Math.max(...shown[background])];
  assert.ok(most - least < 30, "grey");
});

pageTest("a class keeps its colour while the list changes", async (page) => {
  const before = await colours(page);
  await asking(page, () => page.locator("#class-input").pressSequentially("house"));
  const after = await colours(page);
  for (const name of Object.keys(before)) assert.deepEqual(after[name], before[name], name);
});

pageTest("a class that is switched off leaves the overlay and the names", async (page) => {
  await takeClasses(page, ["tiger", "lemon"]);
  const { classes, label_map } = await segmentRaw({ classes: ["tiger", "lemon"] });
  assert.ok(classes[0].pixels > 0);
  await page.getByLabel("Show tiger").uncheck();
  await asking(page, () => page.getByRole("button", { name: "Remove tiger" }).click());
  await asking(page, () => paste(page, "tiger"));
  assert.ok(await page.getByLabel("Show tiger").isChecked(), "another class of this name is shown");
  await asking(page, () => page.getByRole("button", { name: "Remove lemon" }).click());
  await asking(page, () => paste(page, "lemon"));
  await page.getByLabel("Show tiger").uncheck();
  await page.locator("#classes-heading").hover(); // pointing at a row highlights its class
  const drawn = await overlay(page);
  label_map.data.flat().forEach((id, i) => assert.equal(drawn[4 * i + 3] > 0, id === 1, `pixel ${i}`));
  assert.ok(!(await namesOnPicture(page)).includes("tiger"));
});

pageTest("the pointer reads class and probability", async (page) => {
  const { width, height, classes, label_map } = await segmentRaw({ classes: examples[0].classes });
  const [x, y] = [100, 90];
  await page
    .locator(".frame")
    .first()
    .hover({ position: await pixelPosition(page, [x, y], [width, height]) });
  const name = classes[label_map.data[y][x]].name;
  assert.match(await page.locator(".reading").first().textContent(), new RegExp(`^${name} \\d+%, x ${x}, y ${y}$`));
  await page.locator("#classes-heading").hover();
  assert.ok(await page.locator(".reading").first().isHidden());
});

pageTest("the arrow keys read the class under the cursor, and Enter opens its menu", async (page) => {
  await takeClasses(page, ["tiger", "lemon"]);
  const { classes, label_map, width, height } = await segmentRaw({ classes: ["tiger", "lemon"] });
  const frame = page.locator(".frame").first();
  await frame.press("Shift+ArrowLeft");
  const [x, y] = [Math.floor(width / 2) - 1, Math.floor(height / 2)];
  const name = classes[label_map.data[y][x]].name;
  assert.match(await page.locator("#spoken").textContent(), new RegExp(`^${name} \\d+%, x ${x}, y ${y}$`));
  await frame.press("Enter");
  assert.equal(await page.locator("#region-name").inputValue(), name);
  await page.keyboard.press("Escape");
  await page.locator("#region-menu").waitFor({ state: "hidden" });
  assert.ok(await frame.evaluate((element) => element === document.activeElement), "the focus is back");
});

pageTest(
  "a tap pins the reading on a phone, and its button opens the menu",
  async (page) => {
    const { width, height } = await segmentRaw({ classes: examples[0].classes });
    const frame = page.locator(".frame").first();
    await frame.tap({ position: await pixelPosition(page, [300, 30], [width, height]) });
    const reading = page.locator(".reading").first();
    await reading.waitFor();
    assert.match(await reading.textContent(), /\d+%, x \d+, y \d+/);
    await page.waitForTimeout(300);
    assert.ok(await reading.isVisible(), "it stays");
    await reading.getByRole("button", { name: "Change" }).tap();
    await page.locator("#region-menu").waitFor();
  },
  { context: phone },
);

pageTest("a region is renamed by a click on its name", async (page) => {
  await takeClasses(page, ["tiger", "lemon"]);
  await page.locator(".name", { hasText: "lemon" }).first().click();
  await page.locator("#region-name").fill("hamburger");
  const response = await asking(page, () => page.locator("#region-rename").click());
  assert.deepEqual(response.request().postDataJSON().classes, ["tiger", "hamburger"]);
  assert.deepEqual(await legend(page), ["tiger", "hamburger"]);
});

pageTest("“not this” gives one region its next best class, and can be undone", async (page) => {
  const { classes, label_map, width, height } = await segmentRaw({ classes: examples[0].classes });
  const [x, y] = [100, 90];
  const refused = classes[label_map.data[y][x]].name;
  const rest = examples[0].classes.filter((name) => name !== refused);
  const without = await segmentRaw({ classes: rest });
  const next = without.classes[without.label_map.data[y][x]].name;
  const position = await pixelPosition(page, [x, y], [width, height]);
  const frame = page.locator(".frame").first();
  await frame.click({ position });
  await page.locator("#region-refuse", { hasText: `Not “${refused}” here` }).click();
  await labelled(page);
  assert.equal(await page.locator("#corrections-count").textContent(), "1 region corrected.");
  await asking(page, () => page.getByRole("button", { name: `Remove ${refused}` }).click());
  assert.ok(await page.locator("#corrections").isHidden(), "no class, no correction of it");
  await asking(page, () => paste(page, refused));
  await page.locator("#corrections").waitFor();
  await page.locator("#classes-heading").hover();
  await frame.hover({ position });
  assert.match(await page.locator(".reading").first().textContent(), new RegExp(`^${next} `));
  const area = await page.locator(`tr[data-name="${refused}"] td`).first().textContent();
  await asking(page, () => page.locator("#undo-correction").click());
  await page.locator("#classes-heading").hover();
  await frame.hover({ position });
  assert.match(await page.locator(".reading").first().textContent(), new RegExp(`^${refused} `));
  assert.notEqual(await page.locator(`tr[data-name="${refused}"] td`).first().textContent(), area);
});

pageTest("two settings stand side by side with one cursor", async (page) => {
  const [first, second] = await Promise.all([
    page.waitForResponse(
      (response) => response.url().endsWith("/v1/segment") && !response.request().postDataJSON().attention,
    ),
    page.waitForResponse((response) => response.request().postDataJSON()?.attention === "clip"),
    page.locator("#compare").selectOption("attention=clip"),
  ]);
  assert.equal(first.status(), 200);
  assert.equal(second.status(), 200);
  await page.locator(".picture-title", { hasText: "clip, the baseline" }).waitFor();
  await page.waitForFunction(() => document.querySelectorAll(".overlay")[1].width > 0);
  assert.notDeepEqual(await overlay(page, 0), await overlay(page, 1));
  await page
    .locator(".frame")
    .nth(1)
    .hover({ position: { x: 60, y: 60 } });
  const readings = await page.locator(".reading").allTextContents();
  const places = readings.map((text) => text.match(/x \d+, y \d+$/)[0]);
  assert.equal(places[0], places[1]);
  await page.locator("#compare").selectOption("");
  assert.ok(await page.locator(".picture").nth(1).isHidden());
});

pageTest("model is compared with model, and settings with settings that were kept", async (page) => {
  const other = page.waitForResponse((response) => response.request().postDataJSON?.()?.model === "demo-vit");
  await page.locator("#compare").selectOption("model=demo-vit");
  assert.equal((await (await other).json()).model, "demo-vit");
  await page.locator("#compare").selectOption("keep");
  await page.locator("#settings summary").click();
  const asked = [];
  page.on("request", (request) => request.url().endsWith("/v1/segment") && asked.push(request.postDataJSON()));
  await asking(page, () => page.locator("#option-attention").selectOption("clip"));
  await page.waitForFunction(() => document.querySelectorAll(".overlay")[1].width > 0);
  assert.deepEqual(asked.map(({ attention }) => attention ?? "").sort(), ["", "clip"]);
  assert.deepEqual(await page.locator(".picture-title").allTextContents(), ["now", "kept"]);
});

pageTest("every comparison that is offered shows a second picture", async (page) => {
  await page.goto(`${server}/#option.short_side=112&option.templates=simple`); // quick in a debug build, too
  await page.reload();
  await labelled(page);
  const compare = page.locator("#compare");
  const offered = await compare
    .locator("option:not(:disabled)")
    .evaluateAll((options) => options.map(({ value }) => value));
  assert.ok(!offered.includes("templates=simple") && offered.includes("templates=maskclip-85"), "no setting twice");
  const fields = new Set(offered.map((value) => value.split("=")[0]));
  for (const field of ["model", "attention", "refinement", "key_smoothing", "templates"]) assert.ok(fields.has(field));
  for (const value of offered.filter(Boolean)) {
    await compare.selectOption("");
    await compare.selectOption(value);
    await page.waitForFunction(() => document.querySelectorAll(".overlay")[1].width > 0);
    assert.ok(await page.locator("#problem").isHidden(), value);
    const titles = await page.locator(".picture-title").allTextContents();
    for (const title of titles) assert.match(title, /^[\w, -]+$/, value);
  }
});

pageTest("a heat map shows one class's probability, and the pointer reads it", async (page) => {
  const response = await asking(page, () => page.getByRole("button", { name: "Heat map of lemon" }).click());
  const { probability_maps } = await response.json();
  assert.deepEqual(
    probability_maps.map(({ name }) => name),
    ["lemon"],
  );
  const map = await overlay(page);
  assert.equal(opaque(map), map.length / 4, "every pixel has a value");
  await page.locator(".frame").first().hover();
  assert.match(await page.locator(".reading").first().textContent(), /^lemon \d+%/);
  await asking(page, () => page.locator("#heat").selectOption("tiger"));
  assert.notDeepEqual(await overlay(page), map);
  await page.getByRole("button", { name: "Heat map of tiger" }).click();
  assert.equal(await page.locator('[name="mode"]:checked').getAttribute("value"), "fill");
});

pageTest("what else looks like a point is shown at a click", async (page) => {
  const before = await overlay(page);
  await page.locator(".name", { hasText: "lemon" }).first().click();
  const [response] = await Promise.all([
    page.waitForResponse("**/v1/images/*/similar"),
    page.locator("#region-likeness").click(),
  ]);
  const { columns, rows } = await response.json();
  await page.locator("#likeness-note").waitFor();
  await painted(page);
  const size = await page
    .locator(".overlay")
    .first()
    .evaluate(({ width, height }) => [width, height]);
  assert.deepEqual(size, [columns, rows]);
  await page.locator("#end-likeness").click();
  assert.deepEqual(await overlay(page), before);
});

pageTest("a likeness ends with the next question, and one that comes too late is not shown", async (page) => {
  let isSlow = false;
  await page.route("**/v1/images/*/similar", async (route) => {
    if (isSlow) await new Promise((done) => setTimeout(done, 1000));
    await route.continue().catch(() => {});
  });
  const askForLikeness = async () => {
    await page.locator(".name", { hasText: "lemon" }).first().click();
    await page.locator("#region-likeness").click();
  };
  const note = page.locator("#likeness-note");
  await askForLikeness();
  await note.waitFor();
  await asking(page, () => paste(page, "house"));
  assert.ok(await note.isHidden(), "the labels are back");
  isSlow = true;
  const answer = page.waitForResponse("**/v1/images/*/similar");
  await askForLikeness();
  await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
  await answer;
  await painted(page);
  assert.ok(await note.isHidden());
  assert.notEqual((await namesOnPicture(page)).length, 0, "the picture has its labels");
});
