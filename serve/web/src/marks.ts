/** Port of `zoo/images/marks.py`: rings, boxes, underlines, lines of the paper and outlines. The reasons are given there. */

import { type Bytes, bytes, clamp, count, crop, inverse, largest, mean, padded, type Rectangle, rint, smallest, transposed, variance } from "./arrays";
import type { Blank } from "./ink";
import {
  type Component, connectedComponents, distance, grown, middleLines, type Point, resize, resizeNearest, smallestRectangle,
} from "./vision";

const SECTORS = 36;
const MIN_SECTORS = 32;
const MIN_INNER = 0.4;
const MIN_AROUND = 0.8;
const MAX_BAND = 0.08;
const MAX_INSIDE = 0.03;
const LARGE = 0.12;
const MAX_LARGE = 24;
const MAX_THICK = 0.2;
const MAX_TILTED = 0.3;
const MIN_LENGTH = 0.4;
const [MIN_GAP, MAX_GAP] = [0.035, 0.6];
const MAX_LINE = 0.05;
const MAX_LINES = 24;
const MAX_SLOPE = 0.12;
const MIN_COVERED = 0.9;
const THINNER = 0.75;
const MIN_CLEAR = 0.06;
const MIN_REST = 0.04;
const MIN_CUT_REST = 0.25;
const [RULED, MIN_CUT_WIDTH] = [3, 0.1];
const [NARROW, MAX_THIN] = [0.7, 0.02];
const MAX_INK = 0.5;
const MIN_RECTANGLE = 0.85;
const MIN_CELLS = 3;
const MOST = 0.8;
const MAX_THICKER = 1.6;
const MIN_BOX_ASPECT = 0.8;
const SAME_BOX = 0.15;
const MAX_BOX_LINE = 0.06;
const MAX_EXTENT = 25; // pixels that are looked at above and below a line
const SIDE = 112;
const MIN_ELONGATION = 4;
const MIN_SPACE = 0.5;
const MAX_SPACE = 0.22;
const MAX_UNEVEN = 0.3;
const MIN_RINGED = 0.4;
const MAX_TAIL = 0.05;
const MAX_EDGE = 0.12;

type Box = [left: number, top: number, right: number, bottom: number];

const boxOf = (piece: Component): Box => [piece.x, piece.y, piece.x + piece.width, piece.y + piece.height];
const sizeOf = (piece: Component) => Math.max(piece.width, piece.height);

const bySize = (stats: Component[], pieces: number[]) => [...pieces].sort((a, b) => sizeOf(stats[b]) - sizeOf(stats[a]));

/**
 * Which pieces of ink are a ring or box around the digit, edges of its cell, or a line below it; and the corrections in
 * words. `labels` are 1 to P in the pieces of an image of that size.
 */
export function extraMarks(
  labels: Int32Array, { width, height }: { width: number; height: number }, stats: Component[], [top, bottom, left, right]: Blank,
): { extra: boolean[]; corrections: string[] } {
  const extra = stats.map(() => false);
  const longest = largest(stats.map(sizeOf));
  let large = [...stats.keys()].filter((piece) => sizeOf(stats[piece]) >= LARGE * longest);
  let corrections: string[] = [];
  if (large.length < 2 || large.length > MAX_LARGE) return { extra, corrections };
  const boxes = stats.map(boxOf);
  for (const piece of bySize(stats, large).slice(0, 3)) {
    const [x0, y0, x1, y1] = boxes[piece];
    const inside = within(boxes, piece, large);
    if (!inside.length || !isRing(labels, width, piece, boxes, inside, sizeOf(stats[piece]))) continue;
    const framed = frames(labels, width, stats);
    if (boxes.some(([left, top, right, bottom], other) => framed[other] && (left >= x1 || right <= x0 || top >= y1 || bottom <= y0)))
      return { extra: framed, corrections: ["removed rings or boxes around the digits"] }; // a form of several boxes
    boxes.forEach(([left, top, right, bottom], other) => {
      if (!(left >= x0 && top >= y0 && right <= x1 && bottom <= y1)) extra[other] = true;
    });
    extra[piece] = true;
    large = inside;
    corrections = ["removed a ring or box around the digit"];
  }
  const isCut = boxes.map(
    ([x0, y0, x1, y1]) => x0 <= left + 2 || y0 <= top + 2 || x1 >= width - right - 2 || y1 >= height - bottom - 2,
  );
  for (const piece of bySize(stats, large).slice(0, 3)) {
    const [x0, y0, x1, y1] = boxes[piece];
    const inside = large.filter((other) => {
      const [x, y] = [(boxes[other][0] + boxes[other][2]) / 2, (boxes[other][1] + boxes[other][3]) / 2];
      return x > x0 && y > y0 && x < x1 && y < y1 && !isCut[other];
    });
    if (!isCut[piece] || !inside.length || !isAlongBox(labels, width, piece, boxes, inside)) continue;
    extra[piece] = true;
    large = large.filter((other) => other !== piece);
    corrections.push("removed the edges of a cell");
  }
  const lines = large.filter((piece) => isLine(stats[piece]));
  const others = large.filter((piece) => !lines.includes(piece));
  if (lines.length && others.length) {
    const above = union(others.map((piece) => boxes[piece]));
    const below = lines.filter((piece) => isBelow(boxes[piece], above));
    for (const piece of below) extra[piece] = true;
    if (below.length) corrections.push("removed an underline");
  }
  return { extra, corrections };
}

/** Which pieces of ink surround others: rings, and the boxes of a form with its empty ones. */
export function frames(labels: Int32Array, width: number, stats: Component[]): boolean[] {
  const framed = stats.map(() => false);
  const boxes = stats.map(boxOf);
  const every = [...stats.keys()];
  const largestFirst = bySize(stats, every).slice(0, MAX_LARGE);
  for (const piece of largestFirst) {
    const size = sizeOf(stats[piece]);
    const shorter = Math.min(stats[piece].width, stats[piece].height);
    const inside = within(boxes, piece, every.filter((other) => sizeOf(stats[other]) >= LARGE * shorter));
    framed[piece] = inside.length > 0 && isRing(labels, width, piece, boxes, inside, size);
  }
  const boxesWithDigits = every.filter((piece) => framed[piece]).map((piece) => stats[piece]);
  const isClose = (value: number, other: number) => Math.abs(value - other) <= SAME_BOX * other;
  const isSame = (piece: Component) => (other: Component) =>
    isClose(piece.width, other.width) && isClose(piece.height, other.height) && isClose(piece.area, other.area);
  return stats.map((piece, i) => framed[i] || boxesWithDigits.some(isSame(piece)));
}

/** Those of the other pieces whose boxes lie inside the box of a piece. */
function within(boxes: Box[], piece: number, others: number[]): number[] {
  const [x0, y0, x1, y1] = boxes[piece];
  return others.filter((other) => {
    const [left, top, right, bottom] = boxes[other];
    return left > x0 && top > y0 && right < x1 && bottom < y1;
  });
}

function union(boxes: Box[]): Box {
  return [
    Math.min(...boxes.map((box) => box[0])), Math.min(...boxes.map((box) => box[1])),
    Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3])),
  ];
}

/** Whether a piece surrounds the pieces inside its box, in nearly all directions. */
function isRing(labels: Int32Array, width: number, piece: number, boxes: Box[], inside: number[], size: number): boolean {
  const [x0, y0, x1, y1] = union(inside.map((other) => boxes[other]));
  if (Math.max(x1 - x0, y1 - y0) < MIN_INNER * size) return false;
  const [left, top, right, bottom] = boxes[piece];
  const [centreX, centreY] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const covered = new Uint8Array(SECTORS + 1);
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++)
      if (labels[y * width + x] === piece + 1)
        covered[Math.floor((Math.atan2(y - centreY, x - centreX) / (2 * Math.PI) + 0.5) * SECTORS)] = 1;
  return count(covered.subarray(0, SECTORS)) >= MIN_SECTORS;
}

/** Whether a piece consists of thin lines along the sides of its box, which is as large as what is inside. */
function isAlongBox(labels: Int32Array, stride: number, piece: number, boxes: Box[], inside: number[]): boolean {
  const [x0, y0, x1, y1] = boxes[piece];
  const [left, top, right, bottom] = union(inside.map((other) => boxes[other]));
  const [width, height] = [x1 - x0, y1 - y0];
  if (width < MIN_AROUND * (right - left) || height < MIN_AROUND * (bottom - top)) return false;
  const band = Math.max(2, rint(MAX_BAND * Math.max(width, height)));
  let [area, middle] = [0, 0];
  for (let y = y0; y < y1; y++)
    for (let x = x0; x < x1; x++)
      if (labels[y * stride + x] === piece + 1) {
        area++;
        if (x >= x0 + band && x < x1 - band && y >= y0 + band && y < y1 - band) middle++;
      }
  return area <= 2 * MAX_LINE * Math.max(width, height) * (width + height) && middle <= MAX_INSIDE * area;
}

function isLine({ width, height, area }: Component): boolean {
  return height <= MAX_TILTED * width && area <= MAX_THICK * width * width;
}

function isBelow(line: Box, [x0, y0, x1, y1]: Box): boolean {
  const [height, length] = [y1 - y0, line[2] - line[0]];
  const overlap = Math.min(line[2], x1) - Math.max(line[0], x0);
  const gap = line[1] - y1;
  return (
    MIN_GAP * height <= gap && gap <= MAX_GAP * height && length >= MIN_LENGTH * Math.max(height, x1 - x0) &&
    overlap >= 0.5 * (x1 - x0) && height >= 0.3 * length
  );
}

/**
 * Ruled lines and edges of cells: a mask of lines from border to border, where they cross no stroke, or all ink where
 * there is nothing else. Null where there are none, or where they may belong to the digit.
 */
export function paperLines(mask: Bytes, [top, bottom, left, right]: Blank): Bytes | null {
  const image = crop(mask, top, mask.height - bottom, left, mask.width - right);
  const { width: columns, height: rows } = image;
  if (Math.min(rows, columns) < 16) return null;
  const [level, upright] = [image, transposed(image)].map((part) => {
    const marked = bytes(part.height, part.width);
    const lines = crossingLines(part);
    for (const line of lines) markLine(part, marked, line);
    return { marked, lines };
  });
  const thicknesses = [...level.lines, ...upright.lines].map((line) => line.thick);
  if (!thicknesses.length) return null;
  const lines = level.marked;
  const vertical = transposed(upright.marked);
  const rest = bytes(rows, columns);
  for (let i = 0; i < rest.data.length; i++) {
    lines.data[i] |= vertical.data[i];
    rest.data[i] = image.data[i] & (1 - lines.data[i]);
  }
  const { stats } = connectedComponents(rest);
  if (!isAnyDigit(stats, image, largest(thicknesses), thicknesses.length)) {
    const mayBeOne = !level.lines.length && upright.lines.length === 1 && columns < NARROW * rows;
    return mayBeOne && thicknesses[0] > MAX_THIN * rows ? null : { ...mask, data: mask.data.slice() };
  }
  if (thicknesses.length === 1) {
    const depths = distance(rest).data.filter((value) => value > 0);
    if (thicknesses[0] > THINNER * 2 * quantile(depths, 0.9)) return null;
  }
  const digit = stats.reduce((most, piece) => (piece.area > most.area ? piece : most));
  if (sizeOf(digit) < LARGE * Math.max(rows, columns)) return null;
  const clear = upright.lines.length ? 0 : Math.min(digit.x, columns - digit.x - digit.width) / columns;
  if (Math.max(clear, Math.min(digit.y, rows - digit.y - digit.height) / rows) < MIN_CLEAR) return null;
  return padded(lines, top, bottom, left, right);
}

/** Whether any piece is too large for what is left of that many lines, where one crosses another or fades. */
function isAnyDigit(stats: Component[], { width, height }: Bytes, thick: number, lines: number): boolean {
  const side = Math.max(width, height);
  return stats.some((piece) => {
    const [x0, y0, x1, y1] = boxOf(piece);
    if (x0 > 1 && y0 > 1 && x1 < width - 1 && y1 < height - 1) return sizeOf(piece) >= Math.max(MIN_REST * side, 4 * thick);
    if (lines < RULED) return sizeOf(piece) >= MIN_CUT_REST * side;
    return Math.min(piece.width, piece.height) >= Math.max(MIN_CUT_WIDTH * side, 4 * thick);
  });
}

/** As `numpy.quantile`: between the two nearest values, linear. Reorders the values. */
function quantile(values: Float32Array, share: number): number {
  const place = share * (values.length - 1);
  const [lower, upper] = [Math.floor(place), Math.ceil(place)].map((rank) => smallest(values, rank));
  return lower + (upper - lower) * (place - Math.floor(place));
}

interface Line {
  places: Int32Array;
  thick: number;
}

/** Lines from the left to the right border: the row of each column, and the thickness. */
function crossingLines(image: Bytes): Line[] {
  const { width, height, data } = image;
  const inset = Math.max(1, Math.floor(width / 100));
  const reach = Math.max(inset + 1, Math.floor(width / 20));
  const counts = new Int32Array(width);
  for (let y = 0, p = 0; y < height; y++) for (let x = 0; x < width; x++, p++) counts[x] += data[p];
  const emptiest = (columns: Int32Array) => inset + columns.indexOf(Math.min(...columns));
  const first = emptiest(counts.subarray(inset, reach)); // beside a line along the border, not on it
  const last = width - 1 - emptiest(counts.toReversed().subarray(inset, reach));
  const thickest = Math.max(3, MAX_LINE * Math.max(width, height));
  const [left, right] = [first, last].map((column) => middlesOfRuns(image, column, thickest));
  const lines: Line[] = [];
  if (!left.length || !right.length || Math.max(left.length, right.length) > MAX_LINES) return lines;
  for (const start of left)
    for (const end of right) {
      if (Math.abs(end - start) > MAX_SLOPE * width) continue;
      const places = new Int32Array(width);
      let covered = 0;
      for (let x = 0; x < width; x++) {
        const y = clamp(rint(start + ((end - start) * (x - first)) / (last - first)), 0, height - 1);
        places[x] = y;
        const p = y * width + x;
        if (data[p] || (y && data[p - width]) || (y < height - 1 && data[p + width])) covered++;
      }
      if (covered / width < MIN_COVERED) continue;
      const thick = medianThickness(image, places);
      const middle = mean(places);
      if (thick > 0 && thick <= thickest && thick * 1.5 < middle && middle < height - thick * 1.5)
        lines.push({ places, thick });
    }
  return lines;
}

/** The middle of each run of ink in a column that is not thicker than a line. */
function middlesOfRuns({ width, height, data }: Bytes, column: number, thickest: number): number[] {
  const middles: number[] = [];
  for (let y = 0; y < height; y++) {
    if (!data[y * width + column]) continue;
    const first = y;
    while (y + 1 < height && data[(y + 1) * width + column]) y++;
    if (y - first <= thickest) middles.push((first + y) / 2);
  }
  return middles;
}

/** How many pixels of ink lie above and below a pixel without a gap, itself included; at most 25 each. -1 for paper. */
function extent({ width, height, data }: Bytes, x: number, y: number): number {
  let up = 0;
  while (up < MAX_EXTENT && y - up >= 0 && data[(y - up) * width + x]) up++;
  let down = 0;
  while (down < MAX_EXTENT && y + down < height && data[(y + down) * width + x]) down++;
  return up + down - 1;
}

function medianThickness(image: Bytes, places: Int32Array): number {
  const thick = Float32Array.from(places, (y, x) => extent(image, x, y)).filter((value) => value > 0);
  return thick.length ? quantile(thick, 0.5) : 0;
}

/** Set the pixels of a line and of its gaps in `result`, except where a stroke crosses it. */
function markLine(image: Bytes, result: Bytes, { places, thick }: Line): void {
  const { width, height } = image;
  const reach = rint(thick) + 1;
  for (let x = 0; x < width; x++) {
    if (extent(image, x, places[x]) > 2 * thick + 1) continue;
    const end = Math.min(height - 1, places[x] + reach);
    for (let y = Math.max(0, places[x] - reach); y <= end; y++) result.data[y * width + x] = 1;
  }
}

/** Whether the ink is an empty table, squared paper, or empty boxes; `main` is most likely the digit. */
export function areEmptyCells(mask: Bytes, stats: Component[], main: number): boolean {
  if (!isEmptyCell(mask, stats[main])) return false;
  const least = LARGE * sizeOf(stats[main]);
  const others = stats.filter((piece, i) => i !== main && sizeOf(piece) >= least);
  return others.length <= MAX_LARGE && others.every((piece) => isLine(piece) || isEmptyCell(mask, piece));
}

/** Whether a piece encloses rectangles of paper and nothing else: several, or one that is no zero. */
function isEmptyCell(mask: Bytes, { x, y, width, height, area }: Component): boolean {
  const size = Math.max(width, height);
  if (area > MAX_INK * width * height) return false;
  const part = padded(crop(mask, y, y + height, x, x + width), 1);
  const paper = connectedComponents(inverse(part), 4);
  if (paper.stats.length < 2) return false; // nothing but the paper around the piece
  const isWhole = (piece: Component) => piece.width === width && piece.height === height;
  const ink = connectedComponents(part);
  if (ink.stats.some((piece) => !isWhole(piece) && sizeOf(piece) >= LARGE * size)) return false; // another piece inside
  const depths = distance(part);
  const usual = 2 * medianOf(middleLines(depths));
  const thick = 2 * largest(depths.data);
  if (thick > MAX_THICKER * usual + 2) return false; // the strokes of a digit on the lines
  const outside = paper.labels[0];
  const cells = paper.stats.flatMap((cell, i) => (i + 1 === outside ? [] : [{ ...cell, label: i + 1 }]));
  const isRectangle = (cell: (typeof cells)[0]) =>
    Math.min(cell.width, cell.height) + 2 > 1.5 * usual && // with the ink around it, as in Python
    rectangularity(contour(part, paper.labels.indexOf(cell.label, cell.y * part.width) - 1, 0)) >= MIN_RECTANGLE;
  const count = cells.filter(isRectangle).length;
  if (count < MOST * cells.length) return false;
  if (count >= MIN_CELLS) return true;
  if (width < MIN_BOX_ASPECT * height || thick > MAX_BOX_LINE * size) return false;
  const whole = ink.stats.findIndex(isWhole) + 1;
  return rectangularity(contour(part, ink.labels.indexOf(whole), 4)) >= MIN_RECTANGLE;
}

function medianOf(values: Float32Array): number {
  const upper = smallest(values, values.length >> 1);
  return values.length % 2 ? upper : Math.fround(smallest(values, (values.length >> 1) - 1) + upper) / 2;
}

/**
 * The pixels of ink along one border, in order, as OpenCV follows it (S. Suzuki, K. Abe: Topological structural analysis
 * of digitized binary images by border following, 1985). The first one is at `start`, an index of the mask; `paper` is the
 * direction of the paper beside it: 0 to the right of it, 4 to the left, 2 above. No ink is at the border of the mask.
 */
function contour({ width, data }: Bytes, start: number, paper: number): Point[] {
  const steps = [1, 1 - width, -width, -1 - width, -1, width - 1, width, width + 1];
  const point = (p: number): Point => [p % width, Math.floor(p / width)];
  let direction = paper;
  do direction = (direction + 7) % 8;
  while (!data[start + steps[direction]] && direction !== paper);
  if (direction === paper) return [point(start)];
  const second = start + steps[direction];
  const points: Point[] = [];
  for (let here = start; ; ) {
    do direction = (direction + 1) % 8;
    while (!data[here + steps[direction]]);
    points.push(point(here));
    const next = here + steps[direction];
    if (next === start && here === second) return points;
    here = next;
    direction = (direction + 4) % 8;
  }
}

/** The area of a polygon as a share of the smallest rectangle around it, of any angle. */
function rectangularity(points: Point[]): number {
  let area = 0;
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    area += x * nextY - nextX * y;
  });
  const [width, height] = smallestRectangle(points);
  return Math.abs(area) / 2 / Math.max(1, width * height);
}

/** The space inside the strokes of an outlined digit in a box: a mask; null for other digits. */
export function outlineSpace(mask: Bytes, [x, y, width, height]: Rectangle): Bytes | null {
  const inked = crop(mask, y, y + height, x, x + width);
  const part = bytes(height, width);
  for (let i = 0; i < part.data.length; i++) part.data[i] = 255 * inked.data[i];
  const factor = Math.min(1, SIDE / Math.max(width, height));
  const [columns, rows] = [Math.max(1, rint(width * factor)), Math.max(1, rint(height * factor))];
  const small = resize(part, columns, rows, "area");
  let ink = 0;
  for (let i = 0; i < small.data.length; i++)
    if (small.data[i]) {
      small.data[i] = 1;
      ink++;
    }
  const { labels, stats } = connectedComponents(inverse(padded(small, 1)), 4);
  const space = bytes(rows + 2, columns + 2);
  for (let label = 1; label <= stats.length; label++) {
    const { area } = stats[label - 1];
    if (label === labels[0] || area < MIN_SPACE * ink) continue;
    for (let i = 0; i < labels.length; i++) space.data[i] = labels[i] === label ? 1 : 0;
    const depth = distance(space);
    const inside = 2 * largest(depth.data);
    if (area < MIN_ELONGATION * inside ** 2 || inside > MAX_SPACE * Math.max(columns, rows)) continue;
    const middle = middleLines(depth);
    if (Math.sqrt(variance(middle)) > MAX_UNEVEN * mean(middle) || isRinged(inked)) continue;
    const wide = resizeNearest(crop(grown(space, 1), 1, rows + 1, 1, columns + 1), width, height);
    return padded(wide, y, mask.height - y - height, x, mask.width - x - width);
  }
  return null;
}

/** Whether a large piece inside a mask that is cropped to its ink is a digit, and no inner edge of an outline. */
function isRinged(mask: Bytes): boolean {
  const { labels, stats } = connectedComponents(mask);
  return stats.some(({ x, y, width, height, area }, index) => {
    const isInside = x > 0 && y > 0 && x + width < mask.width && y + height < mask.height;
    const size = Math.max(mask.width, mask.height);
    if (!isInside || Math.max(width, height) < MIN_RINGED * size) return false;
    const piece = bytes(mask.height, mask.width);
    for (let i = 0; i < labels.length; i++) piece.data[i] = labels[i] === index + 1 ? 1 : 0;
    const ink = padded(crop(piece, y, y + height, x, x + width), 1);
    const thick = 2 * largest(distance(ink).data);
    const paper = connectedComponents(inverse(ink), 4);
    const holes = paper.stats.map((hole, label) => (label + 1 === paper.labels[0] ? 0 : hole.area));
    if (holes.length < 2 || thick > MAX_EDGE * size) return true;
    const hole = bytes(ink.height, ink.width);
    const main = holes.indexOf(largest(holes)) + 1;
    for (let i = 0; i < hole.data.length; i++) hole.data[i] = paper.labels[i] === main ? 1 : 0;
    const along = grown(hole, Math.ceil(thick) + 1);
    let tail = 0;
    for (let i = 0; i < ink.data.length; i++) if (ink.data[i] && !along.data[i]) tail++;
    return tail > MAX_TAIL * area;
  });
}
