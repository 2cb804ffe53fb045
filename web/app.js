// The form: which image, which classes, which settings. It sends POST /v1/images once per image, then POST /v1/segment
// once per class list, and hands each reply to result.js.
//
// Fields of the form have the names of the request's fields. An empty field is left out of the request, so that the
// server's default holds. The contract is openapi.yaml. All addresses are relative to the page.

import { ResultView } from "./result.js";

/** The pause between two questions whether the server has loaded its model. */
const MODEL_RETRY_MILLISECONDS = 2000;

/** Where the browser keeps the API key: until the tab is closed, and for this server alone. */
const KEY_ITEM = "maskclip-key";

const element = (id) => document.getElementById(id);
const view = new ResultView();

/** Problem types after which the page sends the image itself instead of its id. */
const IMAGE_NOT_HELD = "/problems/image-not-held";
const IMAGE_TOO_LARGE_TO_HOLD = "/problems/image-too-large-to-hold";

/** The fields of a request that decide an image's features: POST /v1/images takes them too. */
const LOOK_FIELDS = ["model", "attention", "key_smoothing", "short_side"];

/**
 * The image to label: its bytes, its file name, its address if it is an example, and its id on the server. The id is
 * `null` before the image was sent to POST /v1/images, and `undefined` if the server has no room for the image.
 */
let image = null;
/** Chosen classes in the order of their ids: `{ name, synonyms }`. */
let classes = [];
/** The `classKey` of the example whose classes are in the list; null after the user changed them. */
let classesOfExample = null;
/** The controller of the running request, or null. */
let running = null;
/** The loaded models, as `GET /v1/models` lists them; the first is the default. */
let models = [];
/** The timer of the next question for the models. */
let modelRetry;
/** Whether the server's latest answer was that it needs a key, or another one. */
let isKeyRefused = false;
/** The most bytes of a request that the server reads; unknown until `GET /v1/models` says. */
let maxRequestBytes = Infinity;

// --- key ---

/** The headers of every request to the API: the key, if the user has given one. */
function authorization() {
  const key = sessionStorage.getItem(KEY_ITEM);
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Takes note whether an answer refuses the key, or the lack of one. Shows the field for the key then. */
function noticeKey(response) {
  isKeyRefused = response.status === 401 || response.status === 403;
  if (isKeyRefused) element("key-panel").hidden = false;
}

function listenForKey() {
  const input = element("key");
  input.value = sessionStorage.getItem(KEY_ITEM) ?? "";
  element("key-panel").hidden = input.value === "";
  input.addEventListener("change", () => {
    sessionStorage.setItem(KEY_ITEM, input.value.trim());
    hideProblem();
    loadVocabularies();
    loadModels();
  });
}

// --- image ---

/** Puts an image on the stage. Returns false if the browser cannot show it. */
async function setImage(blob, name, exampleUrl = null) {
  const picture = element("image");
  const url = URL.createObjectURL(blob);
  const candidate = new Image();
  candidate.src = url;
  try {
    await candidate.decode();
  } catch {
    URL.revokeObjectURL(url);
    showProblem("This file cannot be shown", `This browser cannot read ${name}. It can read PNG, JPEG and WebP.`);
    return false;
  }
  running?.abort();
  view.clear();
  hideProblem();
  URL.revokeObjectURL(picture.src);
  picture.src = url;
  element("picture").style.setProperty("--ratio", candidate.naturalWidth / candidate.naturalHeight);
  element("picture").style.setProperty("--natural-width", `${candidate.naturalWidth}px`);
  element("picture").setAttribute("aria-label", `The image ${name}`);
  element("image-name").textContent = `${name}, ${candidate.naturalWidth} × ${candidate.naturalHeight} pixels`;
  element("image-name").hidden = false;
  element("empty").hidden = true;
  element("stage").hidden = false;
  image = { blob, name, exampleUrl, id: null };
  markExample(exampleUrl);
  refreshCurl();
  return true;
}

function listenForImages() {
  element("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) setImage(file, file.name);
    event.target.value = ""; // choosing the same file again is then a change
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    setImage(file, file.name);
  });
  const root = document.documentElement;
  const carriesFiles = (event) => event.dataTransfer.types.includes("Files");
  root.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    root.classList.add("dropping");
  });
  root.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) root.classList.remove("dropping");
  });
  root.addEventListener("drop", (event) => {
    root.classList.remove("dropping");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) setImage(file, file.name);
  });
}

// --- examples ---

/** Lists the example scenes: `[{ "image": "file name", "title": "...", "classes": ["..."] }]`. */
async function loadExamples() {
  const examples = await getJson("assets/examples/index.json");
  if (!examples) return;
  element("example-list").replaceChildren(...examples.map(exampleItem));
  element("examples").hidden = false;
}

function exampleItem(example) {
  const url = `assets/examples/${example.image}`;
  const thumbnail = document.createElement("img");
  thumbnail.src = url;
  thumbnail.alt = "";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "example";
  button.dataset.url = url;
  button.setAttribute("aria-pressed", "false");
  button.append(thumbnail, example.title);
  button.addEventListener("click", () => takeExample(example, url));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

/** Takes an example's image and labels it. Takes the example's classes too, unless the user has a list of their own. */
async function takeExample(example, url) {
  let blob;
  try {
    blob = await (await fetch(url)).blob();
  } catch {
    showProblem("The example could not be loaded", "The server may be down. Try again.");
    return;
  }
  if (!(await setImage(blob, example.image, url))) return;
  if (classes.length === 0 || classKey(classes) === classesOfExample) {
    classes = example.classes.map(parseClass);
    classesOfExample = classKey(classes);
    showClasses();
  }
  await run();
}

function markExample(url) {
  for (const button of element("example-list").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.url === url));
  }
}

// --- classes ---

/** Reads `name`, or `name = synonym; synonym`; null if there is no name. */
function parseClass(text) {
  const [name, ...synonyms] = text.split(/[=;]/).map((part) => part.trim()).filter(Boolean);
  return name === undefined ? null : { name, synonyms };
}

function writeClass({ name, synonyms }) {
  return synonyms.length === 0 ? name : `${name} = ${synonyms.join("; ")}`;
}

function classKey(list) {
  return list.map(writeClass).join(",");
}

/** Adds every class of a text that commas or line ends split; names already in the list are not added again. */
function addClasses(text) {
  for (const part of text.split(/[,\n]/)) {
    const added = parseClass(part);
    if (added && !classes.some(({ name }) => name === added.name)) classes.push(added);
  }
  showClasses();
}

function removeClass(index) {
  classes.splice(index, 1);
  showClasses();
}

function showClasses() {
  element("class-list").replaceChildren(...classes.map(classChip));
  element("class-input").placeholder = classes.length === 0 ? "tiger, lemon" : "";
  refreshCurl();
}

function classChip(entry, index) {
  const remove = document.createElement("button");
  remove.type = "button";
  remove.textContent = "×";
  remove.setAttribute("aria-label", `Remove ${entry.name}`);
  remove.addEventListener("click", () => {
    removeClass(index);
    const next = element("class-list").querySelectorAll("button")[index];
    (next ?? element("class-input")).focus();
  });
  const chip = document.createElement("li");
  chip.append(writeClass(entry), remove);
  return chip;
}

/** Adds the text that is still in the input as a class. */
function takePendingClass() {
  const input = element("class-input");
  if (input.value.trim() === "") return;
  addClasses(input.value);
  input.value = "";
}

function listenForClasses() {
  const input = element("class-input");
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter" && input.value.trim() !== "") {
      event.preventDefault(); // Enter in an empty input sends the form
      takePendingClass();
    } else if (event.key === "Backspace" && input.value === "" && classes.length > 0) {
      removeClass(classes.length - 1);
    }
  });
  // Not on keydown: on-screen keyboards do not report the comma there.
  input.addEventListener("input", () => {
    if (input.value.includes(",")) takePendingClass();
  });
  input.addEventListener("paste", (event) => {
    const text = event.clipboardData.getData("text");
    if (!/[,\n]/.test(text)) return;
    event.preventDefault();
    addClasses(text);
  });
  input.addEventListener("blur", takePendingClass);
  element("chips").addEventListener("click", (event) => {
    if (event.target === event.currentTarget) input.focus();
  });
  for (const radio of element("form").elements.source) radio.addEventListener("change", showSource);
}

function usesNamedVocabulary() {
  return element("form").elements.source.value === "vocabulary";
}

function showSource() {
  element("own-classes").hidden = usesNamedVocabulary();
  element("named-vocabulary").hidden = !usesNamedVocabulary();
}

// --- what the server has ---

async function loadVocabularies() {
  const list = await getJson("v1/vocabularies?kind=named");
  if (!list) return;
  const options = list.vocabularies.map(({ name }) => new Option(name));
  element("vocabulary").replaceChildren(...options);
}

/** Offers the loaded models and their options. Asks again while the server is still loading. */
async function loadModels() {
  clearTimeout(modelRetry);
  const list = await getJson("v1/models");
  if (!list || list.models.length === 0) {
    element("model").textContent = isKeyRefused ? "this server needs a key" : "no model is ready yet";
    if (isKeyRefused) return;
    modelRetry = setTimeout(loadModels, MODEL_RETRY_MILLISECONDS);
    return;
  }
  maxRequestBytes = list.limits.max_request_bytes;
  element("short-side").max = list.limits.max_short_side;
  models = list.models;
  const choice = element("model-choice");
  choice.replaceChildren(...models.map(({ name }) => new Option(name)));
  element("model-panel").hidden = models.length === 1;
  showModel();
}

/** Shows the chosen model and offers its options; options that it lacks are disabled. */
function showModel() {
  const model = models[element("model-choice").selectedIndex];
  element("model").textContent = [model.name, model.architecture, model.precision, model.device].join(" · ");
  for (const note of document.querySelectorAll(".demo-note")) note.hidden = !model.embedded;
  offer("attention", model.attentions);
  offer("key-smoothing", model.key_smoothings);
  element("temperature").placeholder = `${model.temperature}, the model’s own`;
  const classes = model.student?.classes.map((entry) => entry.name ?? entry) ?? [];
  element("trained-on").hidden = !model.student;
  element("trained-on").textContent = `A student trained on ${classes.join(", ")}; it can label other classes too.`;
}

/**
 * Fills a select with a default and these values, and keeps the chosen value if it is among them. With fewer than two
 * values there is nothing to choose, and the select is disabled.
 */
function offer(id, values) {
  const select = element(id);
  const chosen = select.value;
  select.replaceChildren(new Option("default", ""), ...values.map((name) => new Option(name)));
  select.value = values.includes(chosen) ? chosen : "";
  select.disabled = values.length < 2;
}

/** A JSON document of the server, or null if the server does not give it now: the page works without it. */
async function getJson(url) {
  try {
    const response = await fetch(url, { headers: authorization() });
    noticeKey(response);
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

// --- request ---

/** The request's JSON, without the image. */
function requestBody() {
  const body = usesNamedVocabulary()
    ? { vocabulary: element("vocabulary").value }
    : { classes: classes.map((entry) => (entry.synonyms.length === 0 ? entry.name : entry)) };
  if (models.length > 1) body.model = element("model-choice").value;
  if (element("background").checked) body.background = true;
  for (const field of element("advanced").querySelectorAll("[name]:enabled")) {
    if (field.value !== "") body[field.name] = field.type === "number" ? field.valueAsNumber : field.value;
  }
  return body;
}

/** Returns whether the form makes a request; shows what is missing if it does not. */
function canSend() {
  if (!image) {
    element("file").focus();
    showProblem("There is no image yet", "Choose, drop or paste an image, or take an example.");
    return false;
  }
  if (image.blob.size > maxRequestBytes) {
    // The page checks this itself: a server may close the connection before its answer to a long body can be read.
    const [has, limit] = [image.blob.size, maxRequestBytes].map((bytes) => `${(bytes / 1e6).toFixed(1)} MB`);
    showProblem("The image is too large for this server", `It has ${has}; limits.max_request_bytes is ${limit}.`);
    return false;
  }
  if (!usesNamedVocabulary() && classes.length === 0) {
    element("class-input").focus();
    showProblem("There are no classes yet", "Type names of things that may be in the image, such as tiger, lemon.");
    return false;
  }
  return true;
}

/** Labels the image and shows the result, or why there is none. Aborts a running request first. */
async function run() {
  takePendingClass();
  hideProblem();
  if (!canSend()) return;
  running?.abort();
  const controller = new AbortController();
  running = controller;
  showBusy();
  try {
    const started = performance.now();
    const reply = await segment(controller.signal);
    await view.show(reply, (performance.now() - started) / 1000, controller.signal);
    element("stage").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (!controller.signal.aborted) showProblem(error.title ?? "The result cannot be shown", error.message);
  } finally {
    if (running === controller) running = null;
    showBusy();
  }
}

/**
 * Labels the image and returns the reply. Sends the image only if the server does not hold it.
 * Throws a `RequestProblem` if the server refuses or does not answer.
 */
async function segment(signal) {
  const asked = image; // the user may choose another image meanwhile
  const body = { ...requestBody(), output: { label_map: "png", confidence_map: true } };
  for (const isRepeated of [false, true]) {
    const timings = asked.id === null ? await holdImage(asked, body, signal) : {};
    try {
      const [fields, sent] = asked.id ? [{ ...body, image_id: asked.id }, null] : [body, asked];
      const reply = await post("v1/segment", fields, sent, signal);
      return { ...reply, timings: addTimings(reply.timings, timings) };
    } catch (problem) {
      if (isRepeated || problem.type !== IMAGE_NOT_HELD) throw problem;
      asked.id = null;
    }
  }
}

/** Sends an image to POST /v1/images with the options that decide its features. Returns the seconds of each stage. */
async function holdImage(left, body, signal) {
  const look = Object.fromEntries(LOOK_FIELDS.filter((field) => field in body).map((field) => [field, body[field]]));
  try {
    const { image_id, timings } = await post("v1/images", look, left, signal);
    left.id = image_id;
    return timings;
  } catch (problem) {
    if (problem.type !== IMAGE_TOO_LARGE_TO_HOLD) throw problem;
    left.id = undefined;
    return {};
  }
}

/** The seconds of each stage, summed over both requests. */
function addTimings(timings, before) {
  return Object.fromEntries(Object.entries(timings).map(([stage, seconds]) => [stage, seconds + (before[stage] ?? 0)]));
}

/** Sends a request, with an image unless that is null, and returns the reply's JSON. Throws a `RequestProblem`. */
async function post(url, body, sent, signal) {
  const form = new FormData();
  if (sent) form.append("image", sent.blob, sent.name);
  form.append("request", JSON.stringify(body));
  let response;
  try {
    response = await fetch(url, { method: "POST", headers: authorization(), body: form, signal });
  } catch {
    throw new RequestProblem("The server did not answer", "It may be down, or the image too large for it. Try again.");
  }
  noticeKey(response);
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** An answer that is no result: a title, a detail for people as the message, and the server's problem type if any. */
class RequestProblem extends Error {
  constructor(title, detail, type) {
    super(detail);
    this.title = title;
    this.type = type;
  }
}

/** Reads problem details (RFC 9457). Of any other page, such as a proxy's, only the status is shown. */
async function problemOf(response) {
  const { type, title, detail, instance } = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("Retry-After"));
  const advice = seconds > 0 ? `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.` : "";
  const record = !detail && instance ? `The server’s log has the details under ${instance}.` : "";
  return new RequestProblem(
    title ?? `The server answered ${response.status}`,
    [detail, advice, record].filter(Boolean).join(" "),
    type,
  );
}

// --- feedback ---

function showBusy() {
  const busy = running !== null;
  element("run").textContent = busy ? "Labelling …" : "Label this image";
  element("cancel").hidden = !busy;
  element("progress").hidden = !busy;
  element("stage").setAttribute("aria-busy", String(busy));
}

function showProblem(title, detail) {
  const heading = document.createElement("strong");
  heading.textContent = title;
  const text = document.createElement("p");
  text.textContent = detail;
  text.hidden = detail === "";
  element("problem").replaceChildren(heading, text);
  element("problem").hidden = false;
  element("problem").scrollIntoView({ block: "nearest" });
}

function hideProblem() {
  element("problem").hidden = true;
}

// --- curl ---

/** The same request as a shell command. It fetches an example from this server, so it works on any machine. */
function curlCommand() {
  const request = `--form-string ${shellQuote(`request=${JSON.stringify(requestBody())}`)}`;
  const answer = `-o reply.json -w 'HTTP %{http_code}, saved as reply.json\\n'`;
  const url = shellQuote(absolute("v1/segment"));
  // The key itself would stay in the shell's history.
  const key = sessionStorage.getItem(KEY_ITEM) ? ` \\\n  -H "Authorization: Bearer $MASKCLIP_KEY"` : "";
  const send = (file) => `curl -sS ${url}${key} \\\n  -F ${shellQuote(`image=@${file}`)} \\\n  ${request} \\\n  ${answer}`;
  if (image?.exampleUrl)
    return `curl -sS ${shellQuote(absolute(image.exampleUrl))} |\n${send("-")}`;
  return send(image ? curlFileName(image.name) : "FILE");
}

/** The whole address of what the page finds relative to itself, behind a proxy under a path, too. */
function absolute(address) {
  return new URL(address, document.baseURI).href;
}

/** curl gives comma, semicolon, quote and backslash a meaning in a form's value, so a name with these is quoted. */
function curlFileName(name) {
  return /[",;\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
}

function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Updates the command from the form, if the command is shown. */
function refreshCurl() {
  if (element("curl").hidden) return;
  const command = element("curl-command");
  command.value = curlCommand();
  command.rows = command.value.split("\n").length + 1;
  element("copied").textContent = "";
}

/** Shows the command, and copies it if the browser allows that (only over https or on this machine). */
async function showCurl() {
  takePendingClass();
  element("curl").hidden = false;
  refreshCurl();
  const command = element("curl-command");
  const where = image && !image.exampleUrl ? ` The command expects ${image.name} in the current folder.` : "";
  try {
    await navigator.clipboard.writeText(command.value);
    element("copied").textContent = `Copied.${where}`;
  } catch {
    command.select();
    element("copied").textContent = `Copy the selected text.${where}`;
  }
}

// --- start ---

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
element("form").addEventListener("change", refreshCurl);
element("cancel").addEventListener("click", () => running?.abort());
element("copy-curl").addEventListener("click", showCurl);
element("model-choice").addEventListener("change", showModel);
listenForKey();
listenForImages();
listenForClasses();
showSource(); // browsers keep the radio's state over a reload
loadExamples();
loadVocabularies();
loadModels();
