/** Images as typed arrays, and the few numeric helpers that NumPy has and JavaScript lacks. */

/** `(height, width, channels)`, channels interleaved. */
export interface Grid<T extends Uint8Array | Int32Array | Float32Array> {
  width: number;
  height: number;
  channels: number;
  data: T;
}
export type Bytes = Grid<Uint8Array>;
export type Floats = Grid<Float32Array>;
export type Rectangle = [x: number, y: number, width: number, height: number];

/** An image that cannot be read as what the network takes; the message is for the user. */
export class BadInput extends Error {
  override name = "BadInput";
}

/** An image that seems to contain more than one digit. */
export class SeveralDigits extends BadInput {
  override name = "SeveralDigits";
}

export function bytes(height: number, width: number, channels = 1): Bytes {
  return { width, height, channels, data: new Uint8Array(height * width * channels) };
}

export function floats(height: number, width: number, channels = 1): Floats {
  return { width, height, channels, data: new Float32Array(height * width * channels) };
}

/** Round half to even, as Python, NumPy and OpenCV do. */
export function rint(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

export function clamp(value: number, low: number, high: number): number {
  return value < low ? low : value > high ? high : value;
}

/** The upper median. */
export function median(values: ArrayLike<number>): number {
  return smallest(Float32Array.from(values), values.length >> 1);
}

/** The value that would be at `rank` if the values were sorted (C. Hoare: Algorithm 65, Find, 1961). Reorders them. */
export function smallest(values: Float32Array, rank: number): number {
  let [low, high] = [0, values.length - 1];
  while (low < high) {
    const pivot = values[rank];
    let [i, j] = [low, high];
    while (i <= j) {
      while (values[i] < pivot) i++;
      while (values[j] > pivot) j--;
      if (i <= j) {
        const value = values[i];
        values[i++] = values[j];
        values[j--] = value;
      }
    }
    if (j < rank) low = i;
    if (i > rank) high = j;
  }
  return values[rank];
}

/** How many of the values 0 to 255 there are. */
export function histogram(values: Uint8Array): Int32Array {
  const counts = new Int32Array(256);
  for (let i = 0; i < values.length; i++) counts[values[i]]++;
  return counts;
}

/** The value at `rank` of the sorted values whose histogram is given. */
export function ranked(counts: Int32Array, rank: number): number {
  let value = 0;
  for (let seen = counts[0]; seen <= rank; seen += counts[value]) value++;
  return value;
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
  return sum / values.length;
}

export function variance(values: ArrayLike<number>): number {
  const centre = mean(values);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] - centre) * (values[i] - centre);
  return sum / values.length;
}

export function largest(values: ArrayLike<number>, initial = -Infinity): number {
  let result = initial;
  for (let i = 0; i < values.length; i++) if (values[i] > result) result = values[i];
  return result;
}

export function count(values: ArrayLike<number>): number {
  let result = 0;
  for (let i = 0; i < values.length; i++) if (values[i]) result++;
  return result;
}

/** A mask of the pixels for which the test holds. The two functions below are faster. */
export function where(image: Grid<Uint8Array | Int32Array | Float32Array>, test: (value: number) => boolean): Bytes {
  const result = bytes(image.height, image.width);
  for (let i = 0; i < result.data.length; i++) result.data[i] = test(image.data[i]) ? 1 : 0;
  return result;
}

/** A mask of the pixels above a limit. */
export function above(image: Bytes | Floats, limit: number): Bytes {
  const result = bytes(image.height, image.width);
  const [from, to] = [image.data, result.data];
  for (let i = 0; i < to.length; i++) to[i] = from[i] > limit ? 1 : 0;
  return result;
}

/** A mask of the pixels at or below a limit. */
export function upTo(image: Bytes | Floats, limit: number): Bytes {
  return inverse(above(image, limit));
}

/** The pixels that a mask of zeros and ones leaves out. */
export function inverse(mask: Bytes): Bytes {
  const result = bytes(mask.height, mask.width);
  for (let i = 0; i < result.data.length; i++) result.data[i] = 1 - mask.data[i];
  return result;
}

/** Rows y0 to y1 and columns x0 to x1; limits beyond the image are moved onto its border. */
export function crop<T extends Bytes | Floats>(image: T, y0: number, y1: number, x0: number, x1: number): T {
  [y0, y1] = [clamp(y0, 0, image.height), clamp(y1, 0, image.height)];
  [x0, x1] = [clamp(x0, 0, image.width), clamp(x1, 0, image.width)];
  const [width, height, n] = [x1 - x0, y1 - y0, image.channels];
  if (width === image.width) return { ...image, height, data: image.data.slice(y0 * width * n, y1 * width * n) };
  const data = image.data.slice(0, width * height * n);
  for (let y = 0; y < height; y++) {
    const start = ((y0 + y) * image.width + x0) * n;
    data.set(image.data.subarray(start, start + width * n), y * width * n);
  }
  return { ...image, width, height, data };
}

/** One channel with `margin` pixels on each side: zeros, or copies of the border. */
export function padded<T extends Bytes | Floats>(
  image: T, top: number, bottom = top, left = top, right = top, replicate = false,
): T {
  if (!(top || bottom || left || right)) return image;
  const [width, height] = [image.width + left + right, image.height + top + bottom];
  const result = (image.data instanceof Uint8Array ? bytes(height, width) : floats(height, width)) as T;
  for (let y = 0; y < image.height; y++) {
    const row = image.data.subarray(y * image.width, (y + 1) * image.width);
    const start = (y + top) * width;
    result.data.set(row, start + left);
    if (!replicate) continue;
    result.data.fill(row[0], start, start + left);
    result.data.fill(row[image.width - 1], start + left + image.width, start + width);
  }
  if (replicate) {
    for (let y = 0; y < top; y++) result.data.copyWithin(y * width, top * width, (top + 1) * width);
    const last = (top + image.height - 1) * width;
    for (let y = top + image.height; y < height; y++) result.data.copyWithin(y * width, last, last + width);
  }
  return result;
}

/** Rows become columns; one channel. */
export function transposed(image: Bytes): Bytes {
  const { width, height, data } = image;
  const result = bytes(width, height);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) result.data[x * height + y] = data[y * width + x];
  return result;
}

/** One channel of the image. */
export function channel(image: Bytes, index: number): Bytes {
  if (image.channels === 1) return image;
  const result = bytes(image.height, image.width);
  const n = image.channels;
  for (let i = 0, p = index; i < result.data.length; i++, p += n) result.data[i] = image.data[p];
  return result;
}

/** The pixels of one channel along the border: first row, last row, first column, last column; corners twice. */
export function border(image: Bytes, index = 0): Uint8Array {
  const { width, height, channels: n, data } = image;
  const result = new Uint8Array(2 * (width + height));
  let i = 0;
  for (const y of [0, height - 1]) for (let x = 0; x < width; x++) result[i++] = data[(y * width + x) * n + index];
  for (const x of [0, width - 1]) for (let y = 0; y < height; y++) result[i++] = data[(y * width + x) * n + index];
  return result;
}

/** The share of each corner, an eighth of the shorter side, that a mask covers: the mean of the four. */
export function cornerShare(mask: Bytes): number {
  const { width, height, data } = mask;
  const size = Math.max(1, Math.floor(Math.min(height, width) / 8));
  let sum = 0;
  for (const y0 of [0, height - size])
    for (const x0 of [0, width - size])
      for (let y = y0; y < y0 + size; y++) for (let x = x0; x < x0 + size; x++) sum += data[y * width + x];
  return sum / (4 * size * size);
}
