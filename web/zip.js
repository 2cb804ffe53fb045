// Puts files into one ZIP archive, uncompressed: PNGs do not shrink any more. Enough for less than 4 GB and 65,535
// files.

import { crc32 } from "./crc32.js";

const LOCAL_HEADER = 0x04034b50;
const CENTRAL_HEADER = 0x02014b50;
const END_OF_DIRECTORY = 0x06054b50;
const VERSION = 20;
/** The flag that says that names are UTF-8. */
const UTF8_NAMES = 0x0800;
/** 1980-01-01, the first date that the format knows: the same files make the same archive. */
const DATE = 0x0021;

/**
 * @param {{name: string, bytes: Uint8Array}[]} files names differ
 * @returns {Blob}
 */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  for (const { name, bytes } of files) {
    const encoded = new TextEncoder().encode(name);
    const common = commonFields(encoded, bytes);
    const local = record([[4, LOCAL_HEADER], [2, VERSION], ...common, [2, 0]], encoded);
    // Comment, disk, attributes, and where the file is.
    const tail = [
      [2, 0],
      [2, 0],
      [2, 0],
      [2, 0],
      [4, 0],
      [4, offset],
    ];
    directory.push(record([[4, CENTRAL_HEADER], [2, VERSION], [2, VERSION], ...common, ...tail], encoded));
    parts.push(local, bytes);
    offset += local.length + bytes.length;
  }
  const size = directory.reduce((sum, entry) => sum + entry.length, 0);
  const counts = [
    [2, files.length],
    [2, files.length],
    [4, size],
    [4, offset],
    [2, 0],
  ];
  const end = record([[4, END_OF_DIRECTORY], [2, 0], [2, 0], ...counts], new Uint8Array(0));
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Flags, method, time, date, checksum, both sizes, and the length of the name. */
function commonFields(name, bytes) {
  const size = bytes.length;
  return [
    [2, UTF8_NAMES],
    [2, 0],
    [2, 0],
    [2, DATE],
    [4, crc32(bytes)],
    [4, size],
    [4, size],
    [2, name.length],
  ];
}

/** Little-endian numbers of 2 or 4 bytes, and the name after them. */
function record(fields, name) {
  const length = fields.reduce((sum, [bytes]) => sum + bytes, 0);
  const record = new Uint8Array(length + name.length);
  const view = new DataView(record.buffer);
  let at = 0;
  for (const [bytes, value] of fields) {
    if (bytes === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += bytes;
  }
  record.set(name, at);
  return record;
}
