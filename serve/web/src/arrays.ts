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
export class BadInput extends Error {}

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
  return Float32Array.from(values).sort()[values.length >> 1];
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i];
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

/** A mask of the pixels for which the test holds. */
export function where(image: Grid<Uint8Array | Int32Array | Float32Array>, test: (value: number) => boolean): Bytes {
  const result = bytes(image.height, image.width);
  for (let i = 0; i < result.data.length; i++) result.data[i] = test(image.data[i]) ? 1 : 0;
  return result;
}

/** Rows y0 to y1 and columns x0 to x1; limits beyond the image are moved onto its border. */
export function crop<T extends Bytes | Floats>(image: T, y0: number, y1: number, x0: number, x1: number): T {
  [y0, y1] = [clamp(y0, 0, image.height), clamp(y1, 0, image.height)];
  [x0, x1] = [clamp(x0, 0, image.width), clamp(x1, 0, image.width)];
  const [width, height, n] = [x1 - x0, y1 - y0, image.channels];
  const data = image.data.slice(0, width * height * n);
  for (let y = 0; y < height; y++) {
    const start = ((y0 + y) * image.width + x0) * n;
    data.set(image.data.subarray(start, start + width * n), y * width * n);
  }
  return { ...image, width, height, data };
}

/** With `margin` pixels on each side: zeros, or copies of the border. */
export function padded<T extends Bytes | Floats>(
  image: T, top: number, bottom = top, left = top, right = top, replicate = false,
): T {
  const [width, height] = [image.width + left + right, image.height + top + bottom];
  const result = image.data instanceof Uint8Array ? bytes(height, width) : floats(height, width);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [sy, sx] = [y - top, x - left];
      const inside = sy >= 0 && sy < image.height && sx >= 0 && sx < image.width;
      if (inside || replicate)
        result.data[y * width + x] =
          image.data[clamp(sy, 0, image.height - 1) * image.width + clamp(sx, 0, image.width - 1)];
    }
  return result as T;
}

/** One channel of the image. */
export function channel(image: Bytes, index: number): Bytes {
  const result = bytes(image.height, image.width);
  for (let i = 0; i < result.data.length; i++) result.data[i] = image.data[i * image.channels + index];
  return result;
}

/** The pixels along the border: first row, last row, first column, last column; corners twice. */
export function border(image: Bytes): number[] {
  const { width, height, data } = image;
  const result: number[] = [];
  for (const y of [0, height - 1]) for (let x = 0; x < width; x++) result.push(data[y * width + x]);
  for (const x of [0, width - 1]) for (let y = 0; y < height; y++) result.push(data[y * width + x]);
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
