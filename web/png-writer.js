// Writes label maps as PNGs like the server's: indexed with a palette, or 16-bit grey above 255 classes. The page
// writes them itself, so that they have the colours and the corrections that it shows. png.js reads them.

import { crc32 } from "./crc32.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/**
 * @param {Uint8Array | Uint16Array} samples class ids, rows from the top
 * @param {number[][]} palette red, green and blue by id; without use for 16 bits
 * @returns {Promise<Blob>} a PNG file
 */
export async function encodeLabels(samples, width, height, palette) {
  const isWide = samples instanceof Uint16Array;
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, isWide ? 16 : 8);
  header.setUint8(9, isWide ? 0 : 3);
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer))];
  if (!isWide) chunks.push(chunk("PLTE", paletteBytes(palette)));
  chunks.push(chunk("IDAT", await deflate(rowsOf(samples, width, height))), chunk("IEND", new Uint8Array(0)));
  return new Blob([Uint8Array.from(SIGNATURE), ...chunks], { type: "image/png" });
}

/** Bytes of 256 colours; black where there is no class. */
function paletteBytes(palette) {
  const bytes = new Uint8Array(3 * 256);
  palette.forEach((colour, id) => bytes.set(colour, 3 * id));
  return bytes;
}

/** The samples with a filter byte of 0 before each row, the high byte first. */
function rowsOf(samples, width, height) {
  const bytesPerSample = samples.BYTES_PER_ELEMENT;
  const rows = new Uint8Array(height * (width * bytesPerSample + 1));
  for (let y = 0, from = 0, to = 0; y < height; y++) {
    to++;
    for (let x = 0; x < width; x++, from++) {
      if (bytesPerSample === 2) rows[to++] = samples[from] >> 8;
      rows[to++] = samples[from] & 0xff;
    }
  }
  return rows;
}

async function deflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function chunk(kind, body) {
  const bytes = new Uint8Array(12 + body.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  for (let i = 0; i < 4; i++) bytes[4 + i] = kind.charCodeAt(i);
  bytes.set(body, 8);
  view.setUint32(8 + body.length, crc32(bytes.subarray(4, 8 + body.length)));
  return bytes;
}
