// The form: which image, which classes, which settings; sends POST /v1/images once for an image, then POST /v1/segment for each
// class list, and hands the reply to result.js.
//
// Fields of the form are named as the request's fields are, and an empty one is left out, so that the server's own
// defaults hold. The contract is /openapi.yaml.

import { ResultView } from "/assets/result.js";

/** Between two looks at whether the server has loaded its model. */
const MODEL_RETRY_MILLISECONDS = 2000;

const element = (id) => document.getElementById(id);
const view = new ResultView();

/** The kinds of problems that are answered by sending the image along. */
const IMAGE_NOT_HELD = "/problems/image-not-held";
const IMAGE_TOO_LARGE_TO_HOLD = "/problems/image-too-large-to-hold";

/** The fields of a request that say how the model looks at the image, as POST /v1/images takes them. */
const LOOK_FIELDS = ["model", "attention", "key_smoothing", "short_side"];

/**
 * The image to label: its bytes, its file name, its address if it is one of the examples, and what the server calls it: `null`
 * before it has been left there, `undefined` where the server has no room for it.
 */
let image = null;
/** Chosen classes in the order of their ids: `{ name, synonyms }`. */
let classes = [];
/** The example whose classes stand in the list, as `classKey` writes them; null once they were changed. */
let classesOfExample = null;
/** The controller of the request under way, or null. */
let running = null;
/** What the server has loaded, as `GET /v1/models` lists it; the first is the default. */
let models = [];
/** What the server reads of a request; unknown until it says. */
let maxRequestBytes = Infinity;

// --- image ---

/** Puts an image on the stage; false if the browser cannot show it. */
async function setImage(blob, name, exampleUrl = null) {
  const picture = element("image");
  const url = URL.createObjectURL(blob);
  const candidate = new Image();
  candidate.src = url;
  try {
    await candidate.decode();
  } catch {
    URL.revokeObjectURL(url);
    showProblem("This file cannot be shown", `${name} is not an image this browser can read. PNG, JPEG and WebP are.`);
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
    event.target.value = ""; // so that choosing the same file again is a change
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
  const examples = await getJson("/assets/examples/index.json");
  if (!examples) return;
  element("example-list").replaceChildren(...examples.map(exampleItem));
  element("examples").hidden = false;
}

function exampleItem(example) {
  const url = `/assets/examples/${example.image}`;
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

/** Takes an example's image, and its classes unless the user has a list of their own, and labels it. */
async function takeExample(example, url) {
  let blob;
  try {
    blob = await (await fetch(url)).blob();
  } catch {
    showProblem("The example did not arrive", "The server may be down. Try again.");
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

/** Makes a class of what still stands in the input. */
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
      event.preventDefault(); // the form is sent by Enter in an empty input
      takePendingClass();
    } else if (event.key === "Backspace" && input.value === "" && classes.length > 0) {
      removeClass(classes.length - 1);
    }
  });
  // Not on keydown: keyboards on screens do not name the comma there.
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
  const list = await getJson("/v1/vocabularies?kind=named");
  if (!list) return;
  const options = list.vocabularies.map(({ name }) => new Option(name));
  element("vocabulary").replaceChildren(...options);
}

/** Offers the loaded models and what they can do; asks again while the server is still loading them. */
async function loadModels() {
  const list = await getJson("/v1/models");
  if (!list || list.models.length === 0) {
    element("model").textContent = "no model is ready yet";
    setTimeout(loadModels, MODEL_RETRY_MILLISECONDS);
    return;
  }
  maxRequestBytes = list.limits.max_request_bytes;
  element("short-side").max = list.limits.max_short_side;
  models = list.models;
  const choice = element("model-choice");
  choice.replaceChildren(...models.map(({ name }) => new Option(name)));
  choice.addEventListener("change", showModel);
  element("model-panel").hidden = models.length === 1;
  showModel();
}

/** Shows the chosen model and offers what it can do; what it lacks is disabled. */
function showModel() {
  const model = models[element("model-choice").selectedIndex];
  element("model").textContent = [model.name, model.architecture, model.precision, model.device].join(" · ");
  for (const note of document.querySelectorAll(".demo-note")) note.hidden = !model.embedded;
  offer("attention", model.attentions);
  offer("key-smoothing", model.key_smoothings);
  element("temperature").placeholder = `${model.temperature}, the model’s own`;
  const classes = model.student?.classes.map((entry) => entry.name ?? entry) ?? [];
  element("trained-on").hidden = !model.student;
  element("trained-on").textContent = `A student trained on ${classes.join(", ")}; it takes other classes, too.`;
}

/** Puts values into a choice beside the default, keeping the chosen one if it is among them; one that leaves no choice is off. */
function offer(id, values) {
  const select = element(id);
  const chosen = select.value;
  select.replaceChildren(new Option("default", ""), ...values.map((name) => new Option(name)));
  select.value = values.includes(chosen) ? chosen : "";
  select.disabled = values.length < 2;
}

/** A JSON document of the server, or null if it has none to give now: the page works without. */
async function getJson(url) {
  try {
    const response = await fetch(url);
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

/** Says why a request makes no sense yet; true if it does. */
function canSend() {
  if (!image) {
    element("file").focus();
    showProblem("There is no image yet", "Choose, drop or paste one, or take an example.");
    return false;
  }
  if (image.blob.size > maxRequestBytes) {
    // Said here, since a server may hang up on a body that is too long before its answer can be read.
    const [has, limit] = [image.blob.size, maxRequestBytes].map((bytes) => `${(bytes / 1e6).toFixed(1)} MB`);
    showProblem("The image is too large for this server", `It has ${has}; limits.max_request_bytes is ${limit}.`);
    return false;
  }
  if (!usesNamedVocabulary() && classes.length === 0) {
    element("class-input").focus();
    showProblem("There are no classes yet", "Type the names of what may be in the image, such as tiger, lemon.");
    return false;
  }
  return true;
}

/** Labels the image and shows the result, or why there is none. A request under way is given up. */
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

/** Labels the image, which is sent only if the server does not hold it; throws a `RequestProblem` where it, or the way to it, says no. */
async function segment(signal) {
  const asked = image; // another may be chosen meanwhile
  const body = { ...requestBody(), output: { label_map: "png", confidence_map: true } };
  for (const isRepeated of [false, true]) {
    const timings = asked.id === null ? await holdImage(asked, body, signal) : {};
    try {
      const [fields, sent] = asked.id ? [{ ...body, image_id: asked.id }, null] : [body, asked];
      const reply = await post("/v1/segment", fields, sent, signal);
      return { ...reply, timings: addTimings(reply.timings, timings) };
    } catch (problem) {
      if (isRepeated || problem.type !== IMAGE_NOT_HELD) throw problem;
      asked.id = null;
    }
  }
}

/** Leaves an image on the server, looked at as a request will ask for it; the seconds of the stages that this took. */
async function holdImage(left, body, signal) {
  const look = Object.fromEntries(LOOK_FIELDS.filter((field) => field in body).map((field) => [field, body[field]]));
  try {
    const { image_id, timings } = await post("/v1/images", look, left, signal);
    left.id = image_id;
    return timings;
  } catch (problem) {
    if (problem.type !== IMAGE_TOO_LARGE_TO_HOLD) throw problem;
    left.id = undefined;
    return {};
  }
}

/** The seconds of each stage over both requests. */
function addTimings(timings, before) {
  return Object.fromEntries(Object.entries(timings).map(([stage, seconds]) => [stage, seconds + (before[stage] ?? 0)]));
}

/** Sends a request, with an image unless that is null; the reply's JSON. Throws a `RequestProblem`. */
async function post(url, body, sent, signal) {
  const form = new FormData();
  if (sent) form.append("image", sent.blob, sent.name);
  form.append("request", JSON.stringify(body));
  let response;
  try {
    response = await fetch(url, { method: "POST", body: form, signal });
  } catch {
    throw new RequestProblem("The server did not answer", "It may be down, or the image too large for it. Try again.");
  }
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** An answer that is not a result: a title and, as the message, a detail for people; its type where it is one of the server's problems. */
class RequestProblem extends Error {
  constructor(title, detail, type) {
    super(detail);
    this.title = title;
    this.type = type;
  }
}

/** Reads problem details (RFC 9457); a proxy's page of its own becomes its status. */
async function problemOf(response) {
  const { type, title, detail, instance } = await response.json().catch(() => ({}));
  const seconds = Number(response.headers.get("Retry-After"));
  const advice = seconds > 0 ? `Try again in ${seconds} ${seconds === 1 ? "second" : "seconds"}.` : "";
  const record = !detail && instance ? `The server’s log has the detail under ${instance}.` : "";
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

/** The same request as a command for a shell; an example is fetched from this server, so it works anywhere. */
function curlCommand() {
  const request = `--form-string ${shellQuote(`request=${JSON.stringify(requestBody())}`)}`;
  const answer = `-o reply.json -w 'HTTP %{http_code}, saved as reply.json\\n'`;
  const url = shellQuote(`${location.origin}/v1/segment`);
  const send = (file) => `curl -sS ${url} \\\n  -F ${shellQuote(`image=@${file}`)} \\\n  ${request} \\\n  ${answer}`;
  if (image?.exampleUrl)
    return `curl -sS ${shellQuote(location.origin + image.exampleUrl)} |\n${send("-")}`;
  return send(image ? curlFileName(image.name) : "FILE");
}

/** In a form's value, curl gives comma, semicolon, quote and backslash a meaning unless the name is quoted. */
function curlFileName(name) {
  return /[",;\\]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name;
}

function shellQuote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Keeps the command true to the form, once it is shown. */
function refreshCurl() {
  if (element("curl").hidden) return;
  const command = element("curl-command");
  command.value = curlCommand();
  command.rows = command.value.split("\n").length + 1;
  element("copied").textContent = "";
}

/** Shows the command, and copies it where the browser allows that (only over https or on this machine). */
async function showCurl() {
  takePendingClass();
  element("curl").hidden = false;
  refreshCurl();
  const command = element("curl-command");
  const where = image && !image.exampleUrl ? ` It expects ${image.name} in the current folder.` : "";
  try {
    await navigator.clipboard.writeText(command.value);
    element("copied").textContent = `Copied.${where}`;
  } catch {
    command.select();
    element("copied").textContent = `Selected: copy it from here.${where}`;
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
listenForImages();
listenForClasses();
showSource(); // browsers keep the radio's state over a reload
loadExamples();
loadVocabularies();
loadModels();
