// What the page says: problems, and what to do about them; warnings; what an address names in vain.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { isOfImage, isPassing } from "../../../web/api.js";
import { sentencesOn } from "../../../web/missing.js";
import { sentenceOf } from "../../../web/warnings.js";

test("every warning of the API has a sentence of the page's own words", () => {
  const document = readFileSync(new URL("../../../openapi.yaml", import.meta.url), "utf8");
  const [, list] = document.match(/\n {4}WarningCode:\n(?: {6}.*\n)*? {6}enum:\n((?: {6}- .*\n)+)/);
  const codes = [...list.matchAll(/- (.*)/g)].map(([, code]) => code);
  assert.ok(codes.includes("no-background"));
  const message = '"tiger" is a name of "cat" and "dog": equal names share their pixels by chance';
  for (const code of codes) {
    const sentence = sentenceOf({ code, message });
    assert.notEqual(sentence, `${message}.`, code);
    assert.match(sentence, /^["A-Z].*\.$/, code);
  }
});

test("the background is named as the page's checkbox, not as the API's field", () => {
  const message = 'things get the class they resemble most: "background": true leaves them unlabelled';
  assert.match(sentenceOf({ code: "no-background", message }), /Tick “Background”/);
  assert.doesNotMatch(sentenceOf({ code: "no-background", message }), /true|false/);
});

test("a warning that the page does not know is a sentence, too", () => {
  assert.equal(sentenceOf({ code: "new", message: "something is odd" }), "Something is odd.");
});

test("a request is tried again only if its answer may change", () => {
  for (const status of [0, undefined, 408, 429, 500, 503, 504]) assert.ok(isPassing({ status }), String(status));
  for (const status of [400, 401, 404, 413, 422]) assert.ok(!isPassing({ status }), String(status));
});

test("a problem of one image is told from one of the server, the key or the line", () => {
  for (const status of [400, 413, 415, 422]) assert.ok(isOfImage({ status }), String(status));
  for (const status of [0, undefined, 401, 403, 429, 500, 503]) assert.ok(!isOfImage({ status }), String(status));
});

test("what is missing is told from what could not be fetched", () => {
  assert.match(sentencesOn("model", "gone"), /the model “gone”, which this server does not have\. The default/);
  const problem = { title: "The server did not answer", message: "" };
  assert.equal(
    sentencesOn("vocabulary", "own", problem),
    "The vocabulary “own” could not be fetched (The server did not answer).",
  );
});
