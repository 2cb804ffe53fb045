// Everybody: axe-core's rules, the keyboard, narrow and wide screens, reduced motion, and a proxy with a path of its
// own.

import assert from "node:assert/strict";
import { createServer, request } from "node:http";
import { createRequire } from "node:module";
import { after, before } from "node:test";
import {
  asking,
  examples,
  fileOf,
  labelled,
  pageTest,
  phone,
  server,
  shownCommand,
  takeClasses,
} from "./support.js";

const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];

/** Asserts that axe-core finds nothing. */
async function assertAccessible(page, state) {
  const found = await page.evaluate(async (rules) => {
    const { violations, passes } = await globalThis.axe.run(document, { runOnly: rules });
    return {
      passes: passes.length,
      violations: violations.map(({ id, nodes }) => [id, ...nodes.map(({ target }) => target)]),
    };
  }, RULES);
  assert.deepEqual(found.violations, [], state);
  assert.ok(found.passes > 20, `${state}: the rules were run`);
}

/** Every state of the page in one browser's look. The policy is bypassed for axe-core's own script. */
function accessibleTest(name, context) {
  pageTest(
    name,
    async (page) => {
      await page.addScriptTag({ path: axe });
      await assertAccessible(page, "at the start");
      await page.locator("#settings summary").click();
      await page.locator("#curl summary").click();
      await assertAccessible(page, "with all settings");
      await page.locator("#downloads summary").click();
      await assertAccessible(page, "with the downloads");
      await page.locator("#downloads summary").click();
      await page.locator("#class-input").fill("tr");
      await page.locator("#suggestions li").first().waitFor();
      await assertAccessible(page, "with suggestions");
      await page.locator("#class-input").fill("");
      await labelled(page);
      await page.locator(".name").first().click();
      await assertAccessible(page, "with the menu of a region");
      await page.keyboard.press("Escape");
      await page.locator("#open-vocabularies").click();
      await page.locator('.vocabulary[data-name="voc-20"]').click();
      await page.locator("#vocabulary-preview").waitFor();
      await assertAccessible(page, "with the vocabularies");
      await page.locator("#close-vocabularies").click();
      await page.locator("#file").setInputFiles(await fileOf(examples[1], "own.png"));
      await page.locator("#no-classes").waitFor();
      await assertAccessible(page, "with an image of the user's own");
      await asking(page, () => page.getByRole("button", { name: examples[0].title }).click());
      await page.locator("#compare").selectOption("attention=clip");
      await page.waitForFunction(() => document.querySelectorAll(".overlay")[1].width > 0);
      await assertAccessible(page, "with two pictures");
      await page.route("**/v1/segment", (route) => route.abort());
      await page.locator("#background").check();
      await page.locator("#problem").waitFor();
      await assertAccessible(page, "with a problem");
    },
    { context: { ...context, bypassCSP: true }, allowed: /ERR_FAILED/ },
  );
}

accessibleTest("axe-core finds nothing on a light page", { colorScheme: "light" });
accessibleTest("axe-core finds nothing on a dark page", { colorScheme: "dark" });
accessibleTest("axe-core finds nothing on a phone", phone);

for (const [width, height] of [
  [320, 568],
  [768, 1024],
  [1280, 720],
  [3840, 2160],
]) {
  pageTest(
    `the page fits into ${width} by ${height} pixels, and the picture is in sight`,
    async (page) => {
      const sizes = await page.evaluate(() => {
        const frame = document.querySelector(".frame").getBoundingClientRect();
        const { scrollWidth, clientWidth, clientHeight } = document.documentElement;
        return {
          over: scrollWidth - clientWidth,
          top: frame.top,
          bottom: frame.bottom,
          width: frame.width,
          clientHeight,
        };
      });
      assert.equal(sizes.over, 0, "nothing sticks out");
      assert.ok(sizes.top >= 0 && sizes.bottom <= sizes.clientHeight, JSON.stringify(sizes));
      assert.ok(sizes.width >= Math.min(width * 0.4, 2048), `the picture is ${sizes.width} wide`);
    },
    { context: { viewport: { width, height } } },
  );
}

/** Pairs of texts and buttons of the legend that lie over one another. */
function overlapping(page) {
  return page.locator("#legend tbody tr").evaluateAll((rows) => {
    const boxesOf = (element) => {
      const range = document.createRange();
      range.selectNodeContents(element);
      return [...range.getClientRects()].map((box) => ({ text: element.textContent, box }));
    };
    const boxes = rows.flatMap((row) =>
      [...row.querySelectorAll("label span, td:not(.row-actions), button:not([hidden])")].flatMap(boxesOf),
    );
    const isOver = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    return boxes.flatMap(({ text, box }, i) =>
      boxes
        .slice(0, i)
        .filter((other) => other.text !== text && isOver(box, other.box))
        .map((other) => [text, other.text]),
    );
  });
}

for (const width of [320, 360, 390, 1024]) {
  pageTest(
    `names, numbers and buttons of the classes stand beside one another at ${width} pixels`,
    async (page) => {
      assert.deepEqual(await overlapping(page), []);
      const longest = "Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz";
      await takeClasses(page, [longest, "green background"]);
      assert.deepEqual(await overlapping(page), []);
      await page.locator(".name").first().click(); // the menu names it, too
      const over = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(await over(), 0, "nothing sticks out");
    },
    { context: { viewport: { width, height: 800 } } },
  );
}

pageTest("everything is reached by the keyboard, names on the picture too", async (page) => {
  const reached = new Set();
  await page.locator("body").press("Tab");
  for (let i = 0; i < 80; i++) {
    reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.className));
    await page.keyboard.press("Tab");
  }
  for (const wanted of ["frame", "name", "class-input", "open-vocabularies", "compare", "file", "thumbnail"]) {
    assert.ok(
      [...reached].some((id) => id.split(" ").includes(wanted)),
      `${wanted} among ${[...reached].join(", ")}`,
    );
  }
});

pageTest(
  "nothing moves for those who want no motion",
  async (page) => {
    await page.route("**/v1/segment", async (route) => {
      await new Promise((done) => setTimeout(done, 1000));
      await route.continue().catch(() => {});
    });
    const answer = asking(page, () => page.locator("#background").check());
    await page.locator("#progress").waitFor();
    const animation = await page.locator("#progress").evaluate((bar) => getComputedStyle(bar, "::after").animationName);
    assert.equal(animation, "none");
    await answer;
  },
  { context: { reducedMotion: "reduce" } },
);

/** A proxy that serves the server below a path, and takes the path off. */
const prefix = "/tools/maskclip";
const proxy = createServer((incoming, outgoing) => {
  if (!incoming.url.startsWith(`${prefix}/`)) return outgoing.writeHead(404).end();
  const headers = { ...incoming.headers, host: new URL(server).host };
  if (headers.origin) headers.origin = new URL(server).origin; // as a proxy that rewrites the host must
  const url = new URL(incoming.url.slice(prefix.length), server);
  const passed = request(url, { method: incoming.method, headers }, (response) => {
    outgoing.writeHead(response.statusCode, response.headers);
    response.pipe(outgoing);
  });
  incoming.pipe(passed);
});
before(() => new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve)));
after(() => proxy.close());

pageTest(
  "the page works below a path behind a proxy",
  async (page) => {
    await page.goto(`http://127.0.0.1:${proxy.address().port}${prefix}/`);
    await labelled(page);
    assert.ok((await shownCommand(page)).includes(`${prefix}/v1/segment`));
  },
  { isLabelled: false },
);
