// The server's warnings in the words of the page: what is meant, and what to do on the page.

/** What to say by the warning's code, in place of the server's sentence, which names fields of requests. */
const SENTENCES = {
  "no-background":
    "What you did not name gets the class that it resembles most. Tick “Background” to leave it unlabelled, or add a " +
    "class for what surrounds the others.",
  "single-class":
    "With one class alone every pixel gets it. Add another class, or tick “Background” to leave the rest unlabelled.",
  "commas-in-name": "The only name has commas in it and counts as one. Make a class of each of its parts.",
};

/** What to do by the warning's code, after the server's sentence, which names the words. */
const ADVICE = {
  "duplicate-class": "Leave one of them out.",
  "numbered-names": "Leave the numbers out.",
  "signs-in-names": "Leave out what belongs to the file that the names come from.",
  "unknown-word": "Try a more usual word.",
  "text-truncated": "Try a shorter name.",
  "denoising-dropped-all": "Lower “Prompt denoising” in the settings.",
};

/**
 * A warning for people.
 *
 * @param {{code: string, message: string}} warning of a reply
 */
export function sentenceOf({ code, message }) {
  if (code in SENTENCES) return SENTENCES[code];
  const sentence = `${message[0].toUpperCase()}${message.slice(1)}.`;
  return code in ADVICE ? `${sentence} ${ADVICE[code]}` : sentence;
}
