// Tests web/png.js with PNGs that this file writes, filter by filter. It needs only Node 20: `node --test png.test.js`.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { crc32, deflateSync } from "node:zlib";

// Loads web/png.js as a module, as the browser does, whatever the package.json of its folder says.
const source = await readFile(new URL("../../../web/png.js", import.meta.url));
const { decodePng } = await import(`data:text/javascript;base64,${source.toString("base64")}`);

const GREY = 0;
const TRUECOLOUR = 2;
const INDEXED = 3;

/** A file of 8-bit samples (or the two bytes of 16-bit ones) with one filter per row. */
function writePng({ width, height, depth, colourType, interlace = 0, rows, filters }) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([depth, colourType, 0, 0, interlace], 8);
  const step = depth / 8;
  const filtered = rows.map((row, y) => filterRow(filters[y], row, rows[y - 1] ?? row.map(() => 0), step));
  const data = deflateSync(Buffer.concat(filtered));
  const half = data.length >> 1; // two chunks, as buffering encoders write them
  return Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk("IHDR", header),
    chunk("PLTE", Buffer.alloc(3 * 256)),
    chunk("IDAT", data.subarray(0, half)),
    chunk("IDAT", data.subarray(half)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

function chunk(kind, body) {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(body.length);
  const named = Buffer.concat([Buffer.from(kind), body]);
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32BE(crc32(named));
  return Buffer.concat([length, named, checksum]);
}

function filterRow(filter, row, previous, step) {
  const at = (line, x) => (x < 0 ? 0 : line[x]);
  const predictors = [
    () => 0,
    (x) => at(row, x - step),
    (x) => at(previous, x),
    (x) => Math.floor((at(row, x - step) + at(previous, x)) / 2),
    (x) => paeth(at(row, x - step), at(previous, x), at(previous, x - step)),
  ];
  const predict = predictors[filter] ?? predictors[0];
  return Buffer.from([filter, ...row.map((value, x) => value - predict(x))]);
}

/** The Paeth predictor (PNG specification, section 9.4): the nearest of left, above and corner; ties in that order. */
function paeth(left, above, corner) {
  const target = left + above - corner;
  const distances = [left, above, corner].map((value) => Math.abs(target - value));
  return [left, above, corner][distances.indexOf(Math.min(...distances))];
}

/** Bytes that look random and are the same each time. */
function noise(count) {
  let state = 1;
  return Array.from({ length: count }, () => (state = (state * 48271) % 2147483647) & 255);
}

function noiseRows(height, bytes) {
  const all = noise(height * bytes);
  return Array.from({ length: height }, (_, y) => all.slice(y * bytes, (y + 1) * bytes));
}

for (const [filter, name] of ["none", "sub", "up", "average", "paeth"].entries()) {
  test(`an indexed PNG with filter ${name} gives its palette indices`, async () => {
    const rows = noiseRows(7, 13);
    const filters = rows.map(() => filter);
    const png = writePng({ width: 13, height: 7, depth: 8, colourType: INDEXED, rows, filters });
    assert.deepEqual(await decodePng(png), { width: 13, height: 7, samples: Uint8Array.from(rows.flat()) });
  });

  test(`a 16-bit grey PNG with filter ${name} gives its values`, async () => {
    const rows = noiseRows(5, 2 * 9);
    const filters = rows.map(() => filter);
    const png = writePng({ width: 9, height: 5, depth: 16, colourType: GREY, rows, filters });
    const bytes = rows.flat();
    const samples = Uint16Array.from({ length: 45 }, (_, i) => 256 * bytes[2 * i] + bytes[2 * i + 1]);
    assert.deepEqual(await decodePng(png), { width: 9, height: 5, samples });
  });
}

test("rows may each have a filter of their own", async () => {
  const rows = noiseRows(5, 6);
  const png = writePng({ width: 6, height: 5, depth: 8, colourType: GREY, rows, filters: [4, 2, 0, 3, 1] });
  assert.deepEqual((await decodePng(png)).samples, Uint8Array.from(rows.flat()));
});

const plain = { width: 2, height: 1, depth: 8, colourType: INDEXED, rows: [[1, 2]], filters: [0] };
const REFUSED = [
  ["something else", Buffer.from("GIF89a, not a PNG at all"), /Not a PNG/],
  ["a file without data", writePng(plain).subarray(0, 40), /cut short/],
  ["true colour", writePng({ ...plain, width: 1, colourType: TRUECOLOUR, rows: [[1, 2, 3]] }), /kind of PNG/],
  ["an interlaced file", writePng({ ...plain, interlace: 1 }), /kind of PNG/],
  ["an unknown filter", writePng({ ...plain, filters: [5] }), /unknown filter, 5/],
  ["less data than its size needs", writePng({ ...plain, height: 2 }), /does not match its size/],
];
for (const [what, bytes, message] of REFUSED) {
  test(`${what} is refused`, () => assert.rejects(decodePng(bytes), { message }));
}
