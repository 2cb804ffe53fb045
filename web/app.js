// Puts the page together: an image, a class list and settings make a question; its answer goes to the stage, the legend
// and the summary. Every other module does one of these things and knows nothing of the others.
//
// Fields of requests have the names of the API. An option that is not changed is left out, so that the server's default
// holds. The contract is openapi.yaml. All addresses are relative to the page.

import { readAddress, writeAddress } from "./address.js";
import { getJson } from "./api.js";
import { ClassInput } from "./class-input.js";
import { ClassLists } from "./class-lists.js";
import { Comparison } from "./comparison.js";
import { CurlPanel, curlCommand } from "./curl.js";
import { element } from "./dom.js";
import { Downloads } from "./downloads.js";
import { Images } from "./images.js";
import { listenForKey } from "./key.js";
import { label, labelAll, Labelling } from "./labelling.js";
import { Legend } from "./legend.js";
import { likenessTo } from "./likeness.js";
import { Missing } from "./missing.js";
import { Options } from "./options.js";
import { Past } from "./past.js";
import { hideProblem, showProblem } from "./problem.js";
import { Progress } from "./progress.js";
import { Server } from "./server.js";
import { MODES, Stage } from "./stage.js";
import { Suggestions } from "./suggestions.js";
import { clearSummary, showSummary } from "./summary.js";
import { count } from "./text.js";
import { Trail } from "./trail.js";
import { titleOf, Vocabularies } from "./vocabularies.js";
import { parseClass, parseClasses, Words, writeClass } from "./words.js";

/** The pause after a keystroke or a move of a slider before the server is asked. */
const TYPING_PAUSE_MILLISECONDS = 150;
/** The pause before a change stands in the address: browsers allow some hundred changes a minute. */
const ADDRESS_PAUSE_MILLISECONDS = 250;
/** What stands this long is remembered under "Earlier", and is a question that Back returns to. */
const REMEMBER_MILLISECONDS = 1200;

const words = new Words();
const server = new Server();
const options = new Options();
const images = new Images();
const stage = new Stage();
const legend = new Legend();
const progress = new Progress();
const comparison = new Comparison();
const classLists = new ClassLists();
const suggestions = new Suggestions(classLists);
new ClassInput(words, suggestions);
const vocabularies = new Vocabularies(words, classLists);
const past = new Past();
const trail = new Trail();
const missing = new Missing();
const downloads = new Downloads(stage, labelForFiles);
const curl = new CurlPanel(
  () => curlCommand(images.current, requestFields()),
  () => (images.current && !images.current.exampleUrl ? images.current.name : null),
);

/** Whether changes are part of a larger one, at whose end the question is asked. */
let isRestoring = false;
/** Counts restorations: a slow one gives way to a later one. */
let restorations = 0;
/** The restoration that is under way, or was before another took its place. */
let awaited = null;
/** The settings of an address whose vocabulary the server gives only with a key, or null. */
let awaitingKey = null;
let rememberTimer;
let addressTimer;

// --- the question ---

/** The fields of a request without the image and the output. */
function requestFields() {
  const fields = words.fields();
  if (!server.model) return fields;
  if (server.models.length > 1) fields.model = server.model.name;
  return options.fields(fields, words.vocabulary, server.model);
}

/** The maps that a result must have for the picture. */
function output() {
  const heat = stage.heatOf(words.names());
  return { label_map: "png", confidence_map: true, ...(heat === null ? {} : { probability_maps: [heat] }) };
}

const labelling = new Labelling({
  started: () => progress.start(),
  entered: (phase) => {
    const vocabulary = words.vocabulary?.name ?? null;
    progress.enter(phase, images.current, { names: words.names(), vocabulary, model: server.model.name });
  },
  shown: (result) => {
    stage.show(result);
    showSummary(result, words.pending !== null);
    showWords();
    rememberSoon();
  },
  failed: (problem) => showProblem(problem, ask),
  ended: () => progress.end(),
});

const otherLabelling = new Labelling({
  started: () => {},
  entered: () => {},
  shown: (result) => stage.show(result, 1),
  failed: (problem) => showProblem(problem, ask),
  ended: () => {},
});

/** Asks for what the page now says, unless something is missing; nothing is asked then, and nothing is wrong. */
function ask(pauseMilliseconds = 0) {
  if (isRestoring) return;
  hideProblem();
  stage.showLikeness(null);
  clearTimeout(rememberTimer);
  remember();
  const image = images.current;
  element("no-classes").hidden = !image || !words.isEmpty;
  if (!image || !server.model || words.isEmpty) {
    labelling.cancel();
    otherLabelling.cancel();
    stage.clear();
    clearSummary();
    return;
  }
  const fields = { ...requestFields(), output: output() };
  const maxBytes = server.limits.max_request_bytes;
  labelling.ask((signal, enter) => label(image, fields, maxBytes, signal, enter), pauseMilliseconds);
  comparison.leaveOut(fields, standardOf);
  stage.compare(comparison.isOn, comparison.isOn ? comparison.titles(fields, standardOf) : undefined);
  if (!comparison.isOn) return otherLabelling.cancel();
  const changed = comparison.fieldsOf(fields);
  const others = possibleFields(changed, comparison.modelOf(changed));
  otherLabelling.ask((signal) => label(image, others, maxBytes, signal), pauseMilliseconds);
}

/** What holds for a field that a request leaves out. */
function standardOf(field) {
  return field === "model" ? server.model.name : options.standardOf(field);
}

/** Fields without what a model cannot do. */
function possibleFields(fields, model) {
  const { attention, key_smoothing, ...rest } = fields;
  if (model.attentions.includes(attention)) rest.attention = attention;
  if (model.key_smoothings.includes(key_smoothing?.method ?? key_smoothing)) rest.key_smoothing = key_smoothing;
  return rest;
}

/** Labels the images of the tab for a download. */
function labelForFiles(tell) {
  const fields = { ...requestFields(), output: { label_map: "png", confidence_map: true } };
  const all = images.forFiles;
  return labelAll(all, fields, server.limits, (done) => tell(done, all.length));
}

/** Offers the files that can be made now. */
function offerFiles() {
  downloads.offer({
    name: images.current?.name,
    hasResult: stage.result !== null,
    imageCount: images.forFiles.length,
    hasClasses: server.model !== null && !words.isEmpty,
  });
}

// --- what the page shows of the question ---

function showWords() {
  const { vocabulary, pending } = words;
  element("vocabulary-chip").hidden = vocabulary === null;
  element("vocabulary-name").textContent = vocabulary ? titleOf(vocabulary) : "";
  element("background").checked = words.hasBackground;
  showCorrections();
  legend.show(words.asked(), stage.result, {
    colours: stage.colours,
    heatName: stage.heatOf(words.names()),
    isShown: (name) => stage.isShown(name),
    pendingName: pending?.name ?? null,
  });
}

/** Puts the settings into the page's address and into the command. */
function remember() {
  clearTimeout(addressTimer);
  addressTimer = setTimeout(() => {
    // What is being restored is not on the page yet.
    if (images.current && awaited !== restorations) trail.write(images.current, question(), address());
  }, ADDRESS_PAUSE_MILLISECONDS);
  curl.refresh();
}

function address() {
  return writeAddress({
    ...questionTexts(),
    mode: stage.mode === MODES[0] ? "" : stage.mode,
    heat: stage.mode === "heat" && words.names().includes(stage.heatName) ? stage.heatName : "",
    ...stage.drawing,
  });
}

/** The part of the address that decides what the server is asked. */
function question() {
  return writeAddress(questionTexts());
}

function questionTexts() {
  const { exampleUrl } = images.current;
  return {
    example: exampleUrl?.split("/").at(-1),
    classes: words.vocabulary ? "" : words.text(),
    vocabulary: words.vocabulary?.name,
    background: words.hasBackground ? "1" : "",
    model: server.text,
    compare: comparison.text,
    options: options.texts(),
  };
}

/** Adds what is shown to "Earlier", and Back returns to it later, if it stands for a moment. */
function rememberSoon() {
  clearTimeout(rememberTimer);
  if (words.pending) return;
  const [image, asked, text, names] = [images.current, question(), address(), words.names()];
  const title = names.slice(0, 4).join(", ") + (names.length > 4 ? ", …" : "");
  rememberTimer = setTimeout(() => {
    trail.finish(image, asked);
    past.add(image, text, title, stage.picture);
  }, REMEMBER_MILLISECONDS);
}

/** Says first of all that a model of drawings is given a photograph. */
function showPhotographNote() {
  const isNeeded = Boolean(server.model?.embedded && images.current?.isPhotograph);
  element("photograph-note").hidden = !isNeeded;
  const other = server.models.find(({ embedded }) => !embedded);
  element("photograph-advice").hidden = Boolean(other);
  element("use-other-model").hidden = !other;
  element("use-other-model").textContent = `Use ${other?.name}`;
  element("use-other-model").onclick = () => server.choose(other.name);
}

function showCorrections() {
  const names = new Set(words.names());
  const number = images.current?.corrections.filter(({ name }) => names.has(name)).length ?? 0;
  element("corrections").hidden = number === 0;
  element("corrections-count").textContent = `${count(number, "region", "regions")} corrected.`;
}

// --- restoring ---

/**
 * Fetches what settings of an address name, takes the settings and asks once. The image is that of `image`, or the
 * settings' example. A later call, and an image that the user chooses in the meantime, take the place of this one.
 */
async function restore(settings, image = null) {
  const turn = ++restorations;
  awaited = turn;
  const lacking = [];
  const [vocabulary, given] = await Promise.all([
    vocabularyOf(settings, lacking),
    image ? { image, example: images.exampleOf(image) } : exampleOf(settings, lacking),
  ]);
  if (turn !== restorations) return;
  awaited = null;
  missing.clear();
  for (const { kind, name, problem } of lacking) missing.set(kind, name, problem);
  awaitingKey = lacking.some(({ problem }) => problem?.status === 401) ? settings : null;
  isRestoring = true;
  try {
    takeSettings(settings, vocabulary);
    if (!vocabulary) takeClasses(settings.classes, given?.example, { isWhole: image && !settings.vocabulary });
    const keepsWords = Boolean(image || vocabulary || settings.classes);
    if (given) images.choose(given.image, { example: given.example, keepsWords });
  } finally {
    isRestoring = false;
  }
  ask();
}

/** Takes settings of an address, but for the image; `vocabulary` is the one that they name, if the server has it. */
function takeSettings(settings, vocabulary) {
  options.restore(settings.options ?? {});
  server.choose(settings.model);
  words.setBackground(Boolean(settings.background));
  if (vocabulary) words.takeVocabulary(vocabulary);
  stage.drawing = settings;
  stage.heatName = settings.heat ?? null;
  stage.setMode(MODES.includes(settings.mode) ? settings.mode : MODES[0]);
  comparison.choose(settings.compare ?? "");
}

/** Takes the classes of an address. One without any leaves those that there are, unless it is the whole of what was. */
function takeClasses(text, example, { isWhole }) {
  if (!text && !isWhole) return;
  const classes = parseClasses(text ?? "");
  const own = example?.classes.map(parseClass).map(writeClass);
  words.take(classes, { isExample: own?.join() === classes.map(writeClass).join() });
}

/** The vocabulary that settings name, or null. Adds one that there is not to `lacking`. */
async function vocabularyOf({ vocabulary: name }, lacking) {
  if (!name) return null;
  try {
    return await getJson(`v1/vocabularies/${encodeURIComponent(name)}`);
  } catch (problem) {
    lacking.push({ kind: "vocabulary", name, problem: problem.status === 404 ? null : problem });
    return null;
  }
}

/**
 * The example that settings name, as `{ image, example }`; the first one in its place on an empty page. Adds one that
 * there is not to `lacking`.
 */
async function exampleOf({ example: name }, lacking) {
  const named = images.examples.find(({ image }) => image === name);
  if (name && !named) lacking.push({ kind: "example", name, problem: null });
  const example = named ?? (images.current ? null : images.examples[0]);
  if (!example) return null;
  try {
    return { example, image: await images.loadExample(example) };
  } catch (problem) {
    lacking.push({ kind: "example", name: example.image, problem });
    return null;
  }
}

// --- wiring ---

words.addEventListener("change", ({ detail: { isTyped } }) => {
  if (!isRestoring) missing.set("vocabulary", null);
  options.setContext({ vocabulary: words.vocabulary });
  stage.forgetOthers(words.names());
  showWords();
  offerFiles();
  ask(isTyped ? TYPING_PAUSE_MILLISECONDS : 0);
});

server.addEventListener("change", () => {
  const { model, defaults, limits } = server;
  options.setContext({ model, defaults, limits, vocabulary: words.vocabulary });
  comparison.setModels(server.models, model);
  missing.set("model", server.missing);
  offerFiles();
  showPhotographNote();
  ask();
});

options.addEventListener("change", () => ask(TYPING_PAUSE_MILLISECONDS));
comparison.addEventListener("change", () => ask());
comparison.addEventListener("keep", () => comparison.keep(requestFields(), server.model));

images.addEventListener("choose", ({ detail: { image, example = null, keepsWords = false } }) => {
  if (!isRestoring) {
    restorations++;
    missing.set("example", null);
  }
  stage.setImage(image);
  clearSummary();
  element("image-name").textContent = `${image.name}, ${image.width} × ${image.height} pixels`;
  showPhotographNote();
  showCorrections();
  if (keepsWords || words.isOwn) ask();
  else words.take(example ? example.classes.map(parseClass) : [], { isExample: true });
});

images.addEventListener("list", offerFiles);
stage.addEventListener("result", offerFiles);

stage.addEventListener("view", () => {
  remember();
  showWords();
  const heat = stage.heatOf(words.names());
  if (heat !== null && !stage.result?.probabilities.has(heat)) ask();
});

stage.addEventListener("rename", ({ detail: { name, to } }) =>
  name === null ? words.add([to]) : words.rename(name, to),
);
stage.addEventListener("refuse", ({ detail: { x, y, name } }) => {
  images.current.corrections.push({ x, y, name });
  showCorrections();
  if (words.vocabulary)
    words.copyVocabulary(); // a vocabulary's list cannot lack a class
  else ask();
});
stage.addEventListener("likeness", async ({ detail: { x, y } }) => {
  try {
    await stage.awaitLikeness(likenessTo(images.current, requestFields(), x, y));
  } catch (problem) {
    showProblem(problem);
  }
});
element("undo-correction").addEventListener("click", () => {
  images.current.corrections.pop();
  showCorrections();
  ask();
});

legend.addEventListener("highlight", ({ detail: { name } }) => {
  const isUseful = name !== null && stage.isShown(name) && stage.result?.classNamed(name)?.pixels > 0;
  stage.highlight(isUseful ? name : null);
});
legend.addEventListener("show", ({ detail: { name, isShown } }) => stage.setShown(name, isShown));
legend.addEventListener("heat", ({ detail: { name } }) => {
  const isOn = stage.mode === "heat" && stage.heatOf(words.names()) === name;
  if (isOn) stage.setMode(MODES[0]);
  else stage.showHeat(name);
});
legend.addEventListener("remove", ({ detail: { name } }) => {
  const index = words.names().indexOf(name);
  words.remove(name);
  legend.focusAfter(index);
});

vocabularies.addEventListener("take", ({ detail }) => words.takeVocabulary(detail));
element("change-vocabulary").addEventListener("click", () => words.copyVocabulary());
element("leave-vocabulary").addEventListener("click", () => words.takeVocabulary(null));
element("clear-classes").addEventListener("click", () => words.take([]));
element("background").addEventListener("change", ({ target }) => words.setBackground(target.checked));
element("cancel").addEventListener("click", () => {
  labelling.cancel();
  otherLabelling.cancel();
});
past.addEventListener("choose", ({ detail: { image, address } }) => restore(readAddress(address) ?? {}, image));
trail.addEventListener("travel", ({ detail: { image } }) => restore(readAddress(location.hash) ?? {}, image));

listenForKey(() => {
  hideProblem();
  server.load();
  if (awaitingKey) restore(awaitingKey);
});

/** Opens on the address's settings, or on the first example with its classes. */
async function start() {
  const settings = readAddress(location.hash) ?? {};
  server.load();
  await images.loadExamples();
  for (const example of images.examples) suggestions.add(example.classes.map((text) => parseClass(text).name));
  const isFree = images.current === null; // the user may have been quicker
  if (isFree) await restore(settings);
}

start();
