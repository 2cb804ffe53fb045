// Label maps as arrays: regions, painting, and the files that other programs read.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { columnRuns, compress } from "../../../web/coco.js";
import { crc32 } from "../../../web/crc32.js";
import { encodeBrush } from "../../../web/label-studio.js";
import { paintHeat, paintLabels } from "../../../web/paint.js";
import { shareOfEqualNeighbours } from "../../../web/photograph.js";
import { encodeLabels } from "../../../web/png-writer.js";
import { decodePng } from "../../../web/png.js";
import { findRegions, regionMask } from "../../../web/regions.js";

/** Two squares of class 1 and a ring of class 2 on class 0. */
const MAP = ["000000000", "011100110", "011100110", "011100000", "000002220", "000002020", "000002220"];
const [WIDTH, HEIGHT] = [MAP[0].length, MAP.length];
const labels = Uint8Array.from(MAP.join(""), Number);

test("regions are connected pieces, each with its deepest point", () => {
  const regions = findRegions(labels, WIDTH, HEIGHT);
  const sizes = regions.map(({ label, share }) => [label, Math.round(share * labels.length)]);
  assert.deepEqual(sizes, [
    [0, 41],
    [1, 9],
    [2, 8],
    [1, 4],
    [0, 1],
  ]);
  assert.deepEqual([regions[1].x, regions[1].y], [2, 2], "the middle of the square");
  for (const { label, x, y } of regions) assert.equal(labels[y * WIDTH + x], label, "the point is inside");
});

test("a region's mask has its pixels and no others of its class", () => {
  const mask = regionMask(labels, WIDTH, 7, 1);
  assert.deepEqual(
    [...mask.keys()].filter((at) => mask[at]),
    [15, 16, 24, 25],
  );
});

test("areas, outlines and hidden classes are painted", () => {
  const classes = ["#ff0000", "#00ff00", "#0000ff"].map((colour) => ({ colour, isShown: true, isQuiet: false }));
  const map = {
    labels,
    confidence: new Uint8Array(labels.length).fill(128),
    width: WIDTH,
    height: HEIGHT,
    unlabelled: 255,
  };
  const paint = (look) => {
    const pixels = new Uint32Array(labels.length);
    paintLabels(pixels, WIDTH, 1, map, { classes, strength: 1, isOutline: false, isFaded: false, edge: 1, ...look });
    return pixels;
  };
  const middle = 2 * WIDTH + 2; // of the square of class 1
  assert.equal(paint({})[middle], 0xff00ff00);
  assert.equal(paint({ strength: 0 })[middle], 0x0000ff00);
  assert.equal(paint({ isOutline: true })[middle], 0);
  assert.equal(paint({ isOutline: true })[middle - 1], 0xff00ff00);
  assert.equal(paint({ isFaded: true })[middle], 0x8000ff00);
  const hidden = classes.map((entry, id) => ({ ...entry, isShown: id !== 1 }));
  assert.equal(paint({ classes: hidden })[middle], 0);
  const quiet = classes.map((entry) => ({ ...entry, isQuiet: true }));
  assert.ok(paint({ classes: quiet, strength: 0.6 })[middle] >>> 24 < 50);
});

test("a heat map goes from dark to light", () => {
  const pixels = new Uint32Array(2);
  paintHeat(pixels, 2, 1, { values: [0, 255], width: 2, height: 1 }, 1);
  assert.deepEqual([...pixels], [0xff040000, 0xffa4fffc]);
});

test("a written label map is read back", async () => {
  const written = new Uint8Array(await (await encodeLabels(labels, WIDTH, HEIGHT, [[1, 2, 3]])).arrayBuffer());
  assert.deepEqual(await decodePng(written), { width: WIDTH, height: HEIGHT, samples: labels });
  const wide = Uint16Array.from(labels, (id) => 300 * id);
  const wideWritten = new Uint8Array(await (await encodeLabels(wide, WIDTH, HEIGHT, [])).arrayBuffer());
  assert.deepEqual((await decodePng(wideWritten)).samples, wide);
});

test("checksums are those of ISO 3309", () => {
  assert.equal(crc32(new TextEncoder().encode("123456789")), 0xcbf43926);
  assert.equal(crc32(new TextEncoder().encode("1234"), new TextEncoder().encode("56789")), 0xcbf43926);
});

test("runs go down the columns and start with what is not the class", () => {
  assert.deepEqual(columnRuns(Uint8Array.from([1, 0, 1, 1]), 2, 2, 1), [0, 2, 1, 1]);
  assert.deepEqual(columnRuns(Uint8Array.from([0, 0]), 2, 1, 1), [2]);
});

const golden = (name) => JSON.parse(readFileSync(new URL(`../../golden/${name}`, import.meta.url)));

test("masks are compressed as pycocotools compresses them", () => {
  for (const { width, height, runs, masks } of golden("coco_rle.json")) {
    const ids = Uint8Array.from(runs.flatMap(([id, length]) => Array(length).fill(id)));
    for (const { class_id, counts } of masks) {
      assert.equal(compress(columnRuns(ids, width, height, class_id)), counts);
    }
  }
});

test("brush strokes are packed as Label Studio's converter packs them", () => {
  for (const { rle, rows } of golden("label_studio_brush.json")) {
    const mask = Uint8Array.from(rows.join(""), Number);
    assert.deepEqual([...encodeBrush(mask, 1)], rle);
  }
});

test("equal neighbours tell a drawing from a photograph", () => {
  const flat = new Uint8ClampedArray(4 * 12).fill(7);
  assert.equal(shareOfEqualNeighbours(flat, 4), 1);
  const noise = Uint8ClampedArray.from({ length: 4 * 12 }, (_, i) => (i * 73) % 256);
  assert.equal(shareOfEqualNeighbours(noise, 4), 0);
});
