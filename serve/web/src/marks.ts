/** Port of `zoo/images/marks.py`: rings, boxes, underlines, lines of the paper and outlines. The reasons are given there. */

import { type Bytes, bytes, clamp, count, crop, inverse, largest, mean, padded, type Rectangle, rint, smallest, transposed, variance } from "./arrays";
import { type Component, connectedComponents, distance, grown, middleLines, resize, resizeNearest } from "./vision";

const SECTORS = 36;
const MIN_SECTORS = 32;
const MIN_INNER = 0.3;
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
const MAX_EXTENT = 25; // pixels that are looked at above and below a line
const SIDE = 112;
const MIN_ELONGATION = 4;
const MIN_SPACE = 0.5;
const MAX_SPACE = 0.22;
const MAX_UNEVEN = 0.3;

type Box = [left: number, top: number, right: number, bottom: number];

const boxOf = (piece: Component): Box => [piece.x, piece.y, piece.x + piece.width, piece.y + piece.height];
const sizeOf = (piece: Component) => Math.max(piece.width, piece.height);

/** Which pieces of ink are a ring or box around the digit, or a line below it; and the corrections in words. */
export function extraMarks(labels: Int32Array, width: number, stats: Component[]): { extra: boolean[]; corrections: string[] } {
  const extra = stats.map(() => false);
  const longest = largest(stats.map(sizeOf));
  let large = [...stats.keys()].filter((piece) => sizeOf(stats[piece]) >= LARGE * longest);
  let corrections: string[] = [];
  if (large.length < 2 || large.length > MAX_LARGE) return { extra, corrections };
  const boxes = stats.map(boxOf);
  for (const piece of [...large].sort((a, b) => sizeOf(stats[b]) - sizeOf(stats[a])).slice(0, 3)) {
    const [x0, y0, x1, y1] = boxes[piece];
    const inside = large.filter((other) => {
      const [left, top, right, bottom] = boxes[other];
      return left > x0 && top > y0 && right < x1 && bottom < y1;
    });
    if (!inside.length || !isRing(labels, width, piece, boxes, inside, sizeOf(stats[piece]))) continue;
    boxes.forEach(([left, top, right, bottom], other) => {
      if (!(left >= x0 && top >= y0 && right <= x1 && bottom <= y1)) extra[other] = true;
    });
    extra[piece] = true;
    large = inside;
    corrections = ["removed a ring or box around the digit"];
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
 * Ruled lines and edges of cells: a mask of lines from border to border, where they cross no stroke. Null where there
 * are none, or where they may belong to the digit. `margin` pixels of the mask's border are not part of the image.
 */
export function paperLines(mask: Bytes, margin: number): Bytes | null {
  const image = crop(mask, margin, mask.height - margin, margin, mask.width - margin);
  const { width: columns, height: rows } = image;
  if (Math.min(rows, columns) < 16) return null;
  const lines = [image, transposed(image)].map((part) => {
    const result = bytes(part.height, part.width);
    const crossing = crossingLines(part);
    for (const line of crossing) markLine(part, result, line);
    return { result, crossing };
  });
  const crossing = lines.flatMap((part) => part.crossing);
  if (!crossing.length) return null;
  const found = lines[0].result;
  const vertical = transposed(lines[1].result);
  for (let i = 0; i < found.data.length; i++) found.data[i] |= vertical.data[i];
  const rest = bytes(rows, columns);
  for (let i = 0; i < rest.data.length; i++) rest.data[i] = image.data[i] & (1 - found.data[i]);
  if (crossing.length === 1) {
    const depths = distance(rest).data.filter((value) => value > 0);
    if (!depths.length || crossing[0].thick > THINNER * 2 * quantile(depths, 0.9)) return null;
  }
  const { stats } = connectedComponents(rest);
  if (!stats.length) return null;
  const digit = stats.reduce((most, piece) => (piece.area > most.area ? piece : most));
  if (sizeOf(digit) < LARGE * Math.max(rows, columns)) return null;
  let crossed = 0;
  for (let y = 0; y < rows; y++) if (largest(found.data.subarray(y * columns, (y + 1) * columns))) crossed++;
  const clear = crossed < rows ? Math.min(digit.x, columns - digit.x - digit.width) / columns : 0;
  if (Math.max(clear, Math.min(digit.y, rows - digit.y - digit.height) / rows) < MIN_CLEAR) return null;
  return padded(found, margin);
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
  const thickest = Math.max(3, MAX_LINE * Math.max(width, height));
  const [left, right] = [inset, width - 1 - inset].map((column) => middlesOfRuns(image, column, thickest));
  const lines: Line[] = [];
  if (!left.length || !right.length || Math.max(left.length, right.length) > MAX_LINES) return lines;
  for (const start of left)
    for (const end of right) {
      if (Math.abs(end - start) > MAX_SLOPE * width) continue;
      const places = new Int32Array(width);
      let covered = 0;
      for (let x = 0; x < width; x++) {
        const y = clamp(rint(start + ((end - start) * (x - inset)) / (width - 1 - 2 * inset)), 0, height - 1);
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

/**
 * How many pixels of ink lie above and below a pixel without a gap, itself included; at most 25 each. Infinite where it
 * is paper: Python subtracts one from an unsigned zero there.
 */
function extent({ width, height, data }: Bytes, x: number, y: number): number {
  let up = 0;
  while (up < MAX_EXTENT && y - up >= 0 && data[(y - up) * width + x]) up++;
  let down = 0;
  while (down < MAX_EXTENT && y + down < height && data[(y + down) * width + x]) down++;
  return up ? up + down - 1 : Infinity;
}

function medianThickness(image: Bytes, places: Int32Array): number {
  const thick = Float32Array.from(places, (y, x) => extent(image, x, y)).filter((value) => value > 0);
  return thick.length ? quantile(thick, 0.5) : 0;
}

/** Set the pixels of a line in `result`, except where a stroke crosses it. */
function markLine(image: Bytes, result: Bytes, { places, thick }: Line): void {
  const { width, height } = image;
  const reach = rint(thick) + 1;
  for (let x = 0; x < width; x++) {
    if (extent(image, x, places[x]) > 2 * thick + 1) continue;
    const end = Math.min(height - 1, places[x] + reach);
    for (let y = Math.max(0, places[x] - reach); y <= end; y++) result.data[y * width + x] = 1;
  }
}

/** The space inside the strokes of an outlined digit in a box: a mask; null for other digits. */
export function outlineSpace(mask: Bytes, [x, y, width, height]: Rectangle): Bytes | null {
  const part = crop(mask, y, y + height, x, x + width);
  for (let i = 0; i < part.data.length; i++) part.data[i] *= 255;
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
    if (Math.sqrt(variance(middle)) > MAX_UNEVEN * mean(middle)) continue;
    const wide = resizeNearest(crop(grown(space, 1), 1, rows + 1, 1, columns + 1), width, height);
    return padded(wide, y, mask.height - y - height, x, mask.width - x - width);
  }
  return null;
}
