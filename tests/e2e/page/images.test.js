// Images: choosing, the strip, slow networks, files to download, addresses, and what was seen before.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encodeLabels } from "../../../web/png-writer.js";
import { decodePng } from "../../../web/png.js";
import {
  asking,
  examples,
  fileOf,
  labelled,
  legend,
  pageTest,
  phone,
  segmentRaw,
  server,
  takeClasses,
} from "./support.js";

/** Clicks a download and returns its bytes and its name. */
async function download(page, id) {
  if (!(await page.locator("#downloads").evaluate(({ open }) => open)))
    await page.locator("#downloads summary").click();
  const [file] = await Promise.all([page.waitForEvent("download"), page.locator(`#${id}`).click()]);
  return { name: file.suggestedFilename(), bytes: await readFile(await file.path()) };
}

/** A file like a photograph: no two neighbours are equal. */
async function photograph() {
  const [width, height] = [320, 240];
  const samples = Uint8Array.from({ length: width * height }, (_, i) => (i * 73) % 256);
  const greys = Array.from({ length: 256 }, (_, grey) => [grey, grey, grey]);
  const png = await encodeLabels(samples, width, height, greys);
  return { name: "photo.png", mimeType: "image/png", buffer: Buffer.from(await png.arrayBuffer()) };
}

pageTest("several images stand in a strip, and each is labelled when it is chosen", async (page) => {
  await takeClasses(page, ["tiger", "lemon", "whale"]);
  const files = await Promise.all(examples.slice(0, 2).map((example, i) => fileOf(example, `own-${i}.png`)));
  await asking(page, () => page.locator("#file").setInputFiles(files));
  assert.match(await page.locator("#image-name").textContent(), /^own-0\.png, 512 × 384 pixels$/);
  await asking(page, () => page.getByRole("button", { name: "own-1.png", exact: true }).click());
  assert.match(await page.locator("#image-name").textContent(), /^own-1\.png/);
  assert.equal(await page.getByRole("button", { name: "own-1.png", exact: true }).getAttribute("aria-pressed"), "true");
});

pageTest("the user's own image waits for classes without an error", async (page) => {
  await page.locator("#file").setInputFiles(await fileOf(examples[1], "own.png"));
  await page.locator("#no-classes").waitFor();
  assert.ok(await page.locator("#problem").isHidden());
  await asking(page, () => page.locator("#class-input").pressSequentially("whale"));
  assert.ok(await page.locator("#no-classes").isHidden());
});

pageTest("a slow first image does not take the place of a fast second", async (page) => {
  await page.route(`**/assets/examples/${examples[1].image}`, async (route) => {
    await new Promise((done) => setTimeout(done, 1200));
    await route.continue().catch(() => {});
  });
  await page.getByRole("button", { name: examples[1].title }).click();
  await asking(page, () => page.getByRole("button", { name: examples[2].title }).click());
  await page.waitForTimeout(1600);
  assert.match(await page.locator("#image-name").textContent(), new RegExp(`^${examples[2].image}`));
  assert.ok((await legend(page)).includes(examples[2].classes[0]));
});

pageTest("over a slow network the page says what it is doing, and stops when it is told to", async (page) => {
  await page.route("**/v1/images", async (route) => {
    await new Promise((done) => setTimeout(done, 2500));
    await route.continue().catch(() => {});
  });
  await page.getByRole("button", { name: examples[1].title }).click();
  await page.locator("#busy", { hasText: /^Sending .*MB …$/ }).waitFor();
  await page.locator("#cancel").click();
  assert.equal(await page.locator("#stage").getAttribute("aria-busy"), "false");
  assert.ok(await page.locator("#problem").isHidden());
});

pageTest("the page says how many words are embedded", async (page) => {
  await page.route("**/v1/vocabularies?kind=recent", (route) =>
    route.fulfill({
      json: {
        durable: true,
        vocabularies: [
          { class_count: 2, first_names: ["zebra", "gnu"], embeddings: [{ model: "demo", embedded: 1, total: 2 }] },
        ],
      },
    }),
  );
  await page.route("**/v1/segment", async (route) => {
    await new Promise((done) => setTimeout(done, 2500));
    await route.continue().catch(() => {});
  });
  const answer = takeClasses(page, ["zebra", "gnu"]);
  await page.locator("#busy", { hasText: "Embedding words: 1 of 2 …" }).waitFor();
  await answer;
  assert.equal(await page.locator("#busy").textContent(), "");
});

pageTest(
  "a refusal is explained with what to do, and tried again at a click",
  async (page) => {
    const problem = {
      type: "/problems/overloaded",
      title: "The server is busy",
      detail: "All slots are taken.",
      status: 429,
    };
    let refusals = 1;
    await page.route("**/v1/segment", (route) =>
      refusals-- > 0
        ? route.fulfill({ status: 429, headers: { "retry-after": "3" }, json: problem })
        : route.continue(),
    );
    await page.getByRole("button", { name: examples[1].title }).click();
    const notice = page.locator("#problem");
    await notice.waitFor();
    assert.match(await notice.textContent(), /The server is busy.*All slots are taken.*Try again in 3 seconds/);
    await asking(page, () => notice.getByRole("button", { name: "Try again" }).click());
    assert.ok(await notice.isHidden());
  },
  { allowed: /status of 429/ },
);

pageTest(
  "a server that does not answer is told from one that refuses",
  async (page) => {
    await page.route("**/v1/segment", (route) => route.abort());
    await page.getByRole("button", { name: "Remove tiger" }).click();
    await page.locator("#problem", { hasText: "The server did not answer" }).waitFor();
    assert.match(await page.locator("#problem").textContent(), /Look whether the server runs/);
    await page.unroute("**/v1/segment");
    await asking(page, () => page.getByRole("button", { name: "Remove lemon" }).click());
    assert.ok(await page.locator("#problem").isHidden(), "the next answer takes the notice away");
  },
  { allowed: /ERR_FAILED/ },
);

pageTest(
  "a refused class is explained in the server's words",
  async (page) => {
    const [response] = await Promise.all([
      page.waitForResponse("**/v1/segment"),
      page.locator("#class-input").fill("tiger".repeat(1000)),
    ]);
    assert.equal(response.status(), 422);
    const { title, detail } = await response.json();
    await page.locator("#problem").waitFor();
    assert.equal(await page.locator("#problem strong").textContent(), title);
    assert.equal(await page.locator("#problem p").first().textContent(), detail);
  },
  { allowed: /status of 422/ },
);

pageTest("a file that is no image is named", async (page) => {
  await page
    .locator("#file")
    .setInputFiles({ name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("hello") });
  await page.locator("#problem", { hasText: "cannot read notes.txt" }).waitFor();
});

pageTest("a photograph is told first of all that the embedded model knows only drawings", async (page) => {
  assert.ok(await page.locator("#photograph-note").isHidden());
  await page.locator("#file").setInputFiles(await photograph());
  await page.locator("#photograph-note").waitFor();
  await page.locator("#file").setInputFiles(await fileOf(examples[1], "drawing.png"));
  await page.locator("#photograph-note").waitFor({ state: "hidden" });
});

pageTest(
  "a phone offers its camera",
  async (page) => {
    assert.ok(await page.getByText("Take a photo").isVisible());
    assert.equal(await page.locator("#camera").getAttribute("capture"), "environment");
  },
  { context: phone },
);

pageTest("the label map is downloaded as the API's ids in the page's colours", async (page) => {
  await takeClasses(page, ["tiger", "lemon"]);
  const { name, bytes } = await download(page, "save-label-map");
  assert.equal(name, examples[0].image.replace(".png", "-labels.png"));
  const { width, samples } = await decodePng(bytes);
  const { label_map } = await segmentRaw({ classes: ["tiger", "lemon"] });
  assert.equal(width, label_map.data[0].length);
  assert.deepEqual([...samples], label_map.data.flat());
});

pageTest("the picture is downloaded with its names", async (page) => {
  const { name, bytes } = await download(page, "save-picture");
  assert.equal(name, examples[0].image.replace(".png", "-overlay.png"));
  assert.deepEqual([bytes.readUInt32BE(16), bytes.readUInt32BE(20)], [1024, 768]);
});

pageTest("COCO JSON has the masks of the API", async (page) => {
  await takeClasses(page, ["tiger", "lemon"]);
  const { bytes } = await download(page, "save-coco");
  const { images, categories, annotations } = JSON.parse(bytes);
  assert.deepEqual(
    categories.map(({ name }) => name),
    ["tiger", "lemon"],
  );
  assert.equal(images[0].file_name, examples[0].image);
  const form = new FormData();
  form.append("image", await (await fetch(new URL(`assets/examples/${examples[0].image}`, server))).blob());
  form.append("request", JSON.stringify({ classes: ["tiger", "lemon"], output: { label_map: "coco-rle" } }));
  const { label_map, classes } = await (
    await fetch(new URL("v1/segment", server), { method: "POST", body: form })
  ).json();
  for (const { class_id, size, counts } of label_map.data) {
    const annotation = annotations.find(({ category_id }) => category_id === class_id + 1);
    assert.deepEqual(annotation.segmentation, { size, counts });
    assert.deepEqual(annotation.bbox, classes[class_id].bbox);
    assert.equal(annotation.area, classes[class_id].pixels);
  }
});

pageTest("all images are downloaded at once", async (page) => {
  await takeClasses(page, ["tiger", "whale"]);
  await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
  const folder = mkdtempSync(join(tmpdir(), "maskclip-page-"));
  try {
    const { bytes } = await download(page, "save-all-label-maps");
    const names = examples.slice(0, 2).map(({ image }) => image.replace(".png", "-labels.png"));
    const read = [
      "import io, sys, zipfile",
      "archive = zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read()))",
      "assert archive.testzip() is None",
      'print("\\n".join(archive.namelist()))',
    ].join("\n");
    const listed = execFileSync("python3", ["-c", read], { input: bytes, encoding: "utf8", cwd: folder });
    assert.deepEqual(listed.trim().split("\n"), names);
    const tasks = JSON.parse((await download(page, "save-all-label-studio")).bytes);
    assert.deepEqual(
      tasks.map(({ data }) => data.image),
      examples.slice(0, 2).map(({ image }) => image),
    );
    assert.equal(tasks[0].predictions[0].result[0].type, "brushlabels");
    const coco = JSON.parse((await download(page, "save-all-coco")).bytes);
    assert.equal(coco.images.length, 2);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

pageTest("images that were never shown are labelled in one request", async (page) => {
  await takeClasses(page, ["tiger", "lemon", "whale"]);
  const files = await Promise.all(examples.slice(0, 3).map((example, i) => fileOf(example, `own-${i}.png`)));
  await asking(page, () => page.locator("#file").setInputFiles(files));
  const asked = [];
  page.on("request", (request) => asked.push(new URL(request.url()).pathname));
  const { bytes } = await download(page, "save-all-coco");
  const { images } = JSON.parse(bytes);
  // The example of the start is no image of the user's.
  assert.deepEqual(
    images.map(({ file_name }) => file_name),
    ["own-0.png", "own-1.png", "own-2.png"],
  );
  assert.equal(asked.filter((path) => path.endsWith("/v1/segment/batch")).length, 1);
  assert.equal(asked.filter((path) => path.endsWith("/v1/images")).length, 0);
  assert.equal(asked.filter((path) => path.endsWith("/v1/segment")).length, 1);
});

pageTest(
  "an image that the server refuses is named, and the others are downloaded all the same",
  async (page) => {
    const drawing = '<svg xmlns="http://www.w3.org/2000/svg" width="64" height="48"><rect width="9" height="9"/></svg>';
    const svg = { name: "drawing.svg", mimeType: "image/svg+xml", buffer: Buffer.from(drawing) };
    const files = await Promise.all(examples.slice(0, 3).map((example, i) => fileOf(example, `own-${i}.png`)));
    await takeClasses(page, ["tiger", "lemon"]);
    await asking(page, () => page.locator("#file").setInputFiles([files[0], svg, ...files.slice(1)]));
    const notice = page.locator("#problem");
    const saved = async () => {
      const { images } = JSON.parse((await download(page, "save-all-coco")).bytes);
      return images.map(({ file_name }) => file_name);
    };
    assert.deepEqual(await saved(), ["own-0.png", "own-1.png", "own-2.png"]);
    await notice.getByText("1 image is not in the download").waitFor();
    assert.match(await notice.textContent(), /drawing\.svg \(/);
    await page.getByRole("button", { name: "drawing.svg", exact: true }).click();
    await notice.waitFor();
    assert.equal(await notice.getByRole("button", { name: "Try again" }).count(), 0, "that would not help");
    await asking(page, () => page.getByRole("button", { name: "Remove drawing.svg" }).click());
    assert.match(await page.locator("#image-name").textContent(), /^own-1\.png/);
    assert.deepEqual(await saved(), ["own-0.png", "own-1.png", "own-2.png"]);
    assert.ok(await notice.isHidden());
  },
  { allowed: /status of 4/ },
);

pageTest("a download is offered once there is a result", async (page) => {
  await page.locator("#file").setInputFiles(await fileOf(examples[1], "own.png"));
  await page.locator("#no-classes").waitFor();
  await page.locator("#downloads summary").click();
  for (const id of ["save-picture", "save-label-map", "save-coco", "save-label-studio"]) {
    assert.ok(await page.locator(`#${id}`).isDisabled(), id);
  }
  await asking(page, () => page.locator("#class-input").pressSequentially("whale"));
  assert.equal((await download(page, "save-label-map")).name, "own-labels.png");
  assert.ok(await page.locator("#save-all").isHidden(), "there is one image of the user's own");
});

pageTest("the address brings settings back", async (page) => {
  await page.locator("#settings summary").click();
  await asking(page, () => page.getByRole("button", { name: examples[2].title }).click());
  await takeClasses(page, ["apple", "frog = toad"]);
  await asking(page, () => page.locator("#background").check());
  await asking(page, () => page.locator("#option-prompt-denoising").fill("0.2"));
  await asking(page, () => page.locator("#model-choice").selectOption("demo-vit"));
  await page.getByText("Outline").click();
  await page.locator('[name="strength"]').fill("30");
  await page.locator('[name="names"]').uncheck();
  await page.locator('[name="fade"]').check();
  await page.waitForURL(/mode=outline.*strength=30&names=0&fade=1/);
  const address = page.url();
  await page.goto("about:blank");
  const [response] = await Promise.all([page.waitForResponse("**/v1/segment"), page.goto(address)]);
  await labelled(page);
  const { image_id, output, ...asked } = response.request().postDataJSON();
  assert.deepEqual(asked, {
    model: "demo-vit",
    classes: ["apple", { name: "frog", synonyms: ["toad"] }],
    background: true,
    prompt_denoising: 0.2,
  });
  assert.match(await page.locator("#image-name").textContent(), new RegExp(`^${examples[2].image}`));
  assert.equal(await page.locator('[name="mode"]:checked').getAttribute("value"), "outline");
  assert.equal(await page.locator('[name="strength"]').inputValue(), "30");
  assert.ok(!(await page.locator('[name="names"]').isChecked()));
  assert.ok(await page.locator('[name="fade"]').isChecked());
});

pageTest(
  "an address brings a comparison and a model back, however late the models are known",
  async (page) => {
    const request = await page.waitForRequest(
      (request) => request.url().endsWith("/v1/segment") && request.postDataJSON().attention === "clip",
    );
    assert.equal(request.postDataJSON().model, "demo-vit");
    await page.waitForFunction(() => document.querySelectorAll(".overlay")[1].width > 0);
    assert.equal(await page.locator("#compare").inputValue(), "attention=clip");
    await page.waitForURL(/example=.*model=demo-vit.*compare=attention%3Dclip/);
  },
  {
    url: `${server}/#compare=attention%3Dclip&model=demo-vit`,
    isLabelled: false,
    prepare: async (page) => {
      await page.route("**/v1/models", async (route) => {
        await new Promise((done) => setTimeout(done, 800));
        await route.continue().catch(() => {});
      });
    },
  },
);

pageTest("of two addresses the later one counts, however slow the vocabulary of the first", async (page) => {
  await page.route("**/v1/vocabularies/voc-20", async (route) => {
    await new Promise((done) => setTimeout(done, 900));
    await route.continue().catch(() => {});
  });
  const go = (hash) => page.evaluate((hash) => (location.hash = hash), hash);
  const slow = page.waitForResponse("**/v1/vocabularies/voc-20");
  await go("vocabulary=voc-20");
  const classes = ["tiger", "lemon"];
  await asking(page, () => go(`classes=${classes.join(",")}`));
  await slow;
  await page.waitForTimeout(400);
  await labelled(page);
  assert.ok(await page.locator("#vocabulary-chip").isHidden());
  assert.deepEqual(await legend(page), classes);
  assert.match(page.url(), /classes=tiger%2Clemon/);
});

pageTest(
  "what an address names and the server does not have is said, and the page has something in its place",
  async (page) => {
    const missing = page.locator("#missing");
    for (const name of ["model “gone”", "vocabulary “nothere”", "example “gone.png”"]) {
      await missing.getByText(`the ${name}, which this server does not have`).waitFor();
    }
    assert.match(await page.locator("#image-name").textContent(), new RegExp(`^${examples[0].image}`));
    assert.ok((await legend(page)).includes("tiger"));
    await takeClasses(page, ["tiger", "lemon"]);
    await asking(page, () => page.locator("#model-choice").selectOption("demo-vit"));
    await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
    assert.ok(await missing.isHidden(), "the user has chosen");
  },
  { url: `${server}/#vocabulary=nothere&example=gone.png&model=gone`, allowed: /status of 404/ },
);

pageTest(
  "an example that cannot be loaded is named on the empty page",
  async (page) => {
    await page.locator("#missing", { hasText: "could not be fetched" }).waitFor();
    assert.ok(await page.locator("#stage-form").isHidden());
  },
  {
    isLabelled: false,
    allowed: /ERR_FAILED/,
    prepare: (page) => page.route(`**/assets/examples/${examples[0].image}`, (route) => route.abort()),
  },
);

pageTest("what was labelled before in this tab comes back at a click", async (page) => {
  await page.waitForTimeout(1500);
  await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
  await page.locator("#past-panel").waitFor();
  assert.equal(await page.locator("#past li").count(), 2);
  await asking(page, () => page.locator("#past button").nth(1).click());
  assert.match(await page.locator("#image-name").textContent(), new RegExp(`^${examples[0].image}`));
  assert.ok((await legend(page)).includes("tiger"));
});

/** Waits until what is shown has stood for so long that Back returns to it; that is when "Earlier" has it. */
async function finished(page, entries) {
  await page.waitForFunction((entries) => document.querySelectorAll("#past li").length === entries, entries);
}

/** Goes a step in the browser's history, and waits for the image of a name. Returns the classes that are asked for. */
async function travel(page, direction, name) {
  const { classes } = (await asking(page, () => page[direction]())).request().postDataJSON();
  assert.match(await page.locator("#image-name").textContent(), new RegExp(`^${name}`));
  return classes;
}

pageTest("Back and Forward go to the images and questions before, and the user's own images stay", async (page) => {
  await finished(page, 1);
  const opened = await page.evaluate(() => history.length);
  await takeClasses(page, ["tiger", "lemon"]);
  await finished(page, 2);
  await asking(page, () => page.getByRole("button", { name: "Remove lemon" }).click());
  await finished(page, 3);
  await page.getByText("Outline").click();
  await page.waitForURL(/classes=tiger&mode=outline/);
  await asking(page, async () => page.locator("#file").setInputFiles(await fileOf(examples[1], "own.png")));
  await page.waitForURL(/#classes=tiger&mode=outline/);
  assert.equal((await page.evaluate(() => history.length)) - opened, 3, "two questions and an image");

  assert.deepEqual(await travel(page, "goBack", examples[0].image), ["tiger"]);
  assert.deepEqual(await travel(page, "goBack", examples[0].image), ["tiger", "lemon"]);
  assert.equal(await page.locator('[name="mode"]:checked').getAttribute("value"), "fill");
  assert.ok((await travel(page, "goBack", examples[0].image)).length > 2, "the example's own");
  assert.deepEqual(await travel(page, "goForward", examples[0].image), ["tiger", "lemon"]);
  assert.deepEqual(await travel(page, "goForward", examples[0].image), ["tiger"]);
  assert.deepEqual(await travel(page, "goForward", "own.png"), ["tiger"]);
  assert.equal(await page.getByRole("button", { name: "own.png", exact: true }).count(), 1);
});

pageTest("Back finds an example with its classes, which make room for those of the next one", async (page) => {
  await page.waitForURL(/example=/);
  await asking(page, () => page.getByRole("button", { name: examples[1].title }).click());
  await page.waitForURL(new RegExp(`example=${examples[1].image}`));
  await travel(page, "goBack", examples[0].image);
  await asking(page, () => page.getByRole("button", { name: examples[2].title }).click());
  assert.ok((await legend(page)).includes(examples[2].classes[0]));
});

pageTest("typing a word is one step of the history", async (page) => {
  await finished(page, 1);
  const before = await page.evaluate(() => history.length);
  for (const letter of "whale") await asking(page, () => page.locator("#class-input").press(letter));
  assert.equal(await page.evaluate(() => history.length), before);
  await page.locator("#class-input").press("Enter");
  await page.waitForURL(/whale/);
  assert.equal(await page.evaluate(() => history.length), before + 1);
  assert.ok(!(await travel(page, "goBack", examples[0].image)).includes("whale"));
});
