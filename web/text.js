// Numbers and lists in words, and bytes in text. No module writes them in another way.

/** A share from 0 to 1 in percent; a dash for null. */
export function percent(value, digits = 0) {
  if (value === null) return "–";
  return new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: digits }).format(value);
}

export function milliseconds(seconds) {
  return `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;
}

export function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** `1 class`, `2 classes`. */
export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

/** The bytes of a base64 text. */
export function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}
