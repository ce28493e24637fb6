/** Port of `zoo/images/ink.py`: how much each pixel differs from the paper around it. The reasons are given there. */

import {
  BadInput, border, type Bytes, bytes, channel, count, crop, type Floats, floats, largest, mean, median, padded, rint, where,
} from "./arrays";
import { atBorder, type Levels, logLight, mainAxis, projected, reduced, slowPart, SMALL, twoLevels, WIDEST_STROKE } from "./levels";
import { blur, boundingBox, dilate, disc, distance, erode, otsu, reducedBy, resize, resizeNearest, smooth3, square } from "./vision";

export const INK_MAP_SIDE = 512;
const WIDEST_DRAWN = 0.33;
const SAME_COLOUR = 12;
const PLAIN_BORDER = 24;
const MIN_CONTRAST = 0.06;
const SIGNAL_TO_NOISE = 4;
const STROKE_EDGE = 0.4;
const HALF_INK = 0.5;
export const FADED = 0.2;

export interface Ink {
  amount: Floats;
  thresholds: [number, number];
  faintest: number;
  scale: number;
  margin: number;
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
  const [amount, dark] = drawing ?? asPhotograph(channels, axis);
  if (dark && !corrections.length) corrections.push("inverted: the ink was dark");
  if (!drawing) corrections.push("flattened the uneven background");
  const [thresholds, faintest] = findThresholds(amount, !drawing, height, width);
  return { amount, thresholds, faintest, scale, margin: 0, sure: true, corrections };
}

function fromLevels(levels: Levels, scale: number, corrections: string[]): Ink {
  const margin = Math.max(2, Math.floor(Math.max(levels.amount.height, levels.amount.width) / 8));
  const amount = padded(levels.amount, margin);
  if (levels.dark && !corrections.length) corrections.push("inverted: the ink was dark");
  const level = (share: number) => Math.max(MIN_CONTRAST, share * levels.contrast);
  return {
    amount, thresholds: [level(STROKE_EDGE), level(HALF_INK)], faintest: level(FADED), scale, margin,
    sure: levels.sure, corrections,
  };
}

function hasPlainBorder(channels: Bytes): boolean {
  for (let c = 0; c < channels.channels; c++) {
    const values = border(channel(channels, c));
    if (largest(values) + largest(values.map((value) => -value)) > PLAIN_BORDER) return false;
  }
  return true;
}

/** The channels that carry the drawing (colours or transparency), and corrections. */
function visible(pixels: Bytes): [Bytes, string[]] {
  if (pixels.channels < 4) return [pixels, []];
  const { width, height } = pixels;
  const alpha = channel(pixels, 3);
  const colours = bytes(height, width, 3);
  for (let i = 0; i < alpha.data.length; i++) colours.data.set(pixels.data.subarray(4 * i, 4 * i + 3), 3 * i);
  let [low, high] = [255, 0];
  for (const value of alpha.data) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (high < 16) throw new BadInput("The image is fully transparent: draw a digit, or flatten the image.");
  if (high - low < 16) return [colours, []];
  const opaque = where(alpha, (value) => value > (low + high) / 2);
  const [, , boxWidth, boxHeight] = boundingBox(opaque);
  const parts = [0, 1, 2].map((c) => channel(colours, c).data.filter((_, i) => opaque.data[i]));
  const deviation = Math.max(...parts.map((part) => {
    const centre = mean(part);
    return Math.sqrt(mean(Array.from(part, (value) => (value - centre) ** 2)));
  }));
  if (count(opaque.data) > 0.6 * boxWidth * boxHeight && deviation > SAME_COLOUR) {
    const paper = parts.map(median);
    for (let i = 0; i < colours.data.length; i++) {
      const weight = Math.fround(alpha.data[Math.floor(i / 3)] / high);
      colours.data[i] = rint(Math.fround(colours.data[i] * weight + paper[i % 3] * (1 - weight)));
    }
    return [colours, []];
  }
  return [alpha, ["used the transparency as ink"]];
}

/** Distance of each pixel from a paper of one colour, and whether the ink is dark; null for a photograph. */
function asDrawing(whole: Bytes): [Floats, boolean] | null {
  const [top, bottom, left, right] = frame(whole);
  const channels = crop(whole, top, whole.height - bottom, left, whole.width - right);
  let paper = commonColour(channels, () => true);
  let apart = distanceFrom(channels, paper);
  const shareUpTo = (limit: number) => count(where(apart, (value) => value <= limit).data) / apart.data.length;
  const same = shareUpTo(SAME_COLOUR);
  if (same < 0.4 || shareUpTo(3) < 0.9 * same) return null;
  if (same < 0.8) {
    const first = apart;
    const second = commonColour(channels, (i) => first.data[i] > SAME_COLOUR);
    const fromSecond = distanceFrom(channels, second);
    const isPaper = (value: number) => value <= SAME_COLOUR;
    if (atBorder(where(fromSecond, isPaper)) > atBorder(where(apart, isPaper))) [paper, apart] = [second, fromSecond];
  }
  const full = largest(apart.data);
  if (widest(where(apart, (value) => value > Math.max(SAME_COLOUR, full >> 2))) > WIDEST_DRAWN) return null;
  const ink = where(apart, (value) => value > Math.max(SAME_COLOUR, full >> 1));
  let brightness = 0;
  const n = channels.channels;
  for (let i = 0; i < ink.data.length; i++)
    if (ink.data[i]) for (let c = 0; c < n; c++) brightness += channels.data[i * n + c];
  const inkPixels = count(ink.data);
  const dark = inkPixels > 0 && brightness / inkPixels < paper.reduce((sum, value) => sum + value, 0);
  const framed = padded(apart, top, bottom, left, right);
  return [{ ...framed, data: Float32Array.from(framed.data, (value) => value / 255) }, dark];
}

/** Diameter of the largest disc inside a mask, as a share of the longer side. */
function widest(mask: Bytes): number {
  const shrink = Math.min(1, SMALL / Math.max(mask.height, mask.width));
  const [width, height] = [Math.max(1, rint(mask.width * shrink)), Math.max(1, rint(mask.height * shrink))];
  return (2 * largest(distance(padded(resizeNearest(mask, width, height), 1)).data)) / Math.max(width, height);
}

/** Pixels of a window frame around a canvas: top, bottom, left, right. */
function frame(channels: Bytes): [number, number, number, number] {
  const green = channel(channels, channels.channels >> 1);
  const { width, height, data } = green;
  const ends = (size: number, length: number, at: (line: number, place: number) => number): [number, number] => {
    const reach = Math.min(size >> 3, 64);
    if (!reach) return [0, 0];
    const first = lastChange(reach + 1, length, at);
    const last = lastChange(reach + 1, length, (line, place) => at(size - 1 - line, place));
    return first && last ? [first, last] : [0, 0];
  };
  const [top, bottom] = ends(height, width, (line, place) => data[line * width + place]);
  const [left, right] = ends(width, height, (line, place) => data[place * width + line]);
  return [top, bottom, left, right];
}

/** How many lines the frame has: up to the last one that has one colour and differs from its neighbour. */
function lastChange(lines: number, length: number, at: (line: number, place: number) => number): number {
  let result = 0;
  let before = { middle: 0, uniform: false };
  for (let line = 0; line < lines; line++) {
    const values = new Uint8Array(length);
    for (let place = 0; place < length; place++) values[place] = at(line, place);
    const middle = median(values);
    if (line && before.uniform && Math.abs(middle - before.middle) > SAME_COLOUR) result = line - 1 + 2;
    const uniform = mean(values.map((value) => (Math.abs(value - middle) <= SAME_COLOUR ? 1 : 0))) > 0.9;
    before = { middle, uniform };
  }
  return result;
}

/** Roughly the most frequent colour of the chosen pixels, from a sample of 4,096. */
function commonColour(channels: Bytes, isChosen: (place: number) => boolean): number[] {
  const n = channels.channels;
  const chosen: number[] = [];
  for (let i = 0; i < channels.width * channels.height; i++) if (isChosen(i)) chosen.push(i);
  const step = Math.max(1, Math.floor(chosen.length / 4096));
  const sample = chosen.filter((_, i) => i % step === 0);
  const green = (place: number) => channels.data[place * n + (n >> 1)];
  const histogram = new Int32Array(256);
  for (const place of sample) histogram[green(place)]++;
  const frequent = histogram.indexOf(largest(histogram));
  const near = sample.filter((place) => Math.abs(green(place) - frequent) <= SAME_COLOUR);
  return Array.from({ length: n }, (_, c) => median(near.map((place) => channels.data[place * n + c])));
}

/** The largest difference of any channel from a colour. */
function distanceFrom(channels: Bytes, colour: number[]): Bytes {
  const result = bytes(channels.height, channels.width);
  const n = channels.channels;
  for (let i = 0; i < result.data.length; i++) {
    let most = 0;
    for (let c = 0; c < n; c++) most = Math.max(most, Math.abs(channels.data[i * n + c] - colour[c]));
    result.data[i] = most;
  }
  return result;
}

/** Distance of each pixel from the paper around it, 0 to about 1, and whether the ink is dark. */
function asPhotograph(channels: Bytes, axis: number[]): [Floats, boolean] {
  const { height, width } = channels;
  const grey = projected(logLight(channels), axis);
  const slow = slowPart(grey);
  let skew = 0;
  for (let i = 0; i < grey.data.length; i++) skew += (grey.data[i] - slow.data[i]) ** 3;
  const dark = skew < 0;
  if (dark) grey.data = grey.data.map((value) => -value);
  const behind = resize(background(grey), width, height, "linear");
  const amount = floats(height, width);
  for (let i = 0; i < amount.data.length; i++) amount.data[i] = grey.data[i] - behind.data[i];
  const centre = median(everyThird(amount));
  amount.data = amount.data.map((value) => value - centre);
  return [Math.max(height, width) > SMALL ? smooth3(amount) : amount, dark];
}

function everyThird(image: Floats): number[] {
  const result: number[] = [];
  for (let y = 0; y < image.height; y += 3)
    for (let x = 0; x < image.width; x += 3) result.push(image.data[y * image.width + x]);
  return result;
}

/** The background without the ink: a morphological opening, which keeps shadows. */
function background(grey: Floats): Floats {
  let small = reduced(grey, SMALL);
  const { height, width } = small;
  const kernel = Math.max(3, rint(WIDEST_STROKE * Math.min(height, width)) | 1);
  small = padded(small, kernel, kernel, kernel, kernel, true);
  const opened = dilate(dilate(erode(small, disc(kernel)), disc(kernel)), square(3));
  return crop(blur(opened, 3), kernel, kernel + height, kernel, kernel + width);
}

function findThresholds(amount: Floats, photograph: boolean, height: number, width: number): [[number, number], number] {
  const noise = 1.4826 * median(everyThird(amount).map(Math.abs));
  const floor = photograph ? Math.max(MIN_CONTRAST, SIGNAL_TO_NOISE * noise) : MIN_CONTRAST;
  const above = amount.data.filter((value) => value > Math.fround(floor));
  if (!above.length)
    throw new BadInput(
      `The image (${width}x${height}) seems blank, because no ink stands out from the background: ` +
        "draw a digit with more contrast.",
    );
  const levels = Uint8Array.from(above, (value) => Math.min(255, Math.fround(value * 255)));
  const split = otsu(levels);
  const solid = levels.filter((level) => level > split);
  const full = solid.length ? mean(solid) : split;
  const low = Math.max(floor, (STROKE_EDGE * full) / 255);
  const high = Math.max(floor, Math.min((split + 0.5) / 255, largest(above)));
  return [[low, high], Math.max(floor, (FADED * full) / 255)];
}
