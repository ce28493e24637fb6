/** Port of `zoo/images/ink.py`: how much each pixel differs from the paper around it. The reasons are given there. */

import {
  above, BadInput, border, type Bytes, bytes, channel, count, crop, type Floats, floats, histogram, largest, mean,
  padded, ranked, rint, smallest, upTo,
} from "./arrays";
import { atBorder, type Levels, LOG_LIGHT, logLight, mainAxis, reduced, slowPart, SMALL, twoLevels, WIDEST_STROKE } from "./levels";
import { blur, boundingBox, dilate, distance, extremeInDisc, otsu, reducedBy, resize, resizeNearest, smooth3, square } from "./vision";

export const INK_MAP_SIDE = 512;
const WIDEST_DRAWN = 0.33;
const SAME_COLOUR = 12;
const PLAIN_BORDER = 24;
const MIN_CONTRAST = 0.06;
const SIGNAL_TO_NOISE = 4;
const STROKE_EDGE = 0.4;
const HALF_INK = 0.5;
const MIN_BARRED = 64;
const MIN_LEFT = 0.2;
const MIN_BESIDE_BAR = 0.92;
export const FADED = 0.2;

/** Pixels at the top, bottom, left and right that hold no ink. */
export type Blank = [top: number, bottom: number, left: number, right: number];

export interface Ink {
  amount: Floats;
  thresholds: [number, number];
  faintest: number;
  scale: number;
  margin: number;
  blank: Blank;
  uneven: boolean;
  sure: boolean;
  corrections: string[];
}

export function findInk(pixels: Bytes): Ink {
  const { height, width } = pixels;
  const scale = Math.ceil(Math.max(height, width) / INK_MAP_SIDE);
  const [channels, corrections] = visible(scale > 1 ? reducedBy(pixels, scale) : pixels);
  let drawing = hasPlainBorder(channels) ? asDrawing(channels) : null;
  let axis: number[] = [];
  if (!drawing) {
    const small = reduced(channels, SMALL);
    axis = mainAxis(logLight(small));
    const levels = twoLevels(channels, small, axis);
    if (levels && levels.contrast > MIN_CONTRAST) return fromLevels(levels, scale, corrections);
    drawing = asDrawing(channels);
  }
  const [amount, dark, blank] = drawing ?? asPhotograph(channels, axis);
  if (dark && !corrections.length) corrections.push("inverted: the ink was dark");
  if (!drawing) corrections.push("flattened the uneven background");
  const [thresholds, faintest] = findThresholds(amount, !drawing, height, width);
  return { amount, thresholds, faintest, scale, margin: 0, blank, uneven: !drawing, sure: true, corrections };
}

/** The image without bars of one colour around it; null where there are none. */
export function withoutBars(pixels: Bytes): Bytes | null {
  const { height, width, channels: n } = pixels;
  if (n === 4 || Math.min(height, width) < MIN_BARRED) return null;
  const step = Math.ceil(Math.max(height, width) / (INK_MAP_SIDE >> 1));
  const seen = everyPixel(pixels, step);
  for (const corner of [0, seen.data.length - 1]) {
    const other = above(distanceFrom(seen, [seen.data[corner]]), SAME_COLOUR);
    const [x, y, wide, high] = boundingBox(other);
    if (wide === seen.width && high === seen.height) continue;
    if (wide < MIN_LEFT * seen.width || high < MIN_LEFT * seen.height) continue;
    const covered = (y0: number, y1: number, x0: number, x1: number) => mean(crop(other, y0, y1, x0, x1).data);
    const [bottom, right] = [y + high, x + wide];
    const sides = [
      { bar: y, beside: covered(y + 1, y + 2, x, right) },
      { bar: seen.height - bottom, beside: covered(bottom - 2, bottom - 1, x, right) },
      { bar: x, beside: covered(y, bottom, x + 1, x + 2) },
      { bar: seen.width - right, beside: covered(y, bottom, right - 2, right - 1) },
    ];
    if (sides.some(({ bar, beside }) => bar && beside < MIN_BESIDE_BAR)) continue;
    const cut = sides.map(({ bar }) => (bar ? 2 * step : 0));
    const part = crop(pixels, y * step + cut[0], bottom * step - cut[1], x * step + cut[2], right * step - cut[3]);
    if (!part.data.length) continue;
    const green = everyPixel(part, step).data;
    const few = Math.floor(green.length / 50);
    const counts = histogram(green);
    if (ranked(counts, green.length - 1 - few) - ranked(counts, few) >= MIN_CONTRAST * 255) return part;
  }
  return null;
}

/** The middle channel of every `step`th pixel of every `step`th row. */
function everyPixel(image: Bytes, step: number): Bytes {
  const n = image.channels;
  const result = bytes(Math.ceil(image.height / step), Math.ceil(image.width / step));
  for (let y = 0, to = 0; y < image.height; y += step)
    for (let x = 0, p = y * image.width * n + (n >> 1); x < image.width; x += step, p += step * n)
      result.data[to++] = image.data[p];
  return result;
}

function fromLevels(levels: Levels, scale: number, corrections: string[]): Ink {
  const margin = Math.max(2, Math.floor(Math.max(levels.amount.height, levels.amount.width) / 8));
  const amount = padded(levels.amount, margin);
  if (levels.dark && !corrections.length) corrections.push("inverted: the ink was dark");
  const level = (share: number) => Math.max(MIN_CONTRAST, share * levels.contrast);
  return {
    amount, thresholds: [level(STROKE_EDGE), level(HALF_INK)], faintest: level(FADED), scale, margin,
    blank: [margin, margin, margin, margin], uneven: false, sure: levels.sure, corrections,
  };
}

function hasPlainBorder(channels: Bytes): boolean {
  for (let c = 0; c < channels.channels; c++) {
    let [low, high] = [255, 0];
    for (const value of border(channels, c)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (high - low > PLAIN_BORDER) return false;
  }
  return true;
}

/** The channels that carry the drawing (colours or transparency), and corrections. */
function visible(pixels: Bytes): [Bytes, string[]] {
  if (pixels.channels < 4) return [pixels, []];
  const { width, height } = pixels;
  const alpha = channel(pixels, 3);
  const colours = bytes(height, width, 3);
  for (let i = 0, p = 0, q = 0; i < alpha.data.length; i++, p += 4, q += 3) {
    colours.data[q] = pixels.data[p];
    colours.data[q + 1] = pixels.data[p + 1];
    colours.data[q + 2] = pixels.data[p + 2];
  }
  let [low, high] = [255, 0];
  for (let i = 0; i < alpha.data.length; i++) {
    if (alpha.data[i] < low) low = alpha.data[i];
    if (alpha.data[i] > high) high = alpha.data[i];
  }
  if (high < 16) throw new BadInput("The image is fully transparent: draw a digit, or flatten the image.");
  if (high - low < 16) return [colours, []];
  const opaque = above(alpha, (low + high) / 2);
  const [, , boxWidth, boxHeight] = boundingBox(opaque);
  const opaqueSize = count(opaque.data);
  if (opaqueSize > 0.6 * boxWidth * boxHeight) {
    const counts = [0, 1, 2].map((c) => histogram(channel(colours, c).data.filter((_, i) => opaque.data[i])));
    if (Math.max(...counts.map(deviation)) > SAME_COLOUR) {
      const paper = counts.map((values) => ranked(values, opaqueSize >> 1));
      for (let i = 0, p = 0; i < alpha.data.length; i++) {
        const weight = Math.fround(alpha.data[i] / high);
        for (let c = 0; c < 3; c++, p++)
          colours.data[p] = rint(Math.fround(Math.fround(colours.data[p] * weight) + Math.fround(paper[c] * Math.fround(1 - weight))));
      }
      return [colours, []];
    }
  }
  return [alpha, ["used the transparency as ink"]];
}

/** The standard deviation of the values whose histogram is given. */
function deviation(counts: Int32Array): number {
  let [size, sum, squares] = [0, 0, 0];
  for (let value = 0; value < 256; value++) {
    size += counts[value];
    sum += value * counts[value];
    squares += value * value * counts[value];
  }
  return Math.sqrt(Math.max(0, squares / size - (sum / size) ** 2));
}

/** Distance of each pixel from a paper of one colour, whether the ink is dark, and the frame; null for a photograph. */
function asDrawing(whole: Bytes): [Floats, boolean, Blank] | null {
  const [top, bottom, left, right] = frame(whole);
  const isFramed = top || bottom || left || right;
  const channels = isFramed ? crop(whole, top, whole.height - bottom, left, whole.width - right) : whole;
  let paper = commonColour(channels);
  let apart = distanceFrom(channels, paper);
  let counts = histogram(apart.data);
  const size = apart.data.length;
  const upToLimit = (limit: number) => counts.subarray(0, limit + 1).reduce((sum, value) => sum + value, 0) / size;
  const same = upToLimit(SAME_COLOUR);
  if (same < 0.4 || upToLimit(3) < 0.9 * same) return null;
  if (same < 0.8) {
    const second = commonColour(channels, apart.data);
    const fromSecond = distanceFrom(channels, second);
    if (atBorder(upTo(fromSecond, SAME_COLOUR)) > atBorder(upTo(apart, SAME_COLOUR))) {
      [paper, apart] = [second, fromSecond];
      counts = histogram(apart.data);
    }
  }
  let full = 255;
  while (full && !counts[full]) full--;
  if (widest(apart, Math.max(SAME_COLOUR, full >> 2)) > WIDEST_DRAWN) return null;
  const half = Math.max(SAME_COLOUR, full >> 1);
  const n = channels.channels;
  let [brightness, inkPixels] = [0, 0];
  for (let i = 0, p = 0; i < size; i++, p += n)
    if (apart.data[i] > half) {
      inkPixels++;
      brightness += n === 1 ? channels.data[p] : channels.data[p] + channels.data[p + 1] + channels.data[p + 2];
    }
  const dark = inkPixels > 0 && brightness / inkPixels < paper.reduce((sum, value) => sum + value, 0);
  const framed = padded(apart, top, bottom, left, right);
  const amount = floats(framed.height, framed.width);
  for (let i = 0; i < amount.data.length; i++) amount.data[i] = framed.data[i] / 255;
  return [amount, dark, [top, bottom, left, right]];
}

/** Diameter of the largest disc within the pixels above a limit, as a share of the longer side. */
function widest(image: Bytes, limit: number): number {
  const shrink = Math.min(1, SMALL / Math.max(image.height, image.width));
  const [width, height] = [Math.max(1, rint(image.width * shrink)), Math.max(1, rint(image.height * shrink))];
  const mask = above(resizeNearest(image, width, height), limit);
  return (2 * largest(distance(padded(mask, 1)).data)) / Math.max(width, height);
}

/** Pixels of a window frame around a canvas: top, bottom, left, right. */
function frame(channels: Bytes): Blank {
  const { width, height, channels: n } = channels;
  const line = width * n;
  const ends = (size: number, length: number, between: number, step: number): [number, number] => {
    const reach = Math.min(size >> 3, 64);
    if (!reach) return [0, 0];
    const start = n >> 1;
    const first = lastChange(channels.data, reach + 1, length, start, between, step);
    if (!first) return [0, 0];
    const last = lastChange(channels.data, reach + 1, length, start + (size - 1) * between, -between, step);
    return last ? [first, last] : [0, 0];
  };
  const [top, bottom] = ends(height, width, line, n);
  const [left, right] = ends(width, height, n, line);
  return [top, bottom, left, right];
}

/**
 * How many lines the frame has: up to the last one that has one colour and differs from its neighbour. Lines begin at
 * `start` and are `between` apart; the values within them are `step` apart.
 */
function lastChange(data: Uint8Array, lines: number, length: number, start: number, between: number, step: number): number {
  let result = 0;
  let before = -1;
  let wasUniform = false;
  const counts = new Int32Array(256);
  for (let line = 0; line < lines; line++) {
    counts.fill(0);
    const base = start + line * between;
    for (let place = 0, p = base; place < length; place++, p += step) counts[data[p]]++;
    const middle = ranked(counts, length >> 1);
    if (wasUniform && Math.abs(middle - before) > SAME_COLOUR) result = line - 1 + 2;
    let near = 0;
    for (let value = Math.max(0, middle - SAME_COLOUR); value <= Math.min(255, middle + SAME_COLOUR); value++)
      near += counts[value];
    wasUniform = near / length > 0.9;
    before = middle;
  }
  return result;
}

/** Roughly the most frequent colour, from a sample of 4,096 pixels; of those further than `SAME_COLOUR` from the paper. */
function commonColour(channels: Bytes, apart?: Uint8Array): number[] {
  const { channels: n, data } = channels;
  const size = channels.width * channels.height;
  let chosen = size;
  if (apart) {
    chosen = 0;
    for (let i = 0; i < size; i++) if (apart[i] > SAME_COLOUR) chosen++;
  }
  const step = Math.max(1, Math.floor(chosen / 4096));
  const sample = new Int32Array(Math.ceil(chosen / step));
  const counts = new Int32Array(256);
  let [taken, next] = [0, 0];
  if (!apart) for (let i = 0; i < size; i += step) sample[taken++] = i * n;
  else
    for (let i = 0; i < size; i++)
      if (apart[i] > SAME_COLOUR && next++ % step === 0) sample[taken++] = i * n;
  const middle = n >> 1;
  for (let i = 0; i < taken; i++) counts[data[sample[i] + middle]]++;
  const frequent = counts.indexOf(largest(counts));
  return Array.from({ length: n }, (_, c) => {
    const values = new Int32Array(256);
    let near = 0;
    for (let i = 0; i < taken; i++)
      if (Math.abs(data[sample[i] + middle] - frequent) <= SAME_COLOUR) {
        values[data[sample[i] + c]]++;
        near++;
      }
    return ranked(values, near >> 1);
  });
}

/** The largest difference of any channel from a colour. */
function distanceFrom(channels: Bytes, colour: number[]): Bytes {
  const result = bytes(channels.height, channels.width);
  const [from, to] = [channels.data, result.data];
  if (channels.channels === 1) {
    const grey = colour[0];
    for (let i = 0; i < to.length; i++) to[i] = from[i] > grey ? from[i] - grey : grey - from[i];
    return result;
  }
  const [red, green, blue] = colour;
  for (let i = 0, p = 0; i < to.length; i++, p += 3) {
    let most = from[p] > red ? from[p] - red : red - from[p];
    const second = from[p + 1] > green ? from[p + 1] - green : green - from[p + 1];
    if (second > most) most = second;
    const third = from[p + 2] > blue ? from[p + 2] - blue : blue - from[p + 2];
    to[i] = third > most ? third : most;
  }
  return result;
}

/** The logarithm of the light along an axis of the channels. */
function lightAlong(channels: Bytes, axis: number[]): Floats {
  if (channels.channels === 1) return logLight(channels);
  const grey = floats(channels.height, channels.width);
  const [from, to] = [channels.data, grey.data];
  const [red, green, blue] = axis.map((factor) => Float32Array.from(LOG_LIGHT, (value) => value * Math.fround(factor)));
  for (let i = 0, p = 0; i < to.length; i++, p += 3) to[i] = red[from[p]] + green[from[p + 1]] + blue[from[p + 2]];
  return grey;
}

/** Distance of each pixel from the paper around it, 0 to about 1, whether the ink is dark, and no frame. */
function asPhotograph(channels: Bytes, axis: number[]): [Floats, boolean, Blank] {
  const { height, width } = channels;
  const grey = lightAlong(channels, axis);
  const values = grey.data;
  const slow = slowPart(grey).data;
  let skew = 0;
  for (let i = 0; i < values.length; i++) {
    const detail = values[i] - slow[i];
    skew += detail * detail * detail;
  }
  const dark = skew < 0;
  if (dark) for (let i = 0; i < values.length; i++) values[i] = -values[i];
  const behind = resize(background(grey), width, height, "linear").data;
  for (let i = 0; i < values.length; i++) values[i] -= behind[i];
  const sample = everyThird(grey);
  const centre = smallest(sample, sample.length >> 1);
  for (let i = 0; i < values.length; i++) values[i] -= centre;
  return [Math.max(height, width) > SMALL ? smooth3(grey) : grey, dark, [0, 0, 0, 0]];
}

function everyThird(image: Floats): Float32Array {
  const result = new Float32Array(Math.ceil(image.height / 3) * Math.ceil(image.width / 3));
  for (let y = 0, i = 0; y < image.height; y += 3)
    for (let x = 0, p = y * image.width; x < image.width; x += 3, p += 3) result[i++] = image.data[p];
  return result;
}

/** The background without the ink: a morphological opening, which keeps shadows. */
function background(grey: Floats): Floats {
  const small = reduced(grey, SMALL);
  const { height, width } = small;
  const kernel = Math.max(3, rint(WIDEST_STROKE * Math.min(height, width)) | 1);
  const reach = 2; // of the two filters after the opening
  const eroded = extremeInDisc(padded(small, kernel - 1 + reach, kernel - 1 + reach, kernel - 1 + reach, kernel - 1 + reach, true), kernel, -1);
  const opened = dilate(extremeInDisc(eroded, kernel, 1), square(3));
  return crop(blur(opened, 3), reach, reach + height, reach, reach + width);
}

function findThresholds(amount: Floats, photograph: boolean, height: number, width: number): [[number, number], number] {
  const { data } = amount;
  let floor = MIN_CONTRAST;
  if (photograph) {
    const sample = everyThird(amount);
    for (let i = 0; i < sample.length; i++) sample[i] = Math.abs(sample[i]);
    floor = Math.max(floor, SIGNAL_TO_NOISE * 1.4826 * smallest(sample, sample.length >> 1));
  }
  const limit = Math.fround(floor);
  const counts = new Int32Array(256);
  let [found, most] = [0, 0];
  for (let i = 0; i < data.length; i++) {
    const value = data[i];
    if (!(value > limit)) continue;
    found++;
    if (value > most) most = value;
    const level = Math.fround(value * 255);
    counts[level < 255 ? level | 0 : 255]++;
  }
  if (!found)
    throw new BadInput(
      `The image (${width}x${height}) seems blank, because no ink stands out from the background: ` +
        "draw a digit with more contrast.",
    );
  const split = otsu(counts);
  let [solid, sum] = [0, 0];
  for (let level = split + 1; level < 256; level++) {
    solid += counts[level];
    sum += level * counts[level];
  }
  const full = solid ? sum / solid : split;
  const low = Math.max(floor, (STROKE_EDGE * full) / 255);
  const high = Math.max(floor, Math.min((split + 0.5) / 255, most));
  return [[low, high], Math.max(floor, (FADED * full) / 255)];
}
