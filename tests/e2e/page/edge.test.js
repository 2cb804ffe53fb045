// What a browser lets other pages do with a running server, and what the server's own documents need from a browser.
//
//     npm ci && node edge.test.js http://127.0.0.1:8080
//
// Needs what page.test.js needs. The server is one that listens on loopback. Chromium takes evil.test for this machine:
// a name that its owner has pointed here.

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.js";

const [server] = process.argv.slice(2);
assert.ok(server, "usage: node edge.test.js URL");
const { port } = new URL(server);

let browser;
/** The server of another site's pages. */
let other;

before(async () => {
  browser = await chromium.launch({
    executablePath: findChromium(),
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--host-resolver-rules=MAP evil.test 127.0.0.1",
      // Newer browsers ask before a page may reach this machine. Here the server must refuse by itself.
      "--disable-features=LocalNetworkAccessChecks",
    ],
  });
  other = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html><body>"));
  await new Promise((resolve) => other.listen(0, "127.0.0.1", resolve));
});

after(async () => {
  await browser?.close();
  other?.close();
});

/** Runs a test on a fresh page. */
async function onPage(url, body) {
  const context = await browser.newContext();
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    const response = await page.goto(url);
    return await body(page, response);
  } finally {
    await context.close();
  }
}

/** How many requests of a route the server has answered with a status. */
async function answered(method, route, status) {
  const metrics = await (await fetch(new URL("metrics", server))).text();
  const name = `maskclip_http_requests_total{method="${method}",route="${route}",status="${status}"} `;
  const line = metrics.split("\n").find((line) => line.startsWith(name));
  return line ? Number(line.slice(name.length)) : 0;
}

for (const host of ["127.0.0.1", "localhost", "evil.test"]) {
  test(`a page on ${host} at another port gets nothing`, async () => {
    const before = await answered("POST", "/v1/segment", 403);
    await onPage(`http://${host}:${other.address().port}/`, async (page) => {
      const got = await page.evaluate(async (server) => {
        const loads = (name, attributes) =>
          new Promise((resolve) => {
            const element = Object.assign(document.createElement(name), attributes);
            element.onload = () => resolve(true);
            element.onerror = () => resolve(false);
            document.body.append(element);
          });
        const reads = async (path, options) => {
          try {
            const response = await fetch(server + path, options);
            return response.type === "opaque" ? "opaque" : await response.text();
          } catch {
            return "nothing";
          }
        };
        const form = () => {
          const form = new FormData();
          form.append("request", '{"classes": ["tiger"]}');
          return form;
        };
        return {
          list: await reads("/v1/vocabularies?kind=recent"),
          upload: await reads("/v1/segment", { method: "POST", body: form() }),
          blind: await reads("/v1/segment", { method: "POST", body: form(), mode: "no-cors" }),
          deletion: await reads("/v1/vocabularies/fruit", { method: "DELETE" }),
          image: await loads("img", { src: `${server}/assets/examples/picnic.png` }),
          script: await loads("script", { src: `${server}/assets/app.js`, type: "module" }),
        };
      }, new URL(server).origin);
      const nothing = { list: "nothing", upload: "nothing", deletion: "nothing", image: false, script: false };
      const { blind, ...rest } = got;
      assert.deepEqual(rest, nothing);
      assert.ok(["opaque", "nothing"].includes(blind), blind);
    });
    // A browser may refuse by itself; what it sends is refused by the server.
    assert.equal(await answered("POST", "/v1/segment", 200), 0);
    assert.equal(await answered("POST", "/v1/segment", 422), 0);
    if (host !== "evil.test") assert.ok((await answered("POST", "/v1/segment", 403)) > before);
  });
}

test("a form of another page is not executed", async () => {
  await onPage(`http://127.0.0.1:${other.address().port}/`, async (page) => {
    const [response] = await Promise.all([
      page.waitForResponse((response) => response.url().endsWith("/v1/segment")),
      page.evaluate((server) => {
        const form = document.createElement("form");
        Object.assign(form, { method: "POST", enctype: "multipart/form-data", action: `${server}/v1/segment` });
        document.body.append(form);
        form.submit();
      }, new URL(server).origin),
    ]);
    assert.equal(response.status(), 403);
  });
});

test("another page cannot frame the page", async () => {
  await onPage(`http://127.0.0.1:${other.address().port}/`, async (page) => {
    await page.evaluate((server) => {
      const frame = document.createElement("iframe");
      frame.src = server;
      document.body.append(frame);
      return new Promise((resolve) => (frame.onload = resolve));
    }, server);
    const [frame] = page.frames().filter((frame) => frame !== page.mainFrame());
    assert.equal(await frame.locator("#class-input").count(), 0);
  });
});

test("a link on another page leads to the page", async () => {
  await onPage(`http://127.0.0.1:${other.address().port}/`, async (page) => {
    await page.evaluate((server) => {
      const link = Object.assign(document.createElement("a"), { href: server });
      document.body.append(link);
      link.click();
    }, server);
    await page.locator("#class-input").waitFor();
  });
});

test("a name that was pointed at this machine gets nothing, though it is the page's own", async () => {
  await onPage(`http://evil.test:${port}/`, async (page, response) => {
    assert.equal(response.status(), 421);
    // As it was before its owner pointed the name here, when another machine sent the page.
    await page.route("**/attack", (route) => route.fulfill({ contentType: "text/html", body: "<!doctype html>" }));
    await page.goto(`http://evil.test:${port}/attack`);
    const statuses = await page.evaluate(async () => {
      const status = async (method, path) => (await fetch(path, { method })).status;
      return [
        await status("GET", "/v1/vocabularies?kind=recent"),
        await status("POST", "/v1/segment"),
        await status("PUT", "/v1/vocabularies/fruit"),
        await status("DELETE", "/v1/vocabularies/fruit"),
      ];
    });
    assert.deepEqual(statuses, [421, 421, 421, 421]);
  });
});

test("Swagger UI works within its policy, and finds the server relative to its document", async () => {
  const context = await browser.newContext();
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    const errors = [];
    page.on("pageerror", (error) => errors.push(error.message));
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
    await page.goto(new URL("docs/", server).href);
    const operation = page.locator("#operations-operations-get_liveness");
    await operation.locator(".opblock-summary-control").click();
    await operation.getByRole("button", { name: "Try it out" }).click();
    const [response] = await Promise.all([
      page.waitForResponse((response) => response.url().endsWith("/health/live")),
      operation.getByRole("button", { name: "Execute" }).click(),
    ]);
    assert.equal(response.url(), new URL("health/live", server).href);
    assert.equal(response.status(), 200);
    await operation.locator(".live-responses-table").waitFor();
    assert.deepEqual(errors, []);
  } finally {
    await context.close();
  }
});
