// Results as files: of the image that is shown, or of all images of the tab.

import { channels } from "./colours.js";
import { cocoOf } from "./coco.js";
import { element, save } from "./dom.js";
import { labelStudioOf } from "./label-studio.js";
import { encodeLabels } from "./png-writer.js";
import { showProblem } from "./problem.js";
import { count } from "./text.js";
import { zip } from "./zip.js";

/** Smaller images are enlarged by a whole factor for the picture with names, so that the names can be read. */
const PICTURE_WIDTH = 1024;

export class Downloads {
  #stage;
  /** As `labelAll` of labelling.js, of the images of the tab. */
  #labelAll;
  /** The name of the image that is shown. */
  #name = "image";

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {(tell: (done: number, all: number) => void) => Promise<object[]>} labelAll gives `{ image, result,
   *   problem }` of each image of the tab
   */
  constructor(stage, labelAll) {
    this.#stage = stage;
    this.#labelAll = labelAll;
    const actions = {
      "save-picture": () => this.#savePicture(),
      "save-label-map": (name) => this.#saveLabelMaps([this.#shown(name)]),
      "save-coco": (name) => saveJson(cocoOf([this.#shown(name)]), `${baseOf(name)}-coco.json`),
      "save-label-studio": (name) => saveJson(labelStudioOf([this.#shown(name)]), `${baseOf(name)}-label-studio.json`),
      "save-all-label-maps": () => this.#saveAll((labelled) => this.#saveLabelMaps(labelled)),
      "save-all-coco": () => this.#saveAll((labelled) => saveJson(cocoOf(labelled), "coco.json")),
      "save-all-label-studio": () =>
        this.#saveAll((labelled) => saveJson(labelStudioOf(labelled), "label-studio.json")),
    };
    for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", () => this.#run(action));
    this.#listenForLeaving();
  }

  async #run(action) {
    try {
      await action(this.#name);
    } catch (problem) {
      element("download-status").textContent = "";
      showProblem(problem);
    }
  }

  /** Closes the menu at Escape, or when the user goes on elsewhere. */
  #listenForLeaving() {
    const menu = element("downloads");
    document.addEventListener("click", (event) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !menu.open) return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  }

  /** Offers the files of the image that is shown once it has a result, and of all images if there are several. */
  offer({ name, hasResult, imageCount, hasClasses }) {
    this.#name = name;
    for (const button of element("save-one").querySelectorAll("button")) button.disabled = !hasResult;
    for (const button of element("save-all").querySelectorAll("button")) button.disabled = !hasClasses;
    element("save-all").hidden = imageCount < 2;
    element("save-all-heading").textContent = `All ${imageCount} images`;
    element("no-result").hidden = hasResult;
  }

  #shown(name) {
    return { name, result: this.#stage.result };
  }

  /** Labels all images and saves those that can be labelled. Names the others. */
  async #saveAll(saveLabelled) {
    const answers = await this.#labelAll((done, all) => {
      element("download-status").textContent =
        done < all ? `${done} of ${count(all, "image", "images")} labelled …` : "";
    });
    const labelled = answers.filter(({ result }) => result !== null);
    await saveLabelled(labelled.map(({ image, result }) => ({ name: image.name, result })));
    const left = answers.filter(({ problem }) => problem !== null);
    if (left.length === 0) return;
    const reasons = left.map(({ image, problem }) => `${image.name} (${problem.title})`).join(", ");
    showProblem({
      title: `${count(left.length, "image is", "images are")} not in the download`,
      message: `The server did not take ${reasons}.`,
    });
  }

  /** One PNG, or several in an archive. Pixel values are class ids, colours those of the page. */
  async #saveLabelMaps(labelled) {
    const colours = this.#stage.colours;
    const blobs = await Promise.all(
      labelled.map(({ result }) => {
        const palette = result.classes.map(({ name, color }) => channels(colours.get(name) ?? color));
        return encodeLabels(result.labels, result.width, result.height, palette);
      }),
    );
    if (blobs.length === 1) return save(blobs[0], `${baseOf(labelled[0].name)}-labels.png`);
    const names = distinct(labelled.map(({ name }) => `${baseOf(name)}-labels.png`));
    const files = blobs.map(async (blob, i) => ({ name: names[i], bytes: new Uint8Array(await blob.arrayBuffer()) }));
    save(zip(await Promise.all(files)), "label-maps.zip");
  }

  /** The image with the overlay and the names, as the page shows it. */
  async #savePicture() {
    const { image, overlay, names } = this.#stage.picture;
    const scale = Math.max(1, Math.ceil(PICTURE_WIDTH / image.naturalWidth));
    const canvas = new OffscreenCanvas(image.naturalWidth * scale, image.naturalHeight * scale);
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (overlay.width > 0) context.drawImage(overlay, 0, 0, canvas.width, canvas.height);
    for (const name of names) drawName(context, name);
    save(await canvas.convertToBlob({ type: "image/png" }), `${baseOf(this.#name)}-overlay.png`);
  }
}

/** Draws a name on a dark ground at a place in shares of the canvas. */
function drawName(context, { text, colour, left, top }) {
  const { width, height } = context.canvas;
  const size = Math.round(width / 55);
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  const wide = context.measureText(text).width + 2.2 * size;
  const [x, y] = [Math.min(Math.max(left * width - wide / 2, 0), width - wide), top * height];
  context.fillStyle = "rgb(15 20 23 / 85%)";
  context.beginPath();
  context.roundRect(x, y - 0.8 * size, wide, 1.6 * size, 0.8 * size);
  context.fill();
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x + 0.8 * size, y, 0.35 * size, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "white";
  context.fillText(text, x + 1.5 * size, y);
}

function saveJson(value, name) {
  save(new Blob([JSON.stringify(value)], { type: "application/json" }), name);
}

function baseOf(name) {
  return name.replace(/\.[^.]*$/, "");
}

/** Names of which none is there twice. */
function distinct(names) {
  const seen = new Map();
  return names.map((name) => {
    const number = (seen.get(name) ?? 0) + 1;
    seen.set(name, number);
    return number === 1 ? name : name.replace(/(\.[^.]*)$/, `-${number}$1`);
  });
}
