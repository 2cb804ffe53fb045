// Reads the samples of the PNGs that the server writes: indexed or grey, 8 or 16 bits, not interlaced.
//
// A label map must be exact, so this module reads its bytes itself. A canvas would return colours instead of class ids,
// after the browser's colour management, alpha handling and (in some privacy modes) deliberate noise.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const GREY = 0;
const INDEXED = 3;

/**
 * Decodes a PNG into its samples: palette indices of an indexed one, grey values of a grey one.
 *
 * @param {Uint8Array} bytes a whole file
 * @returns {Promise<{width: number, height: number, samples: Uint8Array | Uint16Array}>} samples in rows from the top,
 *   8-bit ones as Uint8Array, 16-bit ones as Uint16Array
 * @throws {Error} if the file is damaged or of another kind of PNG
 */
export async function decodePng(bytes) {
  const { width, height, bytesPerSample, data } = readChunks(bytes);
  const rows = await inflate(data);
  const stride = width * bytesPerSample;
  if (rows.length !== height * (stride + 1)) throw new Error("The PNG's data does not match its size.");
  const plain = unfilter(rows, stride, height, bytesPerSample);
  if (bytesPerSample === 1) return { width, height, samples: plain };
  const samples = new Uint16Array(width * height);
  for (let i = 0; i < samples.length; i++) samples[i] = (plain[2 * i] << 8) | plain[2 * i + 1];
  return { width, height, samples };
}

/** Returns the header's values and the compressed data of a file. */
function readChunks(bytes) {
  if (!SIGNATURE.every((byte, i) => bytes[i] === byte)) throw new Error("Not a PNG.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const data = [];
  let header = null;
  for (let at = SIGNATURE.length; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const body = at + 8;
    if (kind === "IHDR") header = readHeader(view, body);
    if (kind === "IDAT") data.push(bytes.subarray(body, body + length));
    at = body + length + 4; // skips the checksum; the inflater checks its own
  }
  if (header === null || data.length === 0) throw new Error("The PNG is cut short.");
  return { ...header, data };
}

function readHeader(view, at) {
  const [depth, colourType, interlace] = [view.getUint8(at + 8), view.getUint8(at + 9), view.getUint8(at + 12)];
  const known = colourType === GREY ? depth === 8 || depth === 16 : colourType === INDEXED && depth === 8;
  if (!known || interlace !== 0) throw new Error("Not a label map's kind of PNG.");
  return { width: view.getUint32(at), height: view.getUint32(at + 4), bytesPerSample: depth / 8 };
}

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Undoes the row filters (PNG specification, section 9): each row's first byte names its filter. */
function unfilter(rows, stride, height, bytesPerSample) {
  const plain = new Uint8Array(stride * height);
  for (let y = 0; y < height; y++) {
    const from = y * (stride + 1) + 1;
    const to = y * stride;
    const filter = rows[from - 1];
    if (filter === 0) {
      plain.set(rows.subarray(from, from + stride), to);
      continue;
    }
    for (let x = 0; x < stride; x++) {
      const left = x >= bytesPerSample ? plain[to + x - bytesPerSample] : 0;
      const above = y > 0 ? plain[to + x - stride] : 0;
      const corner = x >= bytesPerSample && y > 0 ? plain[to + x - stride - bytesPerSample] : 0;
      plain[to + x] = rows[from + x] + prediction(filter, left, above, corner);
    }
  }
  return plain;
}

function prediction(filter, left, above, corner) {
  switch (filter) {
    case 1:
      return left;
    case 2:
      return above;
    case 3:
      return (left + above) >> 1;
    case 4: {
      const [toLeft, toAbove] = [Math.abs(above - corner), Math.abs(left - corner)];
      const toCorner = Math.abs(left + above - 2 * corner);
      if (toLeft <= toAbove && toLeft <= toCorner) return left;
      return toAbove <= toCorner ? above : corner;
    }
    default:
      throw new Error(`The PNG names an unknown filter, ${filter}.`);
  }
}
