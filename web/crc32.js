// The checksum of PNG chunks and ZIP entries (ISO 3309).

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** The CRC-32 of parts, one after the other, as an unsigned number. */
export function crc32(...parts) {
  let crc = 0xffffffff;
  for (const part of parts) for (const byte of part) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
