// The settings of a request: every option with the value it has. An option that the user has not changed is left out of
// the request, so that the server's default holds; the page knows the defaults from `GET /v1/models`.

import { element, make } from "./dom.js";

const METHODS = ["sclip", "clearclip", "naclip", "sc-clip", "resclip", "pearl"];
const DATA_SETS = ["voc21", "context60", "object", "voc20", "context59", "stuff", "cityscapes", "ade20k"];

/**
 * The options in the order of the form. `name` is the request's field, or for `background_…`, `window_…` and
 * `key_smoothing_…` a part of one. `values` gives the choices of a model; `standard` what holds if nothing is chosen,
 * where that is not the default of the same name.
 */
const OPTIONS = [
  {
    name: "attention",
    label: "Attention",
    hint: "What the last attention does. “clip” is CLIP unchanged, the baseline.",
    values: ({ model }) => model.attentions,
  },
  {
    name: "refinement",
    label: "Refinement",
    hint: "“pamr” moves borders to those of the colours. Takes time for every pixel.",
    values: () => ["none", "pamr", "pearl-propagation"],
    standard: ({ model, defaults }) => defaults.refinement ?? model.refinement,
  },
  {
    name: "prompt_denoising",
    label: "Prompt denoising",
    hint: "Drops a class whose best probability anywhere is below this.",
    isShare: true,
  },
  {
    name: "background_threshold",
    label: "Background threshold",
    hint: "Leaves a pixel unlabelled if its best class is less probable than this.",
    isShare: true,
  },
  {
    name: "background_area",
    label: "Smallest area",
    hint: "Drops a class that covers at most this share of the labelled pixels.",
    isShare: true,
  },
  {
    name: "key_smoothing",
    label: "Key smoothing",
    hint: "Averages over positions that look alike to the model.",
    values: ({ model }) => model.key_smoothings,
  },
  {
    name: "key_smoothing_threshold",
    label: "Smoothing threshold",
    hint: "Of “reference”: positions at least this sure stay as they are.",
    isShare: true,
    standard: () => 1,
    isOffered: ({ values, defaults }) => (values.key_smoothing ?? defaults.key_smoothing) === "reference",
  },
  {
    name: "templates",
    label: "Prompt templates",
    hint: "The sentences that each name is put into. “simple” is the quickest.",
    values: () => ["maskclip-85", "imagenet-80", "simple"],
  },
  { name: "synonyms", label: "Synonyms", hint: "Their mean, or the best of them.", values: () => ["mean", "max"] },
  {
    name: "temperature",
    label: "Temperature",
    hint: "More makes probabilities sharper.",
    limits: () => ({ min: 0.1, max: 1000, step: "any" }),
    standard: ({ model }) => model.temperature,
  },
  {
    name: "short_side",
    label: "Short side, pixels",
    hint: "The size at which the model looks. More sees smaller things and takes longer.",
    limits: ({ limits }) => ({ min: 1, max: limits.max_short_side, step: 1 }),
    standard: ({ model, defaults }) => defaults.short_side || model.short_side,
  },
  {
    name: "scales",
    label: "Scales",
    hint: "Factors on the short side, such as 0.75, 1, 1.5.",
    isList: true,
    standard: ({ model, defaults }) => (defaults.scales.length > 0 ? defaults.scales : model.scales),
  },
  {
    name: "window_side",
    label: "Window side, pixels",
    hint: "The model sees windows of this size one after the other.",
    limits: ({ limits }) => ({ min: 1, max: limits.max_short_side, step: 1 }),
    standard: ({ defaults }) => defaults.window?.side ?? "no windows",
  },
  {
    name: "window_stride",
    label: "Window stride, pixels",
    hint: "From one window to the next; half the side unless said.",
    limits: ({ limits }) => ({ min: 1, max: limits.max_short_side, step: 1 }),
    standard: ({ defaults }) => defaults.window?.stride ?? "half the side",
    isOffered: ({ values }) => values.window_side !== undefined,
  },
  { name: "resize", label: "Resize", hint: "How the image comes to that size.", values: () => ["bicubic", "mmcv"] },
  {
    name: "orientation",
    label: "Orientation",
    hint: "Turn the image as its file says, or take the pixels as stored.",
    values: () => ["exif", "stored"],
    standard: () => "exif",
  },
  {
    name: "protocol",
    label: "Published protocol",
    hint: "All settings as a method was tested on a data set.",
    values: () => ["none", ...METHODS.flatMap((method) => DATA_SETS.map((set) => `${method}-${set}`))],
    standard: () => "none",
  },
];

/** The values of options that are open, for whatever holds instead. */
const UNKNOWN = "as the protocol has it";

export class Options extends EventTarget {
  /** What the user has changed: values by name. */
  #values = {};
  /** What the form depends on: the model, the server's defaults and limits, the options of the vocabulary. */
  #context = null;
  #rows = new Map();

  constructor() {
    super();
    for (const option of OPTIONS)
      this.#rows.set(option.name, new Row(option, (value) => this.#set(option.name, value)));
    element("options").replaceChildren(...[...this.#rows.values()].map((row) => row.root));
  }

  /** Offers what a model can do. */
  setContext(context) {
    this.#context = { ...this.#context, ...context };
    if (this.#context.model) this.#show();
  }

  #set(name, value) {
    if (value === undefined) delete this.#values[name];
    else this.#values[name] = value;
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  #show() {
    const context = { ...this.#context, values: this.#values };
    for (const [name, row] of this.#rows) row.show(context, this.#values[name], this.standardOf(name));
    const changed = Object.keys(this.#values).length;
    element("options-changed").textContent = changed === 0 ? "" : `${changed} changed`;
  }

  /** What holds for an option that is not changed. */
  standardOf(name) {
    const { defaults, vocabulary } = this.#context;
    const { standard } = this.#rows.get(name).option;
    const own = vocabulary?.options?.[name];
    if (this.#values.protocol && name !== "orientation" && name !== "protocol") return UNKNOWN;
    if (own !== undefined && own !== null) return own;
    return standard ? standard(this.#context) : defaults[name];
  }

  /** Whether the model of the form can do what was chosen; what it cannot do is not asked for. */
  #isPossible(name, model) {
    const can = { attention: model.attentions, key_smoothing: model.key_smoothings }[name];
    return can === undefined || can.includes(this.#values[name]);
  }

  /**
   * The fields of a request that these values make.
   *
   * @param {object} words the fields of the class list
   * @param {object | null} vocabulary the named vocabulary that they use
   * @param {object} model the model that is asked
   */
  fields(words, vocabulary, model) {
    const { background_threshold, background_area, window_side, window_stride, key_smoothing_threshold, ...plain } =
      this.#values;
    const fields = { ...words };
    for (const [name, value] of Object.entries(plain)) if (this.#isPossible(name, model)) fields[name] = value;
    if (fields.key_smoothing === "reference" && key_smoothing_threshold !== undefined) {
      fields.key_smoothing = { method: "reference", threshold: key_smoothing_threshold };
    }
    if (window_side !== undefined) {
      fields.window =
        window_stride === undefined ? { side: window_side } : { side: window_side, stride: window_stride };
    }
    const parts = { threshold: background_threshold, area: background_area };
    if (background_threshold !== undefined || background_area !== undefined) {
      const names = words.background ? {} : { names: vocabulary?.background ?? [] };
      fields.background = { ...names, ...JSON.parse(JSON.stringify(parts)) };
    }
    return fields;
  }

  /** What the user has changed, as texts for an address. */
  texts() {
    return Object.fromEntries(Object.entries(this.#values).map(([name, value]) => [name, String(value)]));
  }

  /** Takes texts of `texts`; what is no value of an option is passed over. */
  restore(texts) {
    this.#values = {};
    for (const [name, row] of this.#rows) {
      const value = name in texts ? row.read(texts[name]) : undefined;
      if (value !== undefined) this.#values[name] = value;
    }
    if (this.#context?.model) this.#show();
  }
}

/** One option in the form: its name, its control, and a button that takes a change back. */
class Row {
  root;
  option;
  #control;
  #output = make("output", {});
  #reset;

  constructor(option, change) {
    this.option = option;
    const id = `option-${option.name.replaceAll("_", "-")}`;
    const described = { id, name: option.name, "aria-describedby": `${id}-hint` };
    if (option.values) this.#control = make("select", described);
    else if (option.isShare) this.#control = make("input", { ...described, type: "range", min: 0, max: 1, step: 0.01 });
    else this.#control = make("input", { ...described, type: option.isList ? "text" : "number" });
    this.#reset = make(
      "button",
      { type: "button", className: "quiet", "aria-label": `Take back: ${option.label}` },
      "↺",
    );
    this.#reset.addEventListener("click", () => {
      change(undefined);
      this.#control.focus();
    });
    this.#control.addEventListener(option.isShare ? "input" : "change", () => change(this.read(this.#control.value)));
    this.#output.htmlFor = id;
    const hint = make("p", { id: `${id}-hint`, className: "muted" }, option.hint);
    const label = make("label", { for: id }, option.label);
    this.root = make("div", { className: "option" }, label, this.#output, this.#control, this.#reset, hint);
  }

  /** The value of a text; undefined for one that is none. */
  read(text) {
    const { values, isList } = this.option;
    if (text.trim() === "") return undefined;
    if (values) return text === "none" && this.option.name === "protocol" ? undefined : text;
    const numbers = text
      .split(/[\s,;]+/)
      .filter(Boolean)
      .map(Number);
    if (numbers.length === 0 || numbers.some((number) => !Number.isFinite(number))) return undefined;
    return isList ? numbers : numbers[0];
  }

  /** Shows a value, or what holds without one. */
  show(context, value, standard) {
    const { values, limits, isOffered, isShare } = this.option;
    this.root.hidden = isOffered ? !isOffered(context) : false;
    this.root.classList.toggle("changed", value !== undefined);
    this.#reset.hidden = value === undefined;
    if (values) this.#showChoices(values(context), value, standard);
    else if (isShare) this.#showShare(value, standard);
    else {
      Object.assign(this.#control, limits ? limits(context) : {});
      this.#control.placeholder = [standard].flat().join(", ");
      this.#control.value = value === undefined ? "" : [value].flat().join(", ");
    }
  }

  #showChoices(values, value, standard) {
    const others = values.filter((name) => name !== standard).map((name) => new Option(name));
    const isKnown = values.includes(standard);
    this.#control.replaceChildren(new Option(isKnown ? `${standard} (default)` : standard, ""), ...others);
    this.#control.value = value !== undefined && value !== standard && values.includes(value) ? value : "";
    this.#control.disabled = values.length < 2;
    if (values.length === 0) this.#control.replaceChildren(new Option("not of this model", ""));
  }

  #showShare(value, standard) {
    const isKnown = typeof standard === "number";
    this.#control.value = value ?? (isKnown ? standard : 0);
    const shown = value ?? standard;
    this.#output.value =
      typeof shown === "number" ? `${shown.toFixed(2)}${value === undefined ? " (default)" : ""}` : shown;
  }
}
