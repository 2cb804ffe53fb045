// The colours of classes: told apart, seen on the image, kept.

import assert from "node:assert/strict";
import { test } from "node:test";
import { assignColours, channels, isQuiet } from "../../../web/colours.js";

const classes = (names, near = []) => names.map((name) => ({ name, near }));
const names = Array.from({ length: 10 }, (_, i) => `class ${i}`);

/** What a person without red cones sees of linear RGB (Machado, Oliveira, Fernandes 2009). */
function withoutRed(colour) {
  const [r, g, b] = channels(colour).map((value) => (value / 255) ** 2.2);
  const seen = [
    0.152 * r + 1.053 * g - 0.205 * b,
    0.115 * r + 0.786 * g + 0.099 * b,
    -0.004 * r - 0.048 * g + 1.052 * b,
  ];
  return seen.map((value) => 255 * Math.max(0, value) ** (1 / 2.2));
}

const distance = (a, b) => Math.hypot(...a.map((value, i) => value - b[i]));

test("ten classes look different to people with and without red cones", () => {
  const given = [...assignColours(new Map(), classes(names)).values()];
  for (const [i, colour] of given.entries()) {
    for (const other of given.slice(i + 1)) {
      assert.ok(distance(channels(colour), channels(other)) > 60, `${colour} ${other}`);
      assert.ok(distance(withoutRed(colour), withoutRed(other)) > 30, `${colour} ${other} without red cones`);
    }
  }
});

test("no class is dark on a dark forest or light on snow", () => {
  for (const image of [
    [20, 45, 20],
    [245, 245, 250],
  ]) {
    for (const colour of assignColours(new Map(), classes(names.slice(0, 6), [image])).values()) {
      assert.ok(distance(channels(colour), image) > 90, `${colour} on ${image}`);
    }
  }
});

test("a class keeps its colour when others come and go", () => {
  const before = assignColours(new Map(), classes(["tiger", "lemon"]));
  const after = assignColours(before, classes(["boat", "lemon", "tiger"]));
  assert.equal(after.get("tiger"), before.get("tiger"));
  assert.equal(after.get("lemon"), before.get("lemon"));
  assert.equal(new Set(after.values()).size, 3);
});

test("what is by its name a background is grey", () => {
  assert.ok(isQuiet("green background") && !isQuiet("backgrounds of law") && !isQuiet("tiger"));
  const [red, green, blue] = channels(assignColours(new Map(), classes(["tiger", "background"])).get("background"));
  assert.ok(Math.max(red, green, blue) - Math.min(red, green, blue) < 30);
});
