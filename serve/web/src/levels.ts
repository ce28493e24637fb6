/** Port of `zoo/images/levels.py`: which of an image's two levels is the ink? The reasons are given there. */

import {
  border, type Bytes, bytes, cornerShare, count, type Floats, floats, largest, mean, median, padded, rint, where,
} from "./arrays";
import { blur, boundingBox, connectedComponents, dilate, distance, otsu, resize, smallestRectangle, square } from "./vision";

export const SMALL = 96;
const LOG_OFFSET = 32;
const LOG_SPAN = Math.log((255 + LOG_OFFSET) / LOG_OFFSET);
export const LOG_LIGHT = Float32Array.from({ length: 256 }, (_, grey) => Math.log((grey + LOG_OFFSET) / LOG_OFFSET) / LOG_SPAN);

export const WIDEST_STROKE = 0.45;
const GREY_AXIS = 0.5;
const MAX_ROUNDS = 10;
const RIDGE = [3e-4, 3e-4, 3e-4, 1e-6, 1e-6];
const UNEXPLAINED = 0.6;
const MIN_EXPLAINED = 0.72;
const MIN_EXPLAINED_MARGIN = 0.8;
const MIN_THICK_MARGIN = 0.2;
const MIN_CLEAR = 1.5;
const MIN_SURE = 1.8;
const NARROW = 0.35;
const ONE_CONTACT = 0.25;
const MAX_ASPECT = 2.5;
const MAX_CLOUDED = 0.2;
const [BEYOND_PAPER, BEYOND_INK] = [[0.3, 0.1], [0.4, 0.22]];
const FAINTER_LEVEL = 0.25;
const MIN_INNER = 0.15;
const MIN_INNER_DOT = 0.3;
const MAX_HOLES = 4;
const MIN_HOLE = 0.05;
const SHEETS = [[0.25, 6.4], [0.33, 3.2]];
const MIN_RECTANGLE = 0.895;
const MIN_RECTANGLE_HOLE = 1.6;

export interface Levels {
  amount: Floats;
  contrast: number;
  dark: boolean;
  sure: boolean;
}

/** The ink of an image whose ink may touch the frame; null where two levels and smooth light do not explain it. */
export function twoLevels(channels: Bytes, small: Bytes, axis: number[]): Levels | null {
  const split = splitLevels(small, axis);
  if (!split) return null;
  const lower = where(split.upper, (value) => !value);
  const [light, dark] = [shapeOf(split.upper), shapeOf(lower)];
  const [ink, shape] = light.score > dark.score ? [split.upper, light] : [lower, dark];
  const clarity = shape.score + Math.abs(light.score - dark.score) - 2 * shape.thick;
  const { height, width } = small;
  if (shape.rim === 0) {
    const thick = (shape.thick * Math.max(height, width)) / Math.min(height, width);
    if (split.explained < MIN_EXPLAINED_MARGIN || thick < MIN_THICK_MARGIN) return null;
  } else if (split.explained < MIN_EXPLAINED || (clarity < MIN_CLEAR && width > NARROW * height)) return null;
  else if (shape.rim > ONE_CONTACT) {
    const around = rim(ink);
    if (around.filter((value, i) => i > 0 && value !== around[i - 1]).length <= 2) return null;
  }
  const total = axis.reduce((sum, value) => sum + value, 0);
  const gain = split.light.map((value) => (Math.abs(total) > GREY_AXIS ? value / total : 0));
  const flat = flattened(small, gain);
  const [paper, full] = purerHalves(flat, ink);
  const difference = full.map((value, c) => value - paper[c]);
  const norm = Math.max(1, difference.reduce((sum, value) => sum + value * value, 0));
  const direction = difference.map((value) => value / norm);
  if (!hasOnlyTwoLevels(ink, projected(flat, direction, paper), shape)) return null;
  const contrast = Math.max(...difference.map(Math.abs)) / 255;
  const amount = projected(flattened(channels, gain), direction.map((value) => value * contrast), paper);
  return { amount, contrast, dark: dark.score > light.score, sure: clarity >= MIN_SURE };
}

/** The product of each pixel's channels, less an origin, with an axis. */
export function projected(image: Bytes | Floats, axis: number[], origin: number[] = axis.map(() => 0)): Floats {
  const result = floats(image.height, image.width);
  const n = image.channels;
  for (let i = 0; i < result.data.length; i++) {
    let sum = 0;
    for (let c = 0; c < n; c++) sum += (image.data[i * n + c] - origin[c]) * axis[c];
    result.data[i] = sum;
  }
  return result;
}

/** Made smaller where its longer side has more than `side` pixels. */
export function reduced<T extends Bytes | Floats>(channels: T, side: number): T {
  const { height, width } = channels;
  const longer = Math.max(height, width);
  if (longer <= side) return channels;
  const size = (length: number) => Math.max(1, rint((length * side) / longer));
  return resize(channels, size(width), size(height), "area");
}

/** The pixels along the border, once around, with the first one repeated at the end. */
function rim(mask: Bytes): number[] {
  const { width, height, data } = mask;
  const result: number[] = [];
  for (let x = 0; x < width; x++) result.push(data[x]);
  for (let y = 1; y < height; y++) result.push(data[y * width + width - 1]);
  for (let x = width - 2; x >= 0; x--) result.push(data[(height - 1) * width + x]);
  for (let y = height - 2; y >= 0; y--) result.push(data[y * width]);
  return result;
}

export function logLight(channels: Bytes): Floats {
  return { ...channels, data: Float32Array.from(channels.data, (value) => LOG_LIGHT[value]) };
}

/** The mix of channels in which the ink stands out most: the main axis of the colours (PCA). */
export function mainAxis(light: Floats): number[] {
  const slow = slowPart(light);
  const n = light.channels;
  if (n === 1) return [1];
  const gram = Array.from({ length: n }, () => new Array<number>(n).fill(0));
  for (let i = 0; i < light.data.length; i += n)
    for (let a = 0; a < n; a++)
      for (let b = 0; b < n; b++)
        gram[a][b] += (light.data[i + a] - slow.data[i + a]) * (light.data[i + b] - slow.data[i + b]);
  const axis = mainEigenvector(gram);
  return axis.reduce((sum, value) => sum + value, 0) >= 0 ? axis : axis.map((value) => -value);
}

/** Of a symmetric matrix with eigenvalues that are not negative: by squaring, which separates them. */
function mainEigenvector(matrix: number[][]): number[] {
  const n = matrix.length;
  let power = matrix;
  for (let round = 0; round < 40; round++) {
    const scale = Math.max(...power.flat().map(Math.abs));
    if (!scale) return Array.from({ length: n }, (_, i) => (i === n - 1 ? 1 : 0));
    const unit = power.map((row) => row.map((value) => value / scale));
    power = unit.map((row) => row.map((_, b) => row.reduce((sum, value, k) => sum + value * unit[k][b], 0)));
  }
  const column = power.map((row) => row.reduce((sum, value) => sum + value * value, 0));
  const best = power[column.indexOf(Math.max(...column))];
  const length = Math.hypot(...best);
  return best.map((value) => value / length);
}

/** The mean around each pixel, over a window wider than a stroke. */
export function slowPart(light: Floats): Floats {
  return blur(light, Math.max(3, rint(WIDEST_STROKE * Math.min(light.height, light.width)) | 1), true);
}

interface Split {
  upper: Bytes;
  light: number[];
  explained: number;
}

function splitLevels(small: Bytes, axis: number[]): Split | null {
  const { height, width } = small;
  const mask = (data: Uint8Array): Bytes => ({ width, height, channels: 1, data });
  let [upper, explained] = otsuLevels(projected(small, axis).data);
  if (!explained) return null;
  const plain: Split = { upper: mask(upper), light: [0, 0, 0], explained };
  const [across, down] = coordinates(height, width);
  const size = height * width;
  const smooth = [0, 1, 2].map(() => new Float32Array(size));
  for (let i = 0; i < size; i++) {
    const [x, y] = [across[i % width], down[Math.floor(i / width)]];
    [smooth[0][i], smooth[1][i], smooth[2][i]] = [x, y, x * x + y * y];
  }
  const values = projected(logLight(small), axis).data;
  const variance = Math.max(varianceOf(values), 1e-9);
  let light = [0, 0, 0];
  let lit = plain;
  let unexplained = 1;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const before = upper;
    const even = values.map((value, i) => value - light[0] * smooth[0][i] - light[1] * smooth[1][i] - light[2] * smooth[2][i]);
    [upper, explained] = otsuLevels(even);
    if (!explained) return plain;
    lit = { upper: mask(upper), light, explained };
    if (light.some(Boolean) && upper.every((value, i) => value === before[i])) break;
    const terms = [...smooth, Float32Array.from(upper), new Float32Array(size).fill(1)];
    const gram = terms.map((a, i) => terms.map((b, j) => dot(a, b) + (i === j ? RIDGE[i] * size : 0)));
    const fit = solved(gram, terms.map((term) => dot(term, values)));
    light = fit.slice(0, 3);
    let rest = 0;
    for (let i = 0; i < size; i++)
      rest += (values[i] - terms.reduce((sum, term, k) => sum + fit[k] * term[i], 0)) ** 2;
    unexplained = rest / size / variance;
  }
  return unexplained < UNEXPLAINED * (1 - plain.explained) ? lit : plain;
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function varianceOf(values: ArrayLike<number>): number {
  const centre = mean(values);
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] - centre) ** 2;
  return sum / values.length;
}

/** The solution of a small system of linear equations, by elimination with pivoting. */
function solved(matrix: number[][], right: number[]): number[] {
  const rows = matrix.map((row, i) => [...row, right[i]]);
  const n = rows.length;
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(rows[i][k]) > Math.abs(rows[pivot][k])) pivot = i;
    [rows[k], rows[pivot]] = [rows[pivot], rows[k]];
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = rows[i][k] / rows[k][k];
      for (let j = k; j <= n; j++) rows[i][j] -= factor * rows[k][j];
    }
  }
  return rows.map((row, i) => row[n] / row[i]);
}

function coordinates(height: number, width: number): [Float32Array, Float32Array] {
  const side = Math.max(height, width);
  const line = (size: number) =>
    Float32Array.from({ length: size }, (_, i) => ((size > 1 ? i / (size - 1) : 0) - 0.5) * (size / side));
  return [line(width), line(height)];
}

/** The mask of the upper of Otsu's two levels, and the share of the variance between them. */
function otsuLevels(values: Float32Array): [Uint8Array, number] {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (high - low < 1e-6) return [new Uint8Array(values.length), 0];
  const scale = 255 / (high - low);
  const steps = Uint8Array.from(values, (value) => Math.min(255, Math.fround(Math.fround(value - low) * scale)));
  const threshold = otsu(steps);
  const upper = steps.map((step) => (step > threshold ? 1 : 0));
  const share = mean(upper);
  if (!(share > 0 && share < 1)) return [upper, 0];
  let [above, below] = [0, 0];
  for (let i = 0; i < values.length; i++) if (upper[i]) above += values[i]; else below += values[i];
  const step = above / (share * values.length) - below / ((1 - share) * values.length);
  return [upper, (share * (1 - share) * step ** 2) / Math.max(varianceOf(values), 1e-9)];
}

interface Shape {
  rim: number;
  thick: number;
  score: number;
}

function shapeOf(mask: Bytes): Shape {
  const solid = padded(mask, 1);
  const areas = connectedComponents(solid).stats.map((piece) => piece.area);
  const depth = distance(solid);
  const around = dilate(depth, square(3));
  const middle = depth.data.filter((value, i) => value > 0 && value >= around.data[i]);
  const main = Math.max(...areas) / areas.reduce((sum, area) => sum + area, 0);
  const uneven = Math.sqrt(varianceOf(middle)) / mean(middle);
  const covered = mean(rim(mask));
  return {
    rim: covered,
    thick: (2 * largest(depth.data)) / Math.max(mask.height, mask.width),
    score: 2 * main - covered - cornerShare(mask) - uneven,
  };
}

function hasOnlyTwoLevels(ink: Bytes, share: Floats, shape: Shape): boolean {
  const side = Math.max(ink.height, ink.width);
  const [, , width, height] = boundingBox(ink);
  if (width > MAX_ASPECT * height || median(share.data.filter((_, i) => !ink.data[i])) > MAX_CLOUDED) return false;
  if (largest(pieces(where(share, (v) => -v > BEYOND_PAPER[0])).lengths, 0) > BEYOND_PAPER[1] * side) return false;
  if (largest(pieces(where(share, (v) => v - 1 > BEYOND_INK[0])).lengths, 0) > BEYOND_INK[1] * side) return false;
  const marks = pieces(where(share, (v) => v > FAINTER_LEVEL));
  const outer = marks.largestAtBorder();
  const isApart = marks.boxes.some((box, i) => {
    const within = box[0] >= outer[0] && box[1] >= outer[1] && box[2] <= outer[2] && box[3] <= outer[3];
    return marks.inside[i] && marks.lengths[i] > (within ? MIN_INNER_DOT : MIN_INNER) * side;
  });
  if (shape.rim && isApart) return false;
  const holes = pieces(where(share, (v) => v < 1 - FAINTER_LEVEL));
  const lengths = holes.lengths.map((length, i) => (holes.inside[i] ? length : 0));
  if (lengths.filter((length) => length > MIN_HOLE * side).length > MAX_HOLES) return false;
  const longest = largest(lengths, 0);
  return longest < MIN_INNER * side || !isSheet(ink, holes, lengths.indexOf(longest), shape.thick);
}

/** Whether the ink is really a sheet of paper on a table, and its longest hole a digit on the sheet. */
function isSheet(ink: Bytes, holes: Pieces, longest: number, thick: number): boolean {
  const hole = bytes(ink.height, ink.width);
  holes.labels.forEach((label, i) => (hole.data[i] = label === longest + 1 ? 1 : 0));
  const length = count(hole.data) / (2 * largest(distance(padded(hole, 1)).data)) ** 2;
  if (SHEETS.some(([least, long]) => thick >= least && length >= long)) return true;
  if (thick < SHEETS[0][0] || length < MIN_RECTANGLE_HOLE) return false;
  const whole = bytes(ink.height, ink.width);
  holes.labels.forEach((label, i) => (whole.data[i] = ink.data[i] || (label > 0 && holes.inside[label - 1]) ? 1 : 0));
  const [width, height] = smallestRectangle(whole);
  return count(whole.data) > MIN_RECTANGLE * (width + 1) * (height + 1);
}

interface Pieces {
  labels: Int32Array;
  boxes: [number, number, number, number][];
  inside: boolean[];
  lengths: number[];
  largestAtBorder(): [number, number, number, number];
}

function pieces(mask: Bytes): Pieces {
  const { labels, stats } = connectedComponents(mask);
  const boxes = stats.map((p): [number, number, number, number] => [p.x, p.y, p.x + p.width, p.y + p.height]);
  const inside = boxes.map((b) => b[0] > 0 && b[1] > 0 && b[2] < mask.width && b[3] < mask.height);
  const lengths = stats.map((p) => Math.max(p.width, p.height));
  const largestAtBorder = (): [number, number, number, number] => {
    const outer = lengths.map((length, i) => (inside[i] ? 0 : length));
    const longest = largest(outer, 0);
    return longest ? boxes[outer.indexOf(longest)] : [0, 0, 0, 0];
  };
  return { labels, boxes, inside, lengths, largestAtBorder };
}

/** The image under even light. */
function flattened(channels: Bytes, light: number[]): Floats {
  const { height, width, channels: n } = channels;
  if (!light.some(Boolean)) return { ...channels, data: Float32Array.from(channels.data) };
  const [x, y] = coordinates(height, width);
  const across = x.map((v) => Math.exp(-LOG_SPAN * (light[0] * v + light[2] * v * v)));
  const down = y.map((v) => Math.exp(-LOG_SPAN * (light[1] * v + light[2] * v * v)));
  const result = floats(height, width, n);
  for (let i = 0; i < result.data.length; i++) {
    const place = Math.floor(i / n);
    const factor = across[place % width] * down[Math.floor(place / width)];
    result.data[i] = (channels.data[i] + LOG_OFFSET) * factor - LOG_OFFSET;
  }
  return result;
}

/** The colours of paper and ink: the mean of each one's purer half, without blurred edges. */
function purerHalves(flat: Floats, ink: Bytes): [number[], number[]] {
  const n = flat.channels;
  const meanColour = (test: (place: number) => boolean): number[] => {
    const sums = new Array<number>(n).fill(0);
    let size = 0;
    for (let i = 0; i < ink.data.length; i++)
      if (test(i)) {
        size++;
        for (let c = 0; c < n; c++) sums[c] += flat.data[i * n + c];
      }
    return sums.map((sum) => sum / size);
  };
  const [inside, outside] = [meanColour((i) => ink.data[i] > 0), meanColour((i) => !ink.data[i])];
  const along = projected(flat, inside.map((value, c) => value - outside[c])).data;
  const low = median(along.filter((_, i) => !ink.data[i]));
  const high = median(along.filter((_, i) => ink.data[i] > 0));
  return [
    meanColour((i) => !ink.data[i] && along[i] <= low),
    meanColour((i) => ink.data[i] > 0 && along[i] >= high),
  ];
}

/** Share of the border plus share of the corners that a mask covers, 0 to 2. */
export function atBorder(mask: Bytes): number {
  return mean(border(mask)) + cornerShare(mask);
}
