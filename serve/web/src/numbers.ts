/** Port of `zoo/images/numbers.py`: an image of a number → its lines and candidate digits. The reasons are given there. */

import weights from "../../../zoo/images/numbers.json";
import { above, BadInput, type Bytes, bytes, clamp, crop, type Floats, largest, rint, where } from "./arrays";
import { BOX, fullRange, placed, strokeWidth } from "./digits";
import { findInk, type Ink, INK_MAP_SIDE } from "./ink";
import { frames } from "./marks";
import { boundingBox, type Component, connectedComponents, dilate, disc, grown, reducedBy, resize } from "./vision";

const BANDS = 6;
const OUTLINE = 8 + 2 * BANDS;
export const FEATURES = OUTLINE + 1;
const HEIGHT = 48;
const VISIBLE = 0.3;
const MIN_STROKE = 0.11 * HEIGHT;
const BODY = 0.45;
const [SIDE_HEIGHT, SIDE_WIDTH] = [1.2, 0.2];
const LOW_BODY = 0.3;
const LIKE_MAIN = 0.7;
const TALLEST = 2.5;
const SAME_LINE = 0.4;
const MIN_PIECE = 0.12;
const MIN_MARK = 0.07;
const ATTACHED = 0.3;
const NEAR = 0.3;
const BESIDE = 0.15;
const HIGH = 0.3;
const [WIDE_PART, HIGH_PART, LOWEST_PART] = [0.2, 0.25, 0.6];
const MIN_ABOVE = 0.2;
const SPLIT = 0.12;
const MAX_PIECES = 400;
const MAX_LINES = 12;
const MIN_SHEET = 0.4;
const SOLID_SHEET = 0.7;
const SHEET_EDGE = 0.98;
const MAX_WIDTHS = 20;
const ANCHORS = [0.3, 0.5, 0.7];
const DIAGONAL = Math.fround(0.15);
const MAX_COST = 0.5;
const MIN_BETWEEN = 0.02;
const MAX_CUTS = 24;
const SHORT = 3.2;
const TWO_DIGITS = 0.5;
const LIKELY_TWO = 0.85;
const MIN_AREA = 0.01;
const MIN_HEIGHT = 0.3;
const MAX_WIDTH = 1.7;
const MAX_ASPECT = 2.2;
const MAX_CANDIDATES = 4000;
const SOFT_EDGE = 2; // pixels around a candidate's ink
const MIN_VALUE = 60; // grey levels of a candidate's ink

export type Box = [x0: number, y0: number, x1: number, y1: number];

/** The ink between two cuts: indexes of the cuts, an image in MNIST's form, pixels of the image, and its geometry. */
export interface Candidate {
  first: number;
  last: number;
  pixels: Bytes;
  box: Box;
  features: number[];
}

/** One line of digits. `cuts` counts its two ends too; `marks` are places on the x axis between digits. */
export interface Line {
  cuts: number;
  candidates: Candidate[];
  height: number;
  marks: number[];
}

export interface FoundNumber {
  lines: Line[];
  corrections: string[];
}

/** The number in an image; null where the ink has no lines of digits. Throws BadInput for a blank image. */
export function findNumber(pixels: Bytes): FoundNumber | null {
  const ink = findInk(pixels);
  const part = ink.scale > 1 ? aroundSmallDigits(pixels, ink) : null;
  let lines = part ? linesIn(part, findInk(part.pixels)) : [];
  if (!lines.length) lines = linesIn({ pixels, origin: [0, 0], cutOff: true }, ink);
  return lines.length ? { lines, corrections: ink.corrections } : null;
}

/** The same in a reduced copy, for an image that may be one digit. */
export function findNumberReduced(pixels: Bytes): FoundNumber {
  const scale = Math.ceil(Math.max(pixels.height, pixels.width) / INK_MAP_SIDE);
  const reduced = scale > 1 ? reducedBy(pixels, scale) : pixels;
  const ink = findInk(reduced);
  return { lines: linesIn({ pixels: reduced, origin: [0, 0], cutOff: true }, ink, scale), corrections: ink.corrections };
}

/** A part of an image, where it begins, and whether digits touch the border of the image. */
interface Part {
  pixels: Bytes;
  origin: [x: number, y: number];
  cutOff: boolean;
}

/** The lines in a part of an image that was reduced by `scale`: those on a sheet that is taken for ink, or else all. */
function linesIn({ pixels, origin: [x, y], cutOff }: Part, ink: Ink, scale = 1): Line[] {
  const sheet = insideSheet(pixels, ink);
  const inner = sheet && inkOrNull(sheet.pixels);
  if (inner) {
    const origin: [number, number] = [(x + sheet.origin[0]) * scale, (y + sheet.origin[1]) * scale];
    const lines = findLines({ ...inner, scale: inner.scale * scale }, origin, sheet.cutOff);
    if (lines.length) return lines;
  }
  return findLines({ ...ink, scale: ink.scale * scale }, [x * scale, y * scale], cutOff);
}

/** The ink of an image; null for a blank one. */
function inkOrNull(pixels: Bytes): Ink | null {
  try {
    return findInk(pixels);
  } catch (error) {
    if (error instanceof BadInput) return null;
    throw error;
  }
}

/** The largest piece of ink without its edges, where it is a light sheet on a dark table; null where it is not. */
function insideSheet(pixels: Bytes, ink: Ink): Part | null {
  const mask = where(ink.amount, (value) => value >= Math.fround(ink.thresholds[0]));
  const { labels, stats } = connectedComponents(mask);
  if (!stats.length) return null;
  const areas = stats.map(({ area }) => area);
  const sheet = areas.indexOf(largest(areas));
  const { x, y, width, height, area } = stats[sheet];
  if (height < MIN_SHEET * (mask.height - 2 * ink.margin) || width < MIN_SHEET * (mask.width - 2 * ink.margin)) return null;
  if (area < SOLID_SHEET * width * height) return null;
  const [first, last] = [new Int32Array(height).fill(width), new Int32Array(height).fill(-1)]; // columns of each row
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++)
      if (labels[(y + row) * mask.width + x + column] === sheet + 1) {
        if (first[row] === width) first[row] = column;
        last[row] = column;
      }
  let [top, bottom, left, right] = [0, height, 0, width];
  const rowShare = (row: number) =>
    Math.max(0, Math.min(last[row] + 1, right) - Math.max(first[row], left)) / (right - left);
  const columnShare = (column: number) => {
    let covered = 0;
    for (let row = top; row < bottom; row++) if (first[row] <= column && column <= last[row]) covered++;
    return covered / (bottom - top);
  };
  while (bottom - top > 2 && right - left > 2) {
    const edges = [rowShare(top), rowShare(bottom - 1), columnShare(left), columnShare(right - 1)];
    const worst = edges.indexOf(Math.min(...edges));
    if (edges[worst] >= SHEET_EDGE) break;
    if (worst === 0) top++;
    else if (worst === 1) bottom--;
    else if (worst === 2) left++;
    else right--;
  }
  const [x0, y0] = [x + left, y + top].map((start) => Math.max(0, (start - ink.margin) * ink.scale));
  const [x1, y1] = [x + right, y + bottom].map((end) => (end - ink.margin) * ink.scale);
  return { pixels: crop(pixels, y0, y1, x0, x1), origin: [x0, y0], cutOff: false };
}

/** The part of a large image around its digits, where its full resolution is needed; null for larger digits. */
function aroundSmallDigits(pixels: Bytes, ink: Ink): Part | null {
  const pieces = findPieces(ink, true);
  const lines = pieces?.lines.map(({ members }) => members.map((piece) => pieces.stats[piece])) ?? [];
  const heights = lines.map(lineHeight);
  if (!lines.length || sumOfWidths(lines) > MAX_WIDTHS || Math.min(...heights) >= HEIGHT) return null;
  const { scale, margin } = ink;
  const reach = rint(largest(heights) * scale);
  const every = lines.flat();
  const left = (Math.min(...every.map(({ x }) => x)) - margin) * scale;
  const top = (Math.min(...every.map(({ y }) => y)) - margin) * scale;
  const right = (largest(every.map(({ x, width }) => x + width)) - margin) * scale;
  const bottom = (largest(every.map(({ y, height }) => y + height)) - margin) * scale;
  const cutOff = Math.min(left, top) < scale || right > pixels.width - scale || bottom > pixels.height - scale;
  const [x0, y0] = [Math.max(0, left - reach), Math.max(0, top - reach)];
  return { pixels: crop(pixels, y0, bottom + reach, x0, right + reach), origin: [x0, y0], cutOff };
}

/** Whether an image in MNIST's form is wide enough to be two digits. */
export function mayBeNumber(digit: Bytes): boolean {
  return aspect(digit) >= TWO_DIGITS;
}

/** The same where nothing but the width speaks for two digits. */
export function isLikelyNumber(digit: Bytes): boolean {
  return aspect(digit) >= LIKELY_TWO;
}

function aspect(digit: Bytes): number {
  const [, , width, height] = boundingBox(digit);
  return width / Math.max(1, height);
}

/** The lines of digits in an ink map whose corner is at `origin`; with `cutOff`, digits may touch its border. */
function findLines(ink: Ink, origin: [number, number] = [0, 0], cutOff = true): Line[] {
  const pieces = findPieces(ink, cutOff);
  if (!pieces) return [];
  if (sumOfWidths(pieces.lines.map(({ members }) => members.map((i) => pieces.stats[i]))) > MAX_WIDTHS) return [];
  const lines: Line[] = [];
  let candidates = 0;
  for (const { members, marks } of pieces.lines.slice(0, MAX_LINES)) {
    const line = lineOf(ink, pieces, members, marks, origin);
    if (!line || candidates + line.candidates.length > MAX_CANDIDATES) continue;
    lines.push(line);
    candidates += line.candidates.length;
  }
  return lines;
}

/** The indexes of a line's pieces: parts of digits, from left to right, and marks between digits. */
interface PiecesOfLine {
  members: number[];
  marks: number[];
}

interface Pieces {
  labels: Int32Array;
  stats: Component[];
  lines: PiecesOfLine[];
}

function findPieces(ink: Ink, cutOff: boolean): Pieces | null {
  let main = -1;
  let labels: Int32Array = new Int32Array();
  let stats: Component[] = [];
  let onEdge: boolean[] = [];
  let framed: boolean[] = [];
  for (const threshold of ink.thresholds) {
    const mask = where(ink.amount, (value) => value >= Math.fround(threshold));
    ({ labels, stats } = connectedComponents(mask));
    onEdge = stats.map((p) => !p.x || !p.y || p.x + p.width === mask.width || p.y + p.height === mask.height);
    framed = frames(labels, mask.width, stats);
    const ranks = stats.map((p, i) =>
      framed[i] ? 0 : Math.min(Math.max(p.width, p.height), 3 * p.height) * Math.sqrt(p.area) * (onEdge[i] ? 0.3 : 1),
    );
    main = ranks.indexOf(largest(ranks));
    if (main >= 0 && !onEdge[main]) break;
  }
  if (main < 0) return null;
  const tallest = stats[main].height;
  const isLikeMain = ({ width, height }: Component) =>
    height >= LIKE_MAIN * tallest && height * LIKE_MAIN <= tallest && width <= MAX_ASPECT * height;
  const longer = ({ width, height }: Component) => Math.max(width, height);
  const isSide = (p: Component) =>
    p.height >= SIDE_HEIGHT * tallest && p.area * longer(stats[main]) < SIDE_WIDTH * stats[main].area * longer(p);
  const inside = stats.map(
    (p, i) => !framed[i] && !isSide(p) && (!onEdge[i] || onEdge[main] || (cutOff && isLikeMain(p))),
  );
  const pieces = withBrokenDigits(stats, (piece, i) => inside[i] && piece.height < tallest, tallest);
  const isBody = pieces.map(({ width, height }, i) => {
    const isHigh = height >= BODY * tallest || (height >= LOW_BODY * tallest && width >= BODY * tallest);
    return inside[i] && isHigh && height <= TALLEST * tallest;
  });
  const every = [...pieces.keys()];
  const bodies = every.filter((i) => isBody[i]);
  if (!bodies.length || bodies.length > MAX_PIECES) return null;
  let lines = inLines(pieces, bodies).filter(({ members }) => members.some((i) => pieces[i].height >= BODY * tallest));
  const whole = lines.filter(({ members }) => members.some((i) => !onEdge[i]));
  if (whole.length) lines = whole;
  const small = every.filter((i) => {
    const { width, height } = pieces[i];
    return inside[i] && !isBody[i] && Math.max(width, height) >= MIN_MARK * tallest && width < 1.5 * tallest;
  });
  for (const i of small.slice(0, MAX_PIECES)) addSmall(lines, pieces, i, tallest);
  return { labels, stats, lines };
}

/** The pieces of each line, from top to bottom: those that overlap vertically with the one before. */
function inLines(pieces: Component[], bodies: number[]): PiecesOfLine[] {
  const lines: number[][] = [];
  for (const body of bodies.sort((a, b) => pieces[a].x - pieces[b].x)) {
    let [best, overlap]: [number[] | null, number] = [null, SAME_LINE];
    for (const line of lines) {
      const shares = line.slice(-2).map((i) => {
        const lower = Math.min(pieces[body].height, pieces[i].height);
        return -gapBetween(pieces[body], pieces[i], "y") / lower;
      });
      if (largest(shares) > overlap) [best, overlap] = [line, largest(shares)];
    }
    if (best) best.push(body);
    else lines.push([body]);
  }
  return lines
    .map((members) => ({ members, middle: quantile(members.map((i) => pieces[i].y + pieces[i].height / 2), 0.5) }))
    .sort((a, b) => a.middle - b.middle)
    .map(({ members }) => ({ members, marks: [] }));
}

/** Add a small piece to the first line where it is part of a digit, or a mark between digits. */
function addSmall(lines: PiecesOfLine[], pieces: Component[], index: number, tallest: number): void {
  const piece = pieces[index];
  const larger = Math.max(piece.width, piece.height);
  const middle = piece.y + piece.height / 2;
  const isAbove = (digit: Component) => {
    const down = gapBetween(piece, digit, "y");
    const isNear = -gapBetween(piece, digit, "x") >= ATTACHED * piece.width && down < NEAR * tallest;
    return isNear && (down < 0 || larger >= MIN_ABOVE * tallest);
  };
  const isWide = piece.width >= WIDE_PART * tallest;
  const isBar = (digit: Component) =>
    piece.height < piece.width && middle < digit.y + HIGH * digit.height && (piece.x > digit.x || isWide);
  const isStroke = (digit: Component) =>
    isWide && piece.height >= HIGH_PART * tallest && piece.x < digit.x && middle < digit.y + LOWEST_PART * digit.height;
  const isBeside = (digit: Component) =>
    (isBar(digit) || isStroke(digit)) && middle > digit.y - HIGH * digit.height &&
    gapBetween(piece, digit, "x") < BESIDE * tallest;
  const isMark = (digit: Component) => middle > digit.y && middle < digit.y + 1.3 * digit.height;
  for (const { members, marks } of lines) {
    const digits = members.map((member) => pieces[member]);
    if (larger >= MIN_PIECE * tallest && digits.some((digit) => isAbove(digit) || isBeside(digit))) {
      members.push(index);
      return;
    }
    if (digits[0].x < piece.x && piece.x < digits.at(-1)!.x && digits.some(isMark)) {
      marks.push(index);
      return;
    }
  }
}

/** Pixels between two pieces along an axis; negative where they overlap. */
function gapBetween(a: Component, b: Component, axis: "x" | "y"): number {
  const side = axis === "x" ? "width" : "height";
  return Math.max(a[axis], b[axis]) - Math.min(a[axis] + a[side], b[axis] + b[side]);
}

/** The pieces; those of a broken digit, one above the other, have top and height of their whole. */
function withBrokenDigits(
  stats: Component[], isInside: (piece: Component, index: number) => boolean, tallest: number,
): Component[] {
  const pieces = stats.map((piece) => ({ ...piece }));
  const parts = pieces
    .filter((piece, i) => isInside(piece, i) && Math.max(piece.width, piece.height) >= MIN_ABOVE * tallest)
    .slice(0, MAX_PIECES);
  parts.forEach((piece, index) => {
    const near = parts.slice(index + 1).filter((other) => {
      const isSmall = Math.max(piece.height, other.height) < BODY * tallest;
      const [across, down] = [-gapBetween(piece, other, "x"), gapBetween(piece, other, "y")];
      return (
        (across >= ATTACHED * Math.min(piece.width, other.width) && down < (isSmall ? NEAR : SPLIT) * tallest) ||
        (isSmall && Math.max(-across, down) < SPLIT * tallest)
      );
    });
    if (!near.length) return;
    const group = [...near, piece];
    const top = Math.min(...group.map((part) => part.y));
    const height = Math.max(...group.map((part) => part.y + part.height)) - top;
    if (height >= BODY * tallest && height <= tallest / LIKE_MAIN)
      for (const part of group) [part.y, part.height] = [top, height];
  });
  return pieces;
}

/** Of the digits in a line, from its pieces. */
function lineHeight(pieces: Component[]): number {
  const heights = pieces.map((piece) => piece.height);
  const least = BODY * largest(heights);
  return quantile(heights.filter((height) => height >= least), 0.5);
}

/** Of all lines together, in heights of their digits. */
function sumOfWidths(lines: Component[][]): number {
  return lines.reduce((sum, pieces) => {
    const right = largest(pieces.map((piece) => piece.x + piece.width));
    return sum + (right - Math.min(...pieces.map((piece) => piece.x))) / lineHeight(pieces);
  }, 0);
}

/** As `numpy.quantile`: interpolated between the two nearest values. */
export function quantile(values: ArrayLike<number>, share: number): number {
  const sorted = Float64Array.from(values).sort();
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (sorted[Math.ceil(place)] - sorted[low]) * (place - low);
}

function lineOf(ink: Ink, pieces: Pieces, members: number[], marks: number[], origin: [number, number]): Line | null {
  const boxes = members.map((piece) => pieces.stats[piece]);
  const height = lineHeight(boxes);
  const pad = Math.max(2, rint(0.08 * height));
  const left = Math.max(0, Math.min(...boxes.map((box) => box.x)) - pad);
  const top = Math.max(0, Math.min(...boxes.map((box) => box.y)) - pad);
  const right = largest(boxes.map((box) => box.x + box.width)) + pad;
  const bottom = largest(boxes.map((box) => box.y + box.height)) + pad;
  if (bottom - top > 6 * height) return null;
  const amount = lineInk(ink.amount, pieces, members, pad, [left, top, right, bottom]);
  const scale = HEIGHT / height;
  const smooth = scaled(amount, scale);
  const grey = bytes(smooth.height, smooth.width);
  for (let i = 0; i < grey.data.length; i++) grey.data[i] = Math.fround(clamp(smooth.data[i], 0, 1) * 255);
  const thick = thickened(grey);
  const mask = above(grey, VISIBLE * 255);
  const cuts = findCuts(grey, mask);
  if (!cuts) return null;
  const toImage = ink.scale / scale;
  const [x0, y0] = [origin[0] + (left - ink.margin) * ink.scale, origin[1] + (top - ink.margin) * ink.scale];
  const candidates: Candidate[] = [];
  for (const pair of pairsOf(mask, cuts)) {
    const { first, last, outline } = pair;
    if (score(outline, "prior") <= 0) continue;
    const digit = rendered(thick, mask, cuts, pair);
    if (!digit) continue;
    const [x, y, width, high] = digit.box;
    if (high < MIN_HEIGHT * HEIGHT || width > MAX_WIDTH * HEIGHT || width > MAX_ASPECT * high) continue;
    const box = [x, y, x + width, y + high].map((v, i) => rint(v * toImage + (i % 2 ? y0 : x0))) as Box;
    const features = [high / HEIGHT, width / HEIGHT, width / high, ...outline.slice(3), digit.pieces].map(Math.fround);
    candidates.push({ first, last, pixels: digit.pixels, box, features });
  }
  if (!candidates.length) return null;
  const middles = marks.map((mark) => {
    const { x, width } = pieces.stats[mark];
    return (x + width / 2 - ink.margin) * ink.scale + origin[0];
  });
  return {
    cuts: cuts.seams.length, candidates, height: height * ink.scale, marks: middles.sort((a, b) => a - b),
  };
}

/** The ink of a line's pieces and their soft edges, 0 to 1. */
function lineInk(whole: Floats, pieces: Pieces, members: number[], pad: number, [left, top, right, bottom]: Box): Floats {
  const isMember = new Uint8Array(pieces.stats.length + 1);
  for (const member of members) isMember[member + 1] = 1;
  const amount = crop(whole, top, bottom, left, right);
  const own = bytes(amount.height, amount.width);
  const other = bytes(amount.height, amount.width);
  for (let y = 0, i = 0; y < amount.height; y++)
    for (let x = 0; x < amount.width; x++, i++) {
      const label = pieces.labels[(top + y) * whole.width + left + x];
      own.data[i] = isMember[label];
      other.data[i] = label && !isMember[label] ? 1 : 0;
    }
  const solid = Math.fround(quantile(amount.data.filter((_, i) => own.data[i]), 0.6));
  const near = grown(own, pad >> 1);
  amount.data = amount.data.map((value, i) =>
    near.data[i] && !other.data[i] ? clamp(Math.fround(value / solid), 0, 1) : 0,
  );
  return amount;
}

/** Strokes at least as wide as MNIST's thin ones. */
function thickened(grey: Bytes): Bytes {
  const growth = rint(MIN_STROKE - strokeWidth(grey));
  return growth < 1 ? grey : dilate(grey, disc(growth + 1));
}

/** Ways from top to bottom through little ink: a column per row, and the ink that they cross. */
interface Cuts {
  seams: Int32Array[];
  costs: number[];
}

/** The cuts of a line, from left to right; the first and last are its ends. null where there is no ink. */
function findCuts(grey: Bytes, mask: Bytes): Cuts | null {
  const { width, height } = grey;
  const ink = Float32Array.from(grey.data, (value) => value / 255);
  const [start, , inkWidth] = boundingBox(mask);
  if (!inkWidth) return null;
  const stop = start + inkWidth - 1;
  const down = accumulated(ink, width, height, 1);
  const up = accumulated(ink, width, height, -1);
  const ways: { seam: Int32Array; cost: number; middle: number }[] = [];
  for (const anchor of ANCHORS) {
    const row = Math.min(height - 1, rint(anchor * height));
    for (let x = 0; x < width; x++) {
      const place = row * width + x;
      const cost = Math.fround(Math.fround(down[place] + up[place]) - ink[place]);
      if (cost > MAX_COST * HEIGHT) continue;
      const seam = new Int32Array(height);
      seam[row] = x;
      follow(seam, down, width, row, -1);
      follow(seam, up, width, row, 1);
      const middle = meanOf(seam);
      if (middle > start + 2 && middle < stop - 2) ways.push({ seam, cost, middle });
    }
  }
  ways.sort((a, b) => a.cost - b.cost);
  const counts = cumulated(mask);
  const before = ways.map(({ seam }) => seam.map((x, y) => counts[y * (width + 1) + x]));
  const most = Math.max(4, rint((MAX_CUTS * (stop - start)) / HEIGHT));
  const chosen: number[] = [];
  for (let i = 0; i < ways.length && chosen.length < most; i++)
    if (chosen.every((other) => areApart(before[i], before[other]))) chosen.push(i);
  const picked = chosen.map((i) => ways[i]).sort((a, b) => a.middle - b.middle);
  const [first, last] = [new Int32Array(height), new Int32Array(height).fill(width)];
  return {
    seams: [first, ...picked.map((way) => way.seam), last],
    costs: [0, ...picked.map((way) => Math.fround(way.cost / HEIGHT)), 0],
  };
}

function areApart(a: Int32Array, b: Int32Array): boolean {
  let between = 0;
  for (let y = 0; y < a.length; y++) between += Math.abs(a[y] - b[y]);
  return between >= MIN_BETWEEN * HEIGHT ** 2;
}

function meanOf(seam: Int32Array): number {
  let sum = 0;
  for (const x of seam) sum += x;
  return sum / seam.length;
}

/** Per row, how many pixels of a mask are left of each column: `(H, W + 1)`. */
function cumulated({ width, height, data }: Bytes): Int32Array {
  const counts = new Int32Array(height * (width + 1));
  for (let y = 0; y < height; y++)
    for (let x = 0, p = y * (width + 1); x < width; x++, p++) counts[p + 1] = counts[p] + data[y * width + x];
  return counts;
}

/** Complete a seam from `row` on, up (`step` -1) or down (1), by the cheapest way in `table`. */
function follow(seam: Int32Array, table: Float32Array, width: number, row: number, step: 1 | -1): void {
  let x = seam[row];
  for (let y = row + step; y >= 0 && y < seam.length; y += step) {
    const place = y * width + x;
    let [best, move] = [table[place], 0];
    if (x > 0) {
      const left = Math.fround(table[place - 1] + DIAGONAL);
      if (left < best) [best, move] = [left, -1];
    }
    if (x < width - 1 && Math.fround(table[place + 1] + DIAGONAL) < best) move = 1;
    x += move;
    seam[y] = x;
  }
}

/** The ink on the cheapest way to each pixel from the top (`step` 1) or the bottom (-1); steps may go sideways too. */
function accumulated(ink: Float32Array, width: number, height: number, step: 1 | -1): Float32Array {
  const total = Float32Array.from(ink);
  for (let y = step > 0 ? 1 : height - 2; y >= 0 && y < height; y += step)
    for (let x = 0; x < width; x++) {
      const before = (y - step) * width + x;
      let best = total[before];
      if (x > 0) best = Math.min(best, Math.fround(total[before - 1] + DIAGONAL));
      if (x < width - 1) best = Math.min(best, Math.fround(total[before + 1] + DIAGONAL));
      total[y * width + x] = best + ink[y * width + x];
    }
  return total;
}

/** Two cuts, by their indexes, the box of the ink between them, and its outline, the inputs of `score` "prior". */
interface Pair {
  first: number;
  last: number;
  box: Box;
  outline: number[];
}

/** Pairs of cuts with ink of a digit's size between them. */
function pairsOf(mask: Bytes, { seams, costs }: Cuts): Pair[] {
  const { width, height, data } = mask;
  const counts = cumulated(mask);
  const following = new Int32Array(counts.length).fill(width); // first column of ink from each column on
  const preceding = new Int32Array(counts.length).fill(-1); // last column of ink before each column
  for (let y = 0; y < height; y++) {
    const row = y * (width + 1);
    for (let x = width - 1; x >= 0; x--) following[row + x] = data[y * width + x] ? x : following[row + x + 1];
    for (let x = 0; x < width; x++) preceding[row + x + 1] = data[y * width + x] ? x : preceding[row + x];
  }
  const starts = cumulated({ ...mask, data: data.map((value, i) => (value && (i % width === 0 || !data[i - 1]) ? 1 : 0)) });
  const middle = seams.map(meanOf);
  const inked: number[] = []; // columns
  for (let x = 0; x < width; x++) if (isInked(mask, x)) inked.push(x);
  const begin = middle.map((x) => inked.find((column) => column >= x) ?? width);
  const end = middle.map((x) => inked.findLast((column) => column < x) ?? -1);
  const [slope, offset] = centreLine(mask);
  const [inside, strokes] = [new Int32Array(height), new Int32Array(height)]; // of each row between two cuts
  const pairs: Pair[] = [];
  for (let first = 0; first < seams.length; first++)
    for (let last = first + 1; last < seams.length; last++) {
      const span = middle[last] - middle[first];
      const isClose = span < 2 * HEIGHT || end[last] - begin[first] < MAX_WIDTH * HEIGHT;
      const isNear = isClose || first === 0 || last === seams.length - 1;
      if (span <= 0.03 * HEIGHT || !isNear) continue;
      const [left, right] = [seams[first], seams[last]];
      let [area, x0, y0, x1, y1] = [0, width, height, 0, 0];
      let y = 0;
      for (let row = 0; y < height && left[y] <= right[y]; y++, row += width + 1) {
        const inked = counts[row + right[y]] - counts[row + left[y]];
        inside[y] = inked;
        strokes[y] = 0;
        if (!inked) continue;
        strokes[y] = starts[row + right[y]] - starts[row + Math.min(left[y] + 1, right[y])] + data[y * width + left[y]];
        area += inked;
        x0 = Math.min(x0, following[row + left[y]]);
        x1 = Math.max(x1, preceding[row + right[y]] + 1);
        y0 = Math.min(y0, y);
        y1 = y + 1;
      }
      const [wide, high] = [x1 - x0, y1 - y0];
      if (y < height || area < MIN_AREA * HEIGHT ** 2 || high < MIN_HEIGHT * HEIGHT) continue;
      if (wide > MAX_WIDTH * HEIGHT || wide > MAX_ASPECT * high) continue;
      const line = offset + slope * (x0 + wide / 2);
      const outline = [
        high / HEIGHT, wide / HEIGHT, wide / high, costs[first], costs[last], area / (high * wide),
        (y0 - line) / HEIGHT, (y1 - line) / HEIGHT, ...inBands(inside, y0, high, wide), ...inBands(strokes, y0, high, 1),
      ];
      pairs.push({ first, last, box: [x0, y0, x1, y1], outline: outline.map(Math.fround) });
    }
  return pairs;
}

function isInked({ width, height, data }: Bytes, x: number): boolean {
  for (let y = 0; y < height; y++) if (data[y * width + x]) return true;
  return false;
}

/** Sums of rows in each band of a box, per row and column. */
function inBands(rows: Int32Array, top: number, high: number, wide: number): number[] {
  const edges = Array.from({ length: BANDS + 1 }, (_, i) => top + (i === BANDS ? high : rint(high * (i * (1 / BANDS)))));
  return edges.slice(1).map((end, i) => {
    let sum = 0;
    for (let y = edges[i]; y < end; y++) sum += rows[y];
    return sum / (Math.max(end - edges[i], 1) * wide);
  });
}

/** Slope and row at column 0 of the straight line along the ink's middle; the line of few digits is level. */
function centreLine({ width, height, data }: Bytes): [slope: number, row: number] {
  let [area, sumX, sumY, sumXX, sumXY] = [0, 0, 0, 0, 0];
  for (let y = 0, i = 0; y < height; y++)
    for (let x = 0; x < width; x++, i++)
      if (data[i]) {
        area++;
        sumX += x;
        sumY += y;
        sumXX += x * x;
        sumXY += x * y;
      }
  const [x, y] = [sumX / area, sumY / area];
  const slope = (sumXY - x * sumY) / Math.max(1, sumXX - x * sumX) / (1 + ((SHORT * HEIGHT) / width) ** 3);
  return [slope, y - slope * x];
}

interface Rendered {
  pixels: Bytes;
  box: [x: number, y: number, width: number, height: number];
  pieces: number;
}

/** The ink of a pair of cuts in MNIST's form, without specks. The box is in pixels of the line. */
function rendered(grey: Bytes, mask: Bytes, { seams }: Cuts, { first, last, box: [x0, y0, x1, y1] }: Pair): Rendered | null {
  const [left, right] = [seams[first], seams[last]];
  const [start, top] = [Math.max(0, x0 - SOFT_EDGE), Math.max(0, y0 - SOFT_EDGE)];
  const [stop, bottom] = [Math.min(grey.width, x1 + SOFT_EDGE), Math.min(grey.height, y1 + SOFT_EDGE)];
  const own = bytes(bottom - top, stop - start);
  const ink = bytes(bottom - top, stop - start);
  for (let y = top; y < bottom; y++) {
    const [from, to] = [Math.max(start, left[y]), Math.min(stop, right[y])];
    for (let x = from, p = (y - top) * own.width + from - start, q = y * grey.width + from; x < to; x++, p++, q++) {
      own.data[p] = grey.data[q];
      ink.data[p] = mask.data[q];
    }
  }
  const { labels, stats } = connectedComponents(ink);
  const isKept = [true, ...stats.map((piece) => Math.max(piece.width, piece.height) >= MIN_PIECE * HEIGHT)]; // 0: no ink
  const kept = stats.filter((_, i) => isKept[i + 1]);
  if (!kept.length) return null;
  if (kept.length < stats.length) for (let i = 0; i < labels.length; i++) if (!isKept[labels[i]]) own.data[i] = 0;
  const [x, y] = [Math.min(...kept.map((piece) => piece.x)), Math.min(...kept.map((piece) => piece.y))];
  const width = Math.max(...kept.map((piece) => piece.x + piece.width)) - x;
  const height = Math.max(...kept.map((piece) => piece.y + piece.height)) - y;
  const digit = visiblePart(
    crop(own, y - SOFT_EDGE, y + height + SOFT_EDGE, x - SOFT_EDGE, x + width + SOFT_EDGE),
  );
  const pixels = placed(fullRange(scaled(digit, BOX / Math.max(digit.width, digit.height))));
  return { pixels, box: [x + start, y + top, width, height], pieces: kept.length };
}

function visiblePart(digit: Bytes): Bytes {
  const [x, y, width, height] = boundingBox(above(digit, MIN_VALUE));
  return crop(digit, y, y + height, x, x + width);
}

function scaled<T extends Bytes | Floats>(image: T, factor: number): T {
  const [width, height] = [Math.max(1, rint(image.width * factor)), Math.max(1, rint(image.height * factor))];
  return resize(image, width, height, factor < 1 ? "area" : "cubic");
}

interface Layer {
  hidden: number[][];
  hidden_bias: number[];
  output: number[];
  output_bias: number;
}

const WEIGHTS: Record<string, Layer> = weights;

/** What the network of one hidden layer with that name makes of its inputs. */
export function score(values: ArrayLike<number>, name: string): number {
  const layer = WEIGHTS[name];
  let result = layer.output_bias;
  layer.hidden_bias.forEach((bias, unit) => {
    let sum = bias;
    layer.hidden.forEach((row, input) => (sum += values[input] * row[unit]));
    if (sum > 0) result += sum * layer.output[unit];
  });
  return result;
}
