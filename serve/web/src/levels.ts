/** Port of `zoo/images/levels.py`: which of an image's two levels is the ink? The reasons are given there. */

import {
  above, border, type Bytes, bytes, cornerShare, count, type Floats, floats, histogram, inverse, largest, mean, median,
  padded, rint, variance, where,
} from "./arrays";
import { blur, boundingBox, connectedComponents, distance, middleLines, otsu, resize, rowEnds, smallestRectangle } from "./vision";

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
  const lower = inverse(split.upper);
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
    let changes = 0;
    for (let i = 1; i < around.length; i++) if (around[i] !== around[i - 1]) changes++;
    if (changes <= 2) return null;
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
  const [from, to, n] = [image.data, result.data, image.channels];
  if (n === 1) {
    const [factor, zero] = [axis[0], origin[0]];
    for (let i = 0; i < to.length; i++) to[i] = (from[i] - zero) * factor;
    return result;
  }
  const [x, y, z] = axis;
  const [a, b, c] = origin;
  for (let i = 0, p = 0; i < to.length; i++, p += 3)
    to[i] = (from[p] - a) * x + (from[p + 1] - b) * y + (from[p + 2] - c) * z;
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
  const result = floats(channels.height, channels.width, channels.channels);
  const [from, to] = [channels.data, result.data];
  for (let i = 0; i < to.length; i++) to[i] = LOG_LIGHT[from[i]];
  return result;
}

/** The mix of channels in which the ink stands out most: the main axis of the colours (PCA). */
export function mainAxis(light: Floats): number[] {
  const n = light.channels;
  if (n === 1) return [1];
  const detail = slowPart(light).data;
  for (let i = 0; i < detail.length; i++) detail[i] = light.data[i] - detail[i];
  const gram = Array.from({ length: n }, () => new Array<number>(n).fill(0));
  for (let a = 0; a < n; a++)
    for (let b = 0; b <= a; b++) {
      let sum = 0;
      for (let i = 0; i < detail.length; i += n) sum += detail[i + a] * detail[i + b];
      gram[a][b] = gram[b][a] = sum;
    }
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
  const size = height * width;
  const mask = (data: Uint8Array): Bytes => ({ width, height, channels: 1, data });
  let [upper, explained] = otsuLevels(projected(small, axis).data);
  if (!explained) return null;
  const plain: Split = { upper: mask(upper), light: [0, 0, 0], explained };
  const values = projected(logLight(small), axis).data;
  const spread = Math.max(variance(values), 1e-9);
  const terms = [...smoothTerms(height, width), new Float32Array(size), new Float32Array(size).fill(1)];
  const gram = terms.map((a, i) => terms.map((b, j) => dot(a, b) + (i === j ? RIDGE[i] * size : 0)));
  const right = terms.map((term) => dot(term, values));
  const even = new Float32Array(size);
  let light = [0, 0, 0];
  let lit = plain;
  let unexplained = 1;
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const before = upper;
    subtract(values, terms, light, even);
    [upper, explained] = otsuLevels(even);
    if (!explained) return plain;
    lit = { upper: mask(upper), light, explained };
    if (light.some(Boolean) && areEqual(upper, before)) break;
    terms[3].set(upper);
    for (let i = 0; i < terms.length; i++) gram[i][3] = gram[3][i] = dot(terms[i], terms[3]);
    gram[3][3] += RIDGE[3] * size;
    right[3] = dot(terms[3], values);
    const fit = solved(gram, right);
    light = fit.slice(0, 3).map(Math.fround);
    subtract(values, terms, fit, even);
    unexplained = dot(even, even) / size / spread;
  }
  return unexplained < UNEXPLAINED * (1 - plain.explained) ? lit : plain;
}

/** x, y and x² + y² of each pixel. */
function smoothTerms(height: number, width: number): Float32Array[] {
  const [across, down] = coordinates(height, width);
  const terms = [0, 1, 2].map(() => new Float32Array(height * width));
  for (let row = 0, i = 0; row < height; row++)
    for (let column = 0; column < width; column++, i++) {
      const x = across[column];
      const y = down[row];
      terms[0][i] = x;
      terms[1][i] = y;
      terms[2][i] = x * x + y * y;
    }
  return terms;
}

/** What is left of the values without the sum of the first terms, each multiplied by its factor. */
function subtract(values: Float32Array, terms: Float32Array[], factors: number[], rest: Float32Array): void {
  rest.set(values);
  for (let k = 0; k < factors.length; k++) {
    const [term, factor] = [terms[k], factors[k]];
    if (factor) for (let i = 0; i < rest.length; i++) rest[i] -= factor * term[i];
  }
}

function areEqual(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
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
  for (let i = 0; i < values.length; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  const upper = new Uint8Array(values.length);
  if (high - low < 1e-6) return [upper, 0];
  const scale = Math.fround(255 / (high - low));
  for (let i = 0; i < values.length; i++) {
    const step = Math.fround(Math.fround(values[i] - low) * scale);
    upper[i] = step < 255 ? step : 255;
  }
  const threshold = otsu(histogram(upper));
  let [lighter, light, dark] = [0, 0, 0];
  for (let i = 0; i < values.length; i++)
    if (upper[i] > threshold) {
      upper[i] = 1;
      lighter++;
      light += values[i];
    } else {
      upper[i] = 0;
      dark += values[i];
    }
  const share = lighter / values.length;
  if (!(share > 0 && share < 1)) return [upper, 0];
  const step = light / lighter - dark / (values.length - lighter);
  return [upper, (share * (1 - share) * step ** 2) / Math.max(variance(values), 1e-9)];
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
  const middle = middleLines(depth);
  const main = Math.max(...areas) / areas.reduce((sum, area) => sum + area, 0);
  const uneven = Math.sqrt(variance(middle)) / mean(middle);
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
  const marks = pieces(above(share, FAINTER_LEVEL));
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
  for (let i = 0; i < hole.data.length; i++) hole.data[i] = holes.labels[i] === longest + 1 ? 1 : 0;
  const length = count(hole.data) / (2 * largest(distance(padded(hole, 1)).data)) ** 2;
  if (SHEETS.some(([least, long]) => thick >= least && length >= long)) return true;
  if (thick < SHEETS[0][0] || length < MIN_RECTANGLE_HOLE) return false;
  const whole = bytes(ink.height, ink.width);
  for (let i = 0; i < whole.data.length; i++) {
    const label = holes.labels[i];
    whole.data[i] = ink.data[i] || (label > 0 && holes.inside[label - 1]) ? 1 : 0;
  }
  const [width, height] = smallestRectangle(rowEnds(whole));
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
  for (let row = 0, i = 0; row < height; row++)
    for (let column = 0; column < width; column++) {
      const factor = Math.fround(across[column] * down[row]);
      for (let c = 0; c < n; c++, i++) result.data[i] = (channels.data[i] + LOG_OFFSET) * factor - LOG_OFFSET;
    }
  return result;
}

/** The colours of paper and ink: the mean of each one's purer half, without blurred edges. */
function purerHalves(flat: Floats, ink: Bytes): [number[], number[]] {
  const paper = inverse(ink);
  const [inside, outside] = [meanColour(flat, ink), meanColour(flat, paper)];
  const along = projected(flat, inside.map((value, c) => value - outside[c])).data;
  const low = median(along.filter((_, i) => paper.data[i]));
  const high = median(along.filter((_, i) => ink.data[i]));
  for (let i = 0; i < along.length; i++) if (paper.data[i] && along[i] > low) paper.data[i] = 0;
  const full = bytes(ink.height, ink.width);
  for (let i = 0; i < along.length; i++) full.data[i] = ink.data[i] && along[i] >= high ? 1 : 0;
  return [meanColour(flat, paper), meanColour(flat, full)];
}

function meanColour(image: Floats, mask: Bytes): number[] {
  const size = count(mask.data);
  return Array.from({ length: image.channels }, (_, c) => {
    let sum = 0;
    for (let i = 0, p = c; i < mask.data.length; i++, p += image.channels) if (mask.data[i]) sum += image.data[p];
    return sum / size;
  });
}

/** Share of the border plus share of the corners that a mask covers, 0 to 2. */
export function atBorder(mask: Bytes): number {
  return mean(border(mask)) + cornerShare(mask);
}
