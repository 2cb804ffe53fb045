// Connected pieces of a label map, and where in each its name stands best. Pure functions on arrays.

/** A label map with more pixels is looked at on a coarser grid. */
const MAX_CELLS = 40_000;

/**
 * Finds the regions: cells of one label that touch at their sides.
 *
 * @param {Uint8Array | Uint16Array} labels class ids, rows from the top
 * @returns {{label: number, share: number, x: number, y: number}[]} largest first; `share` of the map, and the point of
 *   the region that is farthest from its border, in pixels
 */
export function findRegions(labels, width, height) {
  const step = Math.max(1, Math.ceil(Math.sqrt((width * height) / MAX_CELLS)));
  const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
  const cells = new Uint16Array(columns * rows);
  for (let row = 0, at = 0; row < rows; row++) {
    const line = row * step * width;
    for (let column = 0; column < columns; column++, at++) cells[at] = labels[line + column * step];
  }
  const depths = depthsOf(cells, columns, rows);
  return piecesOf(cells, columns, rows, depths)
    .map(({ label, size, deepest }) => ({
      label,
      share: size / cells.length,
      x: Math.min(width - 1, Math.floor(((deepest % columns) + 0.5) * step)),
      y: Math.min(height - 1, Math.floor((Math.floor(deepest / columns) + 0.5) * step)),
    }))
    .sort((a, b) => b.share - a.share);
}

/** Steps from each cell to the nearest cell of another label or the map's border, by two passes over the rows. */
function depthsOf(cells, columns, rows) {
  const depths = new Uint16Array(cells.length);
  const across = (at, other, isInside) => (isInside && cells[other] === cells[at] ? depths[other] + 1 : 1);
  for (let at = 0; at < cells.length; at++) {
    const column = at % columns;
    depths[at] = Math.min(across(at, at - 1, column > 0), across(at, at - columns, at >= columns));
  }
  for (let at = cells.length - 1; at >= 0; at--) {
    const column = at % columns;
    const right = across(at, at + 1, column < columns - 1);
    const below = across(at, at + columns, at < cells.length - columns);
    depths[at] = Math.min(depths[at], right, below);
  }
  return depths;
}

function piecesOf(cells, columns, rows, depths) {
  const isSeen = new Uint8Array(cells.length);
  const stack = new Int32Array(cells.length);
  const pieces = [];
  for (let start = 0; start < cells.length; start++) {
    if (isSeen[start]) continue;
    const piece = { label: cells[start], size: 0, deepest: start };
    flood(cells, columns, start, isSeen, stack, (at) => {
      piece.size++;
      if (depths[at] > depths[piece.deepest]) piece.deepest = at;
    });
    pieces.push(piece);
  }
  return pieces;
}

/** Marks all cells of one region in `isSeen` and visits each. */
function flood(cells, columns, start, isSeen, stack, visit) {
  const label = cells[start];
  let height = 0;
  const push = (at) => {
    if (isSeen[at] || cells[at] !== label) return;
    isSeen[at] = 1;
    stack[height++] = at;
  };
  push(start);
  while (height > 0) {
    const at = stack[--height];
    visit(at);
    const column = at % columns;
    if (column > 0) push(at - 1);
    if (column < columns - 1) push(at + 1);
    if (at >= columns) push(at - columns);
    if (at < cells.length - columns) push(at + columns);
  }
}

/**
 * The region around a pixel, at full resolution.
 *
 * @returns {Uint8Array} 1 for each pixel of the region, else 0
 */
export function regionMask(labels, width, x, y) {
  const mask = new Uint8Array(labels.length);
  flood(labels, width, y * width + x, mask, new Int32Array(labels.length), () => {});
  return mask;
}
