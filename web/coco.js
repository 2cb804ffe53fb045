// Label maps as COCO JSON: one mask per image and class, in COCO's compressed run-length encoding.

/**
 * @param {{name: string, result: import("./result.js").Result}[]} labelled images with their results
 * @returns {object} a data set in COCO's form; categories count from 1
 */
export function cocoOf(labelled) {
  const names = [...new Set(labelled.flatMap(({ result }) => result.classes.map(({ name }) => name)))];
  const categories = names.map((name, i) => ({ id: i + 1, name, supercategory: "" }));
  const images = labelled.map(({ name, result }, i) => ({
    id: i + 1,
    file_name: name,
    width: result.width,
    height: result.height,
  }));
  const annotations = labelled.flatMap(({ result }, i) =>
    result.classes
      .filter(({ pixels }) => pixels > 0)
      .map(({ id, name, pixels }) => ({
        image_id: i + 1,
        category_id: names.indexOf(name) + 1,
        area: pixels,
        ...maskOf(result, id),
      })),
  );
  annotations.forEach((annotation, i) => (annotation.id = i + 1));
  return { images, categories, annotations };
}

function maskOf({ labels, width, height }, id) {
  const counts = compress(columnRuns(labels, width, height, id));
  return { bbox: boxOf(labels, width, id), iscrowd: 1, segmentation: { size: [height, width], counts } };
}

/** Lengths of runs down the columns, the first of pixels that are not the class. */
export function columnRuns(labels, width, height, id) {
  const runs = [];
  let isInside = false;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0, at = x; y < height; y++, at += width) {
      if ((labels[at] === id) === isInside) length++;
      else {
        runs.push(length);
        isInside = !isInside;
        length = 1;
      }
    }
  }
  runs.push(length);
  return runs;
}

/** COCO's text of runs (`rleToString` of pycocotools): from the third on the difference to the one before the last, in
 * groups of 5 bits. */
export function compress(runs) {
  let text = "";
  runs.forEach((run, i) => {
    let rest = i > 2 ? run - runs[i - 2] : run;
    let isMore = true;
    while (isMore) {
      const bits = rest & 0x1f;
      rest >>= 5;
      isMore = bits & 0x10 ? rest !== -1 : rest !== 0;
      text += String.fromCharCode((isMore ? bits | 0x20 : bits) + 48);
    }
  });
  return text;
}

/** `[x, y, width, height]` of the smallest box around a class. */
function boxOf(labels, width, id) {
  let [left, right, top, bottom] = [Infinity, -1, -1, -1];
  for (let at = 0; at < labels.length; at++) {
    if (labels[at] !== id) continue;
    const [x, y] = [at % width, Math.floor(at / width)];
    left = Math.min(left, x);
    right = Math.max(right, x);
    if (top < 0) top = y;
    bottom = y;
  }
  return [left, top, right - left + 1, bottom - top + 1];
}
