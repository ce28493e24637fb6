/** The functions of OpenCV that the corrections use, with the same arithmetic. */

import { type Bytes, bytes, clamp, crop, type Floats, floats, type Grid, rint, type Rectangle } from "./arrays";

export interface Component {
  x: number;
  y: number;
  width: number;
  height: number;
  area: number;
}

/** The label of each pixel, 0 for none, and the components: the one of label i is at index i - 1. */
export function connectedComponents(mask: Bytes, connectivity: 4 | 8 = 8): { labels: Int32Array; stats: Component[] } {
  const { width, height, data } = mask;
  const labels = new Int32Array(data.length);
  const stats: Component[] = [];
  const stack: number[] = [];
  for (let start = 0; start < data.length; start++) {
    if (!data[start] || labels[start]) continue;
    const label = stats.length + 1;
    let [x0, y0, x1, y1, area] = [width, height, -1, -1, 0];
    labels[start] = label;
    stack.push(start);
    while (stack.length) {
      const place = stack.pop()!;
      const [x, y] = [place % width, Math.floor(place / width)];
      area++;
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      if (y > y1) y1 = y;
      for (let dy = -1; dy <= 1; dy++)
        for (let dx = -1; dx <= 1; dx++) {
          if ((!dx && !dy) || (connectivity === 4 && dx && dy)) continue;
          const [nx, ny] = [x + dx, y + dy];
          if (nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
          const next = ny * width + nx;
          if (data[next] && !labels[next]) {
            labels[next] = label;
            stack.push(next);
          }
        }
    }
    stats.push({ x: x0, y: y0, width: x1 - x0 + 1, height: y1 - y0 + 1, area });
  }
  return { labels, stats };
}

const SHIFT = 65536;
const STEP = Math.round(0.955 * SHIFT);
const DIAGONAL = Math.round(1.3693 * SHIFT);

/** `distanceTransform(mask, DIST_L2, 3)`: a chamfer distance to the nearest zero, in fixed point. */
export function distance(mask: Bytes): Floats {
  const { width, height, data } = mask;
  const far = 0x1fffffff;
  const stride = width + 2;
  const steps = new Int32Array(stride * (height + 2)).fill(far);
  for (let y = 1; y <= height; y++)
    for (let x = 1, p = y * stride + 1; x <= width; x++, p++)
      steps[p] = data[(y - 1) * width + x - 1]
        ? Math.min(
            steps[p - stride - 1] + DIAGONAL, steps[p - stride] + STEP, steps[p - stride + 1] + DIAGONAL,
            steps[p - 1] + STEP, far,
          )
        : 0;
  const result = floats(height, width);
  for (let y = height; y >= 1; y--)
    for (let x = width, p = y * stride + width; x >= 1; x--, p--) {
      steps[p] = Math.min(
        steps[p], steps[p + stride + 1] + DIAGONAL, steps[p + stride] + STEP, steps[p + stride - 1] + DIAGONAL,
        steps[p + 1] + STEP,
      );
      result.data[(y - 1) * width + x - 1] = steps[p] / SHIFT;
    }
  return result;
}

/** Offsets (dy, first dx, last dx) of a structuring element of side `size`, relative to its anchor. */
type Brush = [number, number, number][];

export function square(size: number): Brush {
  const anchor = size >> 1;
  return Array.from({ length: size }, (_, row) => [row - anchor, -anchor, size - 1 - anchor]);
}

/** `getStructuringElement(MORPH_ELLIPSE)`. */
export function disc(size: number): Brush {
  const radius = size >> 1;
  const brush: Brush = [];
  for (let row = 0; row < size; row++) {
    const dy = row - radius;
    if (Math.abs(dy) > radius) continue;
    const dx = radius ? rint(radius * Math.sqrt((radius * radius - dy * dy) / (radius * radius))) : 0;
    brush.push([dy, -Math.min(radius, dx), Math.min(dx, size - 1 - radius)]);
  }
  return brush;
}

/** The largest (`sign` 1) or smallest (`sign` -1) value within the brush around each pixel. */
function extreme<T extends Bytes | Floats>(image: T, brush: Brush, sign: 1 | -1): T {
  const { width, height, data } = image;
  const out = (data instanceof Uint8Array ? new Uint8Array(data.length) : new Float32Array(data.length)).fill(
    sign > 0 ? (data instanceof Uint8Array ? 0 : -Infinity) : data instanceof Uint8Array ? 255 : Infinity,
  );
  const runs = new Map<string, [number, number]>();
  for (const [, a, b] of brush) runs.set(`${a},${b}`, [a, b]);
  for (const [a, b] of runs.values()) {
    // Within each row: the extreme of a sliding window, by a queue of candidates.
    const rows = new Float32Array(data.length);
    const queue = new Int32Array(width);
    for (let y = 0; y < height; y++) {
      let [head, tail, next] = [0, 0, 0];
      const base = y * width;
      for (let x = 0; x < width; x++) {
        for (; next <= Math.min(width - 1, x + b); next++) {
          while (tail > head && sign * data[base + queue[tail - 1]] <= sign * data[base + next]) tail--;
          queue[tail++] = next;
        }
        while (head < tail && queue[head] < x + a) head++;
        rows[base + x] = head < tail ? data[base + queue[head]] : sign * -Infinity;
      }
    }
    for (const [dy, first, last] of brush) {
      if (first !== a || last !== b) continue;
      for (let y = Math.max(0, -dy); y < Math.min(height, height - dy); y++)
        for (let x = 0, p = y * width, q = (y + dy) * width; x < width; x++, p++, q++)
          if (sign * rows[q] > sign * out[p]) out[p] = rows[q];
    }
  }
  return { ...image, data: out };
}

export function dilate<T extends Bytes | Floats>(image: T, brush: Brush): T {
  return extreme(image, brush, 1);
}

export function erode<T extends Bytes | Floats>(image: T, brush: Brush): T {
  return extreme(image, brush, -1);
}

/** The mean of a window around each pixel. The image is mirrored at its border, with or without its last pixel. */
export function blur(image: Floats, window: number, repeatLast = false): Floats {
  const { width, height, channels } = image;
  const reach = window >> 1;
  const mirrored = (place: number, side: number): number => {
    if (side === 1) return 0;
    while (place < 0 || place >= side) {
      if (place < 0) place = repeatLast ? -1 - place : -place;
      else place = repeatLast ? 2 * side - 1 - place : 2 * side - 2 - place;
    }
    return place;
  };
  const along = (source: Float32Array | Float64Array, lines: number, side: number, step: number, between: number) => {
    const out = new Float64Array(source.length);
    const places = Array.from({ length: side + window }, (_, i) => mirrored(i - reach, side) * step);
    for (let line = 0; line < lines; line++)
      for (let c = 0; c < channels; c++) {
        const base = line * between + c;
        let sum = 0;
        for (let i = 0; i < window; i++) sum += source[base + places[i]];
        for (let i = 0; i < side; i++) {
          out[base + i * step] = sum;
          sum += source[base + places[i + window]] - source[base + places[i]];
        }
      }
    return out;
  };
  const across = along(image.data, height, width, channels, width * channels);
  const both = along(across, width, height, width * channels, channels);
  return { ...image, data: Float32Array.from(both, (sum) => sum / (window * window)) };
}

/** `GaussianBlur(image, (3, 3), 0)`. */
export function smooth3(image: Floats): Floats {
  const { width, height, data } = image;
  const mirror = (i: number, side: number) => (side === 1 ? 0 : i < 0 ? -i : i >= side ? 2 * side - 2 - i : i);
  const across = new Float32Array(data.length);
  const result = floats(height, width);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const row = y * width;
      across[row + x] =
        0.25 * (data[row + mirror(x - 1, width)] + data[row + mirror(x + 1, width)]) + 0.5 * data[row + x];
    }
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      result.data[y * width + x] =
        0.25 * (across[mirror(y - 1, height) * width + x] + across[mirror(y + 1, height) * width + x]) +
        0.5 * across[y * width + x];
  return result;
}

/** For each place of a resized line: the source places and their weights. */
type Taps = [places: number[], weights: number[]][];

function areaTaps(from: number, to: number): Taps {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    if (scale < 1) {
      // enlarging: OpenCV interpolates within pixels' edges only
      const left = Math.floor(place * scale);
      let share = place + 1 - (left + 1) / scale;
      share = share <= 0 ? 0 : share - Math.floor(share);
      return [[left, Math.min(left + 1, from - 1)], [1 - share, share]];
    }
    const [start, end] = [place * scale, Math.min((place + 1) * scale, from)];
    const places: number[] = [];
    const weights: number[] = [];
    for (let i = Math.floor(start); i < end - 1e-3; i++) {
      const weight = Math.min(i + 1, end) - Math.max(i, start);
      if (weight < 1e-3) continue;
      places.push(i);
      weights.push(weight / (end - start));
    }
    return [places, weights];
  });
}

function pointTaps(from: number, to: number, reach: 1 | 2): Taps {
  const scale = from / to;
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale - 0.5;
    const left = Math.floor(centre);
    const t = centre - left;
    const weights = reach === 1 ? [1 - t, t] : cubicWeights(t);
    return [weights.map((_, i) => clamp(left + 1 - reach + i, 0, from - 1)), weights];
  });
}

function cubicWeights(t: number): number[] {
  const a = -0.75;
  const [u, v] = [t + 1, 1 - t];
  const first = ((a * u - 5 * a) * u + 8 * a) * u - 4 * a;
  const second = ((a + 2) * t - (a + 3)) * t * t + 1;
  const third = ((a + 2) * v - (a + 3)) * v * v + 1;
  return [first, second, third, 1 - first - second - third];
}

export type Method = "area" | "cubic" | "linear";

/** `resize`; uint8 results are rounded and limited to 0 to 255. */
export function resize<T extends Bytes | Floats>(image: T, width: number, height: number, method: Method): T {
  const { channels, data } = image;
  const taps = (from: number, to: number) =>
    method === "area" ? areaTaps(from, to) : pointTaps(from, to, method === "cubic" ? 2 : 1);
  const [across, down] = [taps(image.width, width), taps(image.height, height)];
  const rows = new Float32Array(image.height * width * channels);
  for (let y = 0; y < image.height; y++)
    for (let x = 0; x < width; x++) {
      const [places, weights] = across[x];
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let i = 0; i < places.length; i++)
          sum += weights[i] * data[(y * image.width + places[i]) * channels + c];
        rows[(y * width + x) * channels + c] = sum;
      }
    }
  const isBytes = data instanceof Uint8Array;
  const result: Bytes | Floats = isBytes ? bytes(height, width, channels) : floats(height, width, channels);
  const line = width * channels;
  for (let y = 0; y < height; y++) {
    const [places, weights] = down[y];
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let i = 0; i < places.length; i++) sum += weights[i] * rows[places[i] * line + x];
      result.data[y * line + x] = isBytes ? clamp(rint(Math.fround(sum)), 0, 255) : sum;
    }
  }
  return result as T;
}

export function resizeNearest(mask: Bytes, width: number, height: number): Bytes {
  const result = bytes(height, width);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [sy, sx] = [Math.floor((y * mask.height) / height), Math.floor((x * mask.width) / width)];
      result.data[y * width + x] =
        mask.data[Math.min(sy, mask.height - 1) * mask.width + Math.min(sx, mask.width - 1)];
    }
  return result;
}

/** Otsu's threshold of values from 0 to 255. */
export function otsu(values: Uint8Array): number {
  const histogram = new Float64Array(256);
  for (const value of values) histogram[value]++;
  const scale = 1 / values.length;
  let total = 0;
  for (let i = 0; i < 256; i++) total += i * histogram[i];
  total *= scale;
  const epsilon = 2 ** -23;
  let [lower, share, best, threshold] = [0, 0, 0, 0];
  for (let i = 0; i < 256; i++) {
    const part = histogram[i] * scale;
    lower *= share;
    share += part;
    const rest = 1 - share;
    if (Math.min(share, rest) < epsilon || Math.max(share, rest) > 1 - epsilon) continue;
    lower = (lower + i * part) / share;
    const upper = (total - share * lower) / rest;
    const sigma = share * rest * (lower - upper) ** 2;
    if (sigma > best) [best, threshold] = [sigma, i];
  }
  return threshold;
}

/** The box around all pixels that are not 0; zeros for an empty image. */
export function boundingBox(image: Grid<Uint8Array | Float32Array>): Rectangle {
  const { width, height, data } = image;
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  for (let y = 0, p = 0; y < height; y++)
    for (let x = 0; x < width; x++, p++)
      if (data[p]) {
        if (x < x0) x0 = x;
        if (x > x1) x1 = x;
        if (y < y0) y0 = y;
        y1 = y;
      }
  return x1 < 0 ? [0, 0, 0, 0] : [x0, y0, x1 - x0 + 1, y1 - y0 + 1];
}

/** Row and column of the centre of mass. */
export function centreOfMass(image: Bytes): [number, number] {
  let [mass, down, across] = [0, 0, 0];
  for (let y = 0, p = 0; y < image.height; y++)
    for (let x = 0; x < image.width; x++, p++) {
      mass += image.data[p];
      down += y * image.data[p];
      across += x * image.data[p];
    }
  return [down / mass, across / mass];
}

/** Sides of the smallest rectangle, at any angle, around the pixels of a mask. */
export function smallestRectangle(mask: Bytes): [number, number] {
  const points: [number, number][] = [];
  for (let y = 0; y < mask.height; y++) {
    const row = mask.data.subarray(y * mask.width, (y + 1) * mask.width);
    const [first, last] = [row.findIndex(Boolean), row.findLastIndex(Boolean)];
    if (first >= 0) points.push([first, y], [last, y]);
  }
  points.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (ordered: [number, number][]) => {
    const chain: [number, number][] = [];
    for (const p of ordered) {
      while (chain.length > 1) {
        const [a, b] = chain.slice(-2);
        if ((b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0) break;
        chain.pop();
      }
      chain.push(p);
    }
    return chain.slice(0, -1);
  };
  const hull = [...half(points), ...half([...points].reverse())];
  if (hull.length < 2) return [0, 0];
  let best: [number, number] = [0, 0];
  let area = Infinity;
  hull.forEach(([x, y], i) => {
    const [nx, ny] = hull[(i + 1) % hull.length];
    const length = Math.hypot(nx - x, ny - y);
    if (!length) return;
    const [ux, uy] = [(nx - x) / length, (ny - y) / length];
    const along = hull.map(([px, py]) => px * ux + py * uy);
    const beside = hull.map(([px, py]) => py * ux - px * uy);
    const sides: [number, number] = [
      Math.max(...along) - Math.min(...along), Math.max(...beside) - Math.min(...beside),
    ];
    if (sides[0] * sides[1] < area) [area, best] = [sides[0] * sides[1], sides];
  });
  return best;
}

/** The image made smaller by a whole factor: halved repeatedly where possible. */
export function reducedBy(image: Bytes, factor: number): Bytes {
  while (factor % 2 === 0 && Math.min(image.height, image.width) > 1) {
    const [height, width] = [image.height >> 1, image.width >> 1];
    image = halved(crop(image, 0, 2 * height, 0, 2 * width));
    factor /= 2;
  }
  const [height, width] = [Math.max(1, Math.floor(image.height / factor)), Math.max(1, Math.floor(image.width / factor))];
  return resize(crop(image, 0, height * factor, 0, width * factor), width, height, "area");
}

/** OpenCV rounds halves up here, and to even elsewhere. */
function halved(image: Bytes): Bytes {
  const [height, width, n] = [image.height / 2, image.width / 2, image.channels];
  const result = bytes(height, width, n);
  const line = image.width * n;
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < n; c++) {
        const p = 2 * y * line + 2 * x * n + c;
        const sum = image.data[p] + image.data[p + n] + image.data[p + line] + image.data[p + line + n];
        result.data[(y * width + x) * n + c] = (sum + 2) >> 2;
      }
  return result;
}
