/**
 * The functions of OpenCV that the corrections use, with the same arithmetic.
 *
 * Loops are flat and over typed arrays, and each pass costs a few operations per pixel, because a picture has up to
 * 262,144 pixels here and its correction should take less than 20 ms.
 */

import { type Bytes, bytes, clamp, crop, type Floats, floats, type Grid, rint, type Rectangle } from "./arrays";

export interface Component {
  x: number;
  y: number;
  width: number;
  height: number;
  area: number;
}

let runs = new Int32Array(4 * 4096); // of connectedComponents, kept between calls: row, start, end and parent of each run

/** The label of each pixel, 0 for none, and the components: the one of label i is at index i - 1. */
export function connectedComponents(mask: Bytes, connectivity: 4 | 8 = 8): { labels: Int32Array; stats: Component[] } {
  const { width, height, data } = mask;
  const reach = connectivity === 8 ? 1 : 0;
  let [size, current] = [0, 0]; // runs so far, and the first of this row
  const root = (run: number) => {
    while (runs[4 * run + 3] !== run) run = runs[4 * run + 3];
    return run;
  };
  for (let y = 0, p = 0; y < height; y++, p += width) {
    let near = current; // of the row above
    current = size;
    for (let x = 0; x < width; x++) {
      if (!data[p + x]) continue;
      const start = x;
      while (x < width && data[p + x]) x++;
      if (4 * size === runs.length) {
        const more = new Int32Array(2 * runs.length);
        more.set(runs);
        runs = more;
      }
      runs[4 * size] = y;
      runs[4 * size + 1] = start;
      runs[4 * size + 2] = x;
      let parent = size;
      while (near < current && runs[4 * near + 2] + reach <= start) near++;
      for (let other = near; other < current && runs[4 * other + 1] < x + reach; other++) {
        const a = root(other);
        const b = parent === size ? size : root(parent);
        if (a < b) {
          if (b !== size) runs[4 * b + 3] = a;
          parent = a;
        } else if (b < a) runs[4 * a + 3] = b;
      }
      runs[4 * size + 3] = parent;
      size++;
    }
  }
  const stats: Component[] = [];
  const first: number[] = []; // of each component: its first block of 2 x 2 pixels, by which OpenCV orders them
  const across = (width + 1) >> 1;
  const owner = new Int32Array(size);
  for (let run = 0; run < size; run++) {
    const y = runs[4 * run];
    const start = runs[4 * run + 1];
    const end = runs[4 * run + 2];
    const block = (y >> 1) * across + (start >> 1);
    if (runs[4 * run + 3] === run) {
      owner[run] = stats.length;
      stats.push({ x: start, y, width: end - start, height: 1, area: end - start });
      first.push(block);
      continue;
    }
    const index = (owner[run] = owner[root(run)]);
    const piece = stats[index];
    const right = Math.max(piece.x + piece.width, end);
    piece.x = Math.min(piece.x, start);
    piece.width = right - piece.x;
    piece.height = y - piece.y + 1;
    piece.area += end - start;
    if (block < first[index]) first[index] = block;
  }
  const order = stats.map((_, index) => index);
  if (connectivity === 8) order.sort((a, b) => first[a] - first[b]);
  const label = new Int32Array(stats.length);
  order.forEach((index, place) => (label[index] = place + 1));
  const labels = new Int32Array(data.length);
  for (let run = 0; run < size; run++) {
    const row = runs[4 * run] * width;
    labels.fill(label[owner[run]], row + runs[4 * run + 1], row + runs[4 * run + 2]);
  }
  return { labels, stats: order.map((index) => stats[index]) };
}

const LANES = 4; // columns that OpenCV's library for x86 (IPP) handles together
const STEPS = new Float32Array(LANES + 1); // 0 to 4 steps along a row
for (let i = 1; i <= LANES; i++) STEPS[i] = STEPS[i - 1] + 0.955;
const DIAGONALS = STEPS.map((steps) => Math.fround(1.3693) + steps); // one diagonal step and 0 to 4 along a row
const [STEP, DIAGONAL] = [STEPS[1], DIAGONALS[0]];

/**
 * `distanceTransform(mask, DIST_L2, 3)`: a chamfer distance to the nearest zero, in single precision.
 *
 * The sums are rounded as IPP rounds them, which on its way down adds the steps within four columns first. Otherwise
 * equal distances differ in the last bit, and so do the middle lines of strokes and their median width.
 */
export function distance(mask: Bytes): Floats {
  const { width, height, data } = mask;
  const far = Math.fround(3.4e38);
  const stride = width + 2;
  const steps = new Float32Array(stride * (height + 2)).fill(far);
  for (let y = 0; y < height; y++) {
    const together = y > 0 && y < height - 1 ? width - (width % LANES) : 0; // columns
    for (let x = 0, p = (y + 1) * stride + 1, q = y * width; x < width; x++, p++, q++) {
      if (!data[q]) {
        steps[p] = 0;
        continue;
      }
      let least = Math.fround(steps[p - stride] + STEP);
      const left = Math.fround(steps[p - stride - 1] + DIAGONAL);
      if (left < least) least = left;
      const right = Math.fround(steps[p - stride + 1] + DIAGONAL);
      if (right < least) least = right;
      const lane = x < together ? x % LANES : 0;
      for (let k = 1; k <= lane; k++) {
        if (!data[q - k]) {
          if (STEPS[k] < least) least = STEPS[k];
          break;
        }
        const above = p - k - stride;
        const upper = Math.fround(steps[above] + STEPS[k + 1]);
        if (upper < least) least = upper;
        const first = Math.fround(steps[above - 1] + DIAGONALS[k]);
        if (first < least) least = first;
        const second = Math.fround(steps[above + 1] + DIAGONALS[k]);
        if (second < least) least = second;
      }
      const before = Math.fround(steps[p - lane - 1] + STEPS[lane + 1]);
      steps[p] = before < least ? before : least;
    }
  }
  const result = floats(height, width);
  for (let y = height - 1; y >= 0; y--)
    for (let x = width - 1, p = (y + 1) * stride + width, q = y * width + x; x >= 0; x--, p--, q--) {
      let least = steps[p];
      if (least > 0) {
        const beside = Math.fround(steps[p + 1] + STEP);
        if (beside < least) least = beside;
        const below = Math.fround(steps[p + stride] + STEP);
        if (below < least) least = below;
        const left = Math.fround(steps[p + stride - 1] + DIAGONAL);
        if (left < least) least = left;
        const right = Math.fround(steps[p + stride + 1] + DIAGONAL);
        if (right < least) least = right;
        steps[p] = least;
      }
      result.data[q] = least;
    }
  return result;
}

/** The distances along the middle lines of a mask: those that no neighbour exceeds. */
export function middleLines(depth: Floats): Float32Array {
  const { width, height, data } = depth;
  const result = new Float32Array(data.length);
  let size = 0;
  for (let y = 0, p = 0; y < height; y++)
    for (let x = 0; x < width; x++, p++) {
      const value = data[p];
      if (!(value > 0)) continue;
      const left = x > 0;
      const right = x < width - 1;
      if ((left && data[p - 1] > value) || (right && data[p + 1] > value)) continue;
      if (y > 0) {
        const q = p - width;
        if (data[q] > value || (left && data[q - 1] > value) || (right && data[q + 1] > value)) continue;
      }
      if (y < height - 1) {
        const q = p + width;
        if (data[q] > value || (left && data[q - 1] > value) || (right && data[q + 1] > value)) continue;
      }
      result[size++] = value;
    }
  return result.subarray(0, size);
}

/** Offsets (dy, first dx, last dx) of a structuring element of side `size`, relative to its anchor. */
export type Brush = [number, number, number][];

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

/** The largest value within the brush around each pixel. Pixels beyond the border do not count. */
export function dilate<T extends Bytes | Floats>(image: T, brush: Brush): T {
  const rows = brush.length;
  const [, a, b] = brush[0];
  const isRectangle = brush.every(([, first, last]) => first === a && last === b);
  if (isRectangle && rows * (b - a + 1) > 9) return dilatedByRectangle(image, a, b, brush[0][0], brush[rows - 1][0]);
  const { width, height, data } = image;
  const out = data.slice();
  for (const [dy, first, last] of brush)
    for (let dx = first; dx <= last; dx++) {
      const [x0, x1] = [Math.max(0, -dx), Math.min(width, width - dx)];
      for (let y = Math.max(0, -dy); y < Math.min(height, height - dy); y++) {
        const p = y * width;
        const q = (y + dy) * width + dx;
        for (let x = x0; x < x1; x++) if (data[q + x] > out[p + x]) out[p + x] = data[q + x];
      }
    }
  return { ...image, data: out };
}

/** Columns and rows one after the other, with the largest values of a sliding window. */
function dilatedByRectangle<T extends Bytes | Floats>(image: T, a: number, b: number, top: number, bottom: number): T {
  const { width, height } = image;
  const isBytes = image.data instanceof Uint8Array;
  const lines = (data: Uint8Array | Float32Array, count: number, side: number, from: number, to: number, step: number, between: number) => {
    const out = isBytes ? new Uint8Array(data.length) : new Float32Array(data.length);
    const queue = new Int32Array(side);
    for (let line = 0; line < count; line++) {
      const base = line * between;
      let [head, tail, next] = [0, 0, 0];
      for (let i = 0; i < side; i++) {
        const end = Math.min(side - 1, i + to);
        for (; next <= end; next++) {
          const value = data[base + next * step];
          while (tail > head && data[base + queue[tail - 1] * step] <= value) tail--;
          queue[tail++] = next;
        }
        while (queue[head] < i + from) head++;
        out[base + i * step] = data[base + queue[head] * step];
      }
    }
    return out;
  };
  const across = lines(image.data, height, width, a, b, 1, width);
  return { ...image, data: lines(across, width, height, top, bottom, width, 1) };
}

/** A mask dilated by a square that reaches `reach` pixels on each side. */
export function grown(mask: Bytes, reach: number): Bytes {
  const { width, height, data } = mask;
  const across = new Uint8Array(data.length);
  for (let y = 0; y < height; y++) {
    const start = y * width;
    const end = start + width;
    for (let p = start; p < end; p++) {
      if (!data[p]) continue;
      const first = p;
      while (p < end && data[p]) p++;
      across.fill(1, Math.max(start, first - reach), Math.min(end, p + reach));
    }
  }
  const result = bytes(height, width);
  const latest = new Int32Array(width).fill(-2 * reach - 1); // of each column: the last row with ink so far
  for (let y = 0; y < height + reach; y++) {
    if (y < height) for (let x = 0, p = y * width; x < width; x++, p++) if (across[p]) latest[x] = y;
    if (y < reach) continue;
    const least = y - 2 * reach;
    for (let x = 0, p = (y - reach) * width; x < width; x++, p++) result.data[p] = latest[x] >= least ? 1 : 0;
  }
  return result;
}

/**
 * The smallest (`sign` -1) or largest (1) value within a disc of odd size around each pixel that is at least the disc's
 * radius away from the border; the result lacks the others. The disc's rows are taken from the shortest to the longest,
 * so that the values of each follow from those of the one before.
 */
export function extremeInDisc(image: Floats, size: number, sign: 1 | -1): Floats {
  const { width, height } = image;
  const radius = size >> 1;
  const result = floats(height - 2 * radius, width - 2 * radius);
  result.data.fill(-Infinity);
  const out = result.data;
  let rows = new Float32Array(image.data.length);
  let wider = new Float32Array(image.data.length);
  for (let p = 0; p < rows.length; p++) rows[p] = sign * image.data[p];
  let half = 0;
  for (const [dy, , last] of disc(size).slice(0, radius + 1)) {
    while (half < last) {
      const step = Math.min(last - half, 2 * half + 1);
      half += step;
      for (let y = 0; y < height; y++)
        for (let p = y * width + half, end = (y + 1) * width - half; p < end; p++) {
          let most = rows[p];
          if (rows[p - step] > most) most = rows[p - step];
          if (rows[p + step] > most) most = rows[p + step];
          wider[p] = most;
        }
      const narrow = rows;
      rows = wider;
      wider = narrow;
    }
    for (let y = 0, p = 0; y < result.height; y++) {
      let upper = (y + radius + dy) * width + radius;
      let lower = (y + radius - dy) * width + radius;
      for (let x = 0; x < result.width; x++, p++, upper++, lower++) {
        const most = rows[upper] > rows[lower] ? rows[upper] : rows[lower];
        if (most > out[p]) out[p] = most;
      }
    }
  }
  if (sign < 0) for (let p = 0; p < out.length; p++) out[p] = -out[p];
  return result;
}

let rowSums = new Float64Array(0); // of blur, kept between calls

/** The mean of a window around each pixel. The image is mirrored at its border, with or without its last pixel. */
export function blur(image: Floats, window: number, repeatLast = false): Floats {
  const { width, height, channels: n, data } = image;
  const line = width * n;
  if (rowSums.length < data.length) rowSums = new Float64Array(data.length);
  const sums = rowSums;
  const columns = mirrored(width, window, repeatLast);
  for (let y = 0; y < height; y++)
    for (let c = 0; c < n; c++) {
      const base = y * line + c;
      let sum = 0;
      for (let i = 0; i < window; i++) sum += data[base + columns[i] * n];
      for (let x = 0, p = base; x < width; x++, p += n) {
        sums[p] = sum;
        sum += data[base + columns[x + window] * n] - data[base + columns[x] * n];
      }
    }
  const result = floats(height, width, n);
  const means = result.data;
  const rows = mirrored(height, window, repeatLast);
  const total = new Float64Array(line);
  for (let i = 0; i < window; i++) {
    const p = rows[i] * line;
    for (let x = 0; x < line; x++) total[x] += sums[p + x];
  }
  const scale = 1 / (window * window);
  for (let y = 0; y < height; y++) {
    const [p, enter, leave] = [y * line, rows[y + window] * line, rows[y] * line];
    for (let x = 0; x < line; x++) {
      means[p + x] = total[x] * scale;
      total[x] += sums[enter + x] - sums[leave + x];
    }
  }
  return result;
}

/** The places that a window of a line covers, from the first one's on, and one more. */
function mirrored(side: number, window: number, repeatLast: boolean): Int32Array {
  const places = new Int32Array(side + window);
  for (let i = 0; i < places.length; i++) {
    let place = side === 1 ? 0 : i - (window >> 1);
    while (place < 0 || place >= side) {
      if (place < 0) place = repeatLast ? -1 - place : -place;
      else place = repeatLast ? 2 * side - 1 - place : 2 * side - 2 - place;
    }
    places[i] = place;
  }
  return places;
}

/** `GaussianBlur(image, (3, 3), 0)`. */
export function smooth3(image: Floats): Floats {
  const { width, height, data } = image;
  const across = new Float32Array(data.length);
  const last = width - 1;
  for (let y = 0; y < height; y++) {
    const row = y * width;
    for (let x = 1, p = row + 1; x < last; x++, p++) across[p] = 0.25 * (data[p - 1] + data[p + 1]) + 0.5 * data[p];
    if (!last) across[row] = data[row];
    else {
      across[row] = 0.5 * (data[row + 1] + data[row]);
      across[row + last] = 0.5 * (data[row + last - 1] + data[row + last]);
    }
  }
  const result = floats(height, width);
  for (let y = 0; y < height; y++) {
    const p = y * width;
    const upper = (height === 1 ? 0 : y ? y - 1 : 1) * width;
    const lower = (height === 1 ? 0 : y < height - 1 ? y + 1 : height - 2) * width;
    for (let x = 0; x < width; x++)
      result.data[p + x] = 0.25 * (across[upper + x] + across[lower + x]) + 0.5 * across[p + x];
  }
  return result;
}

/** For each place of a resized line, `most` source places and their weights. */
interface Taps {
  most: number;
  places: Int32Array;
  weights: Float32Array;
}

function areaTaps(from: number, to: number): Taps {
  const scale = from / to;
  const enlarged = scale < 1;
  const most = enlarged ? 2 : Math.ceil(scale) + 1;
  const [places, weights] = [new Int32Array(to * most), new Float32Array(to * most)];
  for (let place = 0; place < to; place++) {
    let tap = place * most;
    if (enlarged) {
      // OpenCV interpolates within pixels' edges only
      const left = Math.floor(place * scale);
      let share = place + 1 - (left + 1) / scale;
      share = share <= 0 ? 0 : share - Math.floor(share);
      places.set([left, Math.min(left + 1, from - 1)], tap);
      weights.set([1 - share, share], tap);
      continue;
    }
    const [start, end] = [place * scale, Math.min((place + 1) * scale, from)];
    for (let i = Math.floor(start); i < end - 1e-3; i++) {
      const weight = Math.min(i + 1, end) - Math.max(i, start);
      if (weight < 1e-3) continue;
      places[tap] = i;
      weights[tap++] = weight / (end - start);
    }
    for (; tap < (place + 1) * most; tap++) places[tap] = places[tap - 1];
  }
  return { most, places, weights };
}

function pointTaps(from: number, to: number, reach: 1 | 2): Taps {
  const scale = from / to;
  const most = 2 * reach;
  const [places, weights] = [new Int32Array(to * most), new Float32Array(to * most)];
  for (let place = 0; place < to; place++) {
    const centre = Math.fround((place + 0.5) * scale - 0.5);
    const left = Math.floor(centre);
    const t = centre - left;
    weights.set(reach === 1 ? [1 - t, t] : cubicWeights(t), place * most);
    for (let i = 0; i < most; i++) places[place * most + i] = clamp(left + 1 - reach + i, 0, from - 1);
  }
  return { most, places, weights };
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
  if (width === image.width && height === image.height) return { ...image, data: image.data.slice() };
  const isBytes = image.data instanceof Uint8Array;
  if (isBytes && method === "area" && image.width === 2 * width && image.height === 2 * height)
    return halved(image as Bytes) as T;
  const taps = (from: number, to: number) =>
    method === "area" ? areaTaps(from, to) : pointTaps(from, to, method === "cubic" ? 2 : 1);
  const [across, down] = [taps(image.width, width), taps(image.height, height)];
  const n = image.channels;
  // Between pixels, OpenCV interpolates bytes with whole numbers: weights of 1 / 2048.
  const fixed = isBytes && (method !== "area" || image.width < width || image.height < height);
  if (fixed) for (const { weights } of [across, down]) for (let i = 0; i < weights.length; i++) weights[i] = rint(2048 * weights[i]);
  const rows = resizedRows(image, across, width);
  const result = (isBytes ? bytes(height, width, n) : floats(height, width, n)) as T;
  const out = result.data;
  const line = width * n;
  const sums = new Float32Array(line);
  for (let y = 0; y < height; y++) {
    const to = y * line;
    if (down.most === 2) {
      const a = down.places[2 * y] * line;
      const b = down.places[2 * y + 1] * line;
      const u = down.weights[2 * y];
      const v = down.weights[2 * y + 1];
      if (fixed) for (let x = 0; x < line; x++) out[to + x] = ((((rows[a + x] >> 4) * u) >> 16) + (((rows[b + x] >> 4) * v) >> 16) + 2) >> 2;
      else if (isBytes) for (let x = 0; x < line; x++) out[to + x] = rint(Math.fround(u * rows[a + x]) + Math.fround(v * rows[b + x]));
      else for (let x = 0; x < line; x++) out[to + x] = Math.fround(u * rows[a + x]) + Math.fround(v * rows[b + x]);
      continue;
    }
    sums.fill(0);
    for (let tap = y * down.most; tap < (y + 1) * down.most; tap++) {
      const weight = fixed ? down.weights[tap] / 2 ** 22 : down.weights[tap];
      const p = down.places[tap] * line;
      if (weight) for (let x = 0; x < line; x++) sums[x] += Math.fround(weight * rows[p + x]);
    }
    if (isBytes) for (let x = 0; x < line; x++) out[to + x] = clamp(rint(sums[x]), 0, 255);
    else out.set(sums, to);
  }
  return result;
}

/** Each row resized to `width`. */
function resizedRows(image: Bytes | Floats, taps: Taps, width: number): Float32Array {
  const { height, channels: n, data } = image;
  const { most, places, weights } = taps;
  const rows = new Float32Array(height * width * n);
  const from = image.width * n;
  for (let y = 0, p = 0; y < height; y++) {
    const row = y * from;
    if (n === 1)
      for (let x = 0, tap = 0; x < width; x++) {
        let sum = 0;
        for (const end = tap + most; tap < end; tap++) sum = Math.fround(sum + Math.fround(weights[tap] * data[row + places[tap]]));
        rows[p++] = sum;
      }
    else if (n === 3)
      for (let x = 0, tap = 0; x < width; x++) {
        let red = 0;
        let green = 0;
        let blue = 0;
        for (const end = tap + most; tap < end; tap++) {
          const weight = weights[tap];
          const q = row + 3 * places[tap];
          red = Math.fround(red + Math.fround(weight * data[q]));
          green = Math.fround(green + Math.fround(weight * data[q + 1]));
          blue = Math.fround(blue + Math.fround(weight * data[q + 2]));
        }
        rows[p++] = red;
        rows[p++] = green;
        rows[p++] = blue;
      }
    else
      for (let x = 0; x < width; x++)
        for (let c = 0; c < n; c++) {
          let sum = 0;
          for (let i = 0, tap = x * most; i < most; i++, tap++)
            sum = Math.fround(sum + Math.fround(weights[tap] * data[row + places[tap] * n + c]));
          rows[p++] = sum;
        }
  }
  return rows;
}

/** `resize(mask, INTER_NEAREST)`. */
export function resizeNearest(mask: Bytes, width: number, height: number): Bytes {
  const result = bytes(height, width);
  const places = (from: number, to: number) => {
    const step = 1 / (to / from); // as OpenCV rounds it
    return Int32Array.from({ length: to }, (_, place) => Math.min(Math.floor(place * step), from - 1));
  };
  const [columns, rows] = [places(mask.width, width), places(mask.height, height)];
  for (let y = 0, p = 0; y < height; y++)
    for (let x = 0; x < width; x++, p++) result.data[p] = mask.data[rows[y] * mask.width + columns[x]];
  return result;
}

/** Otsu's threshold of values from 0 to 255, of which the histogram is given. */
export function otsu(counts: Int32Array): number {
  let [size, total] = [0, 0];
  for (let i = 0; i < 256; i++) {
    size += counts[i];
    total += i * counts[i];
  }
  const scale = 1 / size;
  total *= scale;
  const epsilon = 2 ** -23;
  let [lower, share, best, threshold] = [0, 0, 0, 0];
  for (let i = 0; i < 256; i++) {
    const part = counts[i] * scale;
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
  for (let y = 0; y < height; y++) {
    const [start, end] = [y * width, (y + 1) * width];
    let first = start;
    while (first < end && !data[first]) first++;
    if (first === end) continue;
    let last = end - 1;
    while (!data[last]) last--;
    if (first - start < x0) x0 = first - start;
    if (last - start > x1) x1 = last - start;
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

export type Point = [x: number, y: number];

/** The first and last pixel of a mask in each row: the smallest rectangle around them is that around all. */
export function rowEnds(mask: Bytes): Point[] {
  const points: Point[] = [];
  for (let y = 0; y < mask.height; y++) {
    const row = mask.data.subarray(y * mask.width, (y + 1) * mask.width);
    const [first, last] = [row.findIndex(Boolean), row.findLastIndex(Boolean)];
    if (first >= 0) points.push([first, y], [last, y]);
  }
  return points;
}

/** Sides of the smallest rectangle, at any angle, around points. */
export function smallestRectangle(points: Point[]): [number, number] {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const half = (ordered: Point[]) => {
    const chain: Point[] = [];
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
  const hull = [...half(sorted), ...half(sorted.reverse())];
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
    image = halved(image);
    factor /= 2;
  }
  const [height, width] = [Math.max(1, Math.floor(image.height / factor)), Math.max(1, Math.floor(image.width / factor))];
  if (factor === 1) return image;
  return resize(crop(image, 0, height * factor, 0, width * factor), width, height, "area");
}

/** Half as many rows and columns; an odd one is left out. OpenCV rounds halves up here, and to even elsewhere. */
function halved(image: Bytes): Bytes {
  const [height, width, n, data] = [image.height >> 1, image.width >> 1, image.channels, image.data];
  const result = bytes(height, width, n);
  const line = image.width * n;
  const out = result.data;
  for (let y = 0, to = 0; y < height; y++)
    if (n === 1)
      for (let x = 0, p = 2 * y * line; x < width; x++, p += 2)
        out[to++] = (data[p] + data[p + 1] + data[p + line] + data[p + line + 1] + 2) >> 2;
    else
      for (let x = 0, p = 2 * y * line; x < width; x++, p += n)
        for (let c = 0; c < n; c++, p++, to++)
          out[to] = (data[p] + data[p + n] + data[p + line] + data[p + n + line] + 2) >> 2;
  return result;
}
