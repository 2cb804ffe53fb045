// The settings in the page's address, after `#`: a copied address, a bookmark or a reload shows the same. The image
// itself is not in it, but for an example.

const OPTION = "option.";

/** Settings as the text after `#`. Fields that are empty are left out. */
export function writeAddress({ options, ...fields }) {
  const entries = Object.entries(fields).filter(([, value]) => value);
  const changed = Object.entries(options).map(([name, value]) => [OPTION + name, value]);
  return new URLSearchParams([...entries, ...changed]).toString();
}

/** Settings of the text after `#`; null if it has none. */
export function readAddress(hash) {
  const fields = [...new URLSearchParams(hash.replace(/^#/, ""))];
  if (fields.length === 0) return null;
  const isOption = ([name]) => name.startsWith(OPTION);
  const options = fields.filter(isOption).map(([name, value]) => [name.slice(OPTION.length), value]);
  return { ...Object.fromEntries(fields.filter((field) => !isOption(field))), options: Object.fromEntries(options) };
}
