/** Port of `zoo/images/digits.py`: an image of one digit → MNIST's form. The reasons and sources are given there. */

import {
  above, BadInput, type Bytes, bytes, channel, clamp, count, crop, type Floats, histogram, inverse, largest, median, padded,
  type Rectangle, rint, SeveralDigits, smallest,
} from "./arrays";
import { type Blank, FADED, findInk, type Ink, INK_MAP_SIDE, withoutBars } from "./ink";
import { areEmptyCells, extraMarks, outlineSpace, paperLines } from "./marks";
import {
  blur, boundingBox, centreOfMass, type Component, connectedComponents, dilate, disc, distance, grown, middleLines, resize, square,
} from "./vision";
import { SOFT_EDGES, signsAgainstWriting } from "./writing";

export const DOUBT = "doubtful: ";
export const NO_WRITING = `${DOUBT}no writing, `;
export const SIDE = 28;
export const BOX = 20;
const CENTRE = 14;
const MAX_OFF_CENTRE = 0.52;
const WORK_SIZE = 80;
const MIN_DIGIT = 0.02;
const MIN_BLOCKS = 8;
const MIN_STROKE = 0.12;
const MAX_BREAK = 0.07;
const MIN_PART = 0.05;
const MIN_JOINED = 0.05;
const MAX_DISTANCE = 0.4;
const SAME_HEIGHT = 0.6;
const MAX_GAP = 0.08;
const MAX_ROW_GAP = 0.25;
const MAX_ASPECT = 2.3;
const MAX_DIGITS = 12;
const MAX_STROKES = 48;
const SOLID_QUANTILE = 0.6;
const MIN_STROKE_WIDTH = 0.11;
const SOFT_EDGE = 0.06;
const MIN_FAINT = 0.05;
const MAX_FAINT_ELSEWHERE = 0.5;
const MAX_WIDER = 1.5;
const MIN_ELONGATION = 4;
const VISIBLE = 60;
const MAX_LEFT_OUT = 0.2;
const NOISE_SIZE = 2;
const MAX_STROKE_LENGTH = 5;
const MAX_HOLES = 3;
const MIN_HOLE = 0.003;
const MIN_HOLE_PIXELS = 8;
const MAX_STROKE_WIDTH = 0.5;

export interface Prepared {
  image: Bytes;
  corrections: string[];
}

/** Bring an image with 1, 3 or 4 channels into MNIST's form. Throws BadInput, and SeveralDigits. */
export function toMnist(pixels: Bytes): Prepared {
  let exact = inMnistForm(pixels);
  if (exact) return exact;
  const corrections: string[] = [];
  const shrunk = onePixelPerBlock(pixels);
  if (shrunk) {
    pixels = shrunk;
    corrections.push(`reduced ${pixels.width}x${pixels.height} blocks to one pixel each`);
    exact = inMnistForm(pixels);
    if (exact) return { image: exact.image, corrections: [...corrections, ...exact.corrections] };
  }
  const inner = withoutBars(pixels);
  if (inner) {
    pixels = inner;
    corrections.push(`removed bars around ${pixels.width}x${pixels.height}`);
  }
  let ink = findInk(pixels);
  corrections.push(...ink.corrections);
  let strokes = findStrokes(ink);
  const size = (box: Rectangle) => Math.max(box[2], box[3]);
  if (size(strokes.box) < Math.max(MIN_DIGIT * Math.max(ink.amount.height, ink.amount.width), 3))
    throw new BadInput(
      `The image (${pixels.width}x${pixels.height}) seems blank, with only specks: ` +
        "draw a digit with more contrast, or crop closer to it.",
    );
  let { specks, leftOut } = strokes;
  if (ink.scale > 1 && size(strokes.box) < WORK_SIZE) {
    ink = findInk(cropAround(pixels, ink, strokes.box));
    strokes = findStrokes(ink);
    [specks, leftOut] = [Math.max(specks, strokes.specks), Math.max(leftOut, strokes.leftOut)];
  }
  const left = strokes.isLined ? strokes.count : 0;
  const signs = signsAgainstWriting(ink, strokes.digit, strokes.marks, strokes.box, strokes.solid, left);
  if (signs.nothing && signs.nothing !== SOFT_EDGES)
    throw new BadInput(
      `The image (${pixels.width}x${pixels.height}) seems blank, with ${signs.nothing}: ` +
        "draw a digit with more contrast, or crop closer to it.",
    );
  if (!signs.nothing) checkSingle(strokes.pieces, strokes.box);
  const [x, y, width, height] = strokes.box;
  corrections.push(...strokes.corrections);
  if (specks) corrections.push(`removed ${specks} speck${specks > 1 ? "s" : ""}`);
  if (height !== strokes.digit.height - 2 * ink.margin || width !== strokes.digit.width - 2 * ink.margin)
    corrections.push(`cropped to ${width * ink.scale}x${height * ink.scale}`);
  const [digit, stroke] = normalised(ink.amount, strokes);
  if (rint((MIN_STROKE_WIDTH - stroke) * WORK_SIZE) >= 1) corrections.push("thickened thin strokes");
  corrections.push("centred");
  if (!ink.sure) corrections.push(`${DOUBT}ink and paper may be swapped`);
  if (signs.nothing) corrections.push(`${NO_WRITING}${signs.nothing}`);
  corrections.push(...signs.doubts.map((doubt) => DOUBT + doubt));
  if (leftOut > MAX_LEFT_OUT) corrections.push(`${DOUBT}${rint(leftOut * 100)}% of the ink was left out`);
  if (stroke > MAX_STROKE_WIDTH || isTangled(crop(strokes.digit, y, y + height, x, x + width), strokes.count))
    corrections.push(`${DOUBT}the strokes do not look like a digit`);
  return { image: placed(digit), corrections };
}

function cropAround(pixels: Bytes, ink: Ink, box: Rectangle): Bytes {
  const [x, y, width, height] = [box[0] - ink.margin, box[1] - ink.margin, box[2], box[3]];
  const reach = Math.max(width, height);
  return crop(
    pixels,
    Math.max(0, y - reach) * ink.scale, Math.max(1, y + height + reach) * ink.scale,
    Math.max(0, x - reach) * ink.scale, Math.max(1, x + width + reach) * ink.scale,
  );
}

function inMnistForm(pixels: Bytes): Prepared | null {
  if (pixels.height !== SIDE || pixels.width !== SIDE) return null;
  const n = pixels.channels;
  for (let i = 0; i < pixels.data.length; i += n) {
    if (n === 4 && pixels.data[i + 3] < 255) return null;
    if (n > 1 && (pixels.data[i + 1] !== pixels.data[i] || pixels.data[i + 2] !== pixels.data[i])) return null;
  }
  const grey = { ...pixels, channels: 1, data: channel(pixels, 0).data.slice() };
  if (isMnistForm(grey)) return { image: grey, corrections: [] };
  const inverted = { ...grey, data: grey.data.map((value) => 255 - value) };
  return isMnistForm(inverted) ? { image: inverted, corrections: ["inverted: the ink was dark"] } : null;
}

/** One pixel of each block, for an image that was enlarged to blocks of equal pixels; null for other images. */
function onePixelPerBlock(pixels: Bytes): Bytes | null {
  const { width, height } = pixels;
  if (Math.max(width, height) > INK_MAP_SIDE || Math.min(width, height) < 3 * MIN_BLOCKS) return null;
  const green = channel(pixels, pixels.channels >> 1).data;
  const rows: number[] = [];
  for (let y = 1; y < height; y++) {
    const end = (y + 1) * width;
    let p = y * width;
    while (p < end && green[p] === green[p - width]) p++;
    if (p < end) rows.push(y);
    if (rows.length > Math.floor(height / 3)) return null;
  }
  if (rows.length < 3) return null;
  const columns: number[] = [];
  for (let x = 1; x < width; x++) {
    let p = x;
    while (p < green.length && green[p] === green[p - 1]) p += width;
    if (p < green.length) columns.push(x);
  }
  for (let down = MIN_BLOCKS; down <= Math.floor(height / 3); down++) {
    const across = rint(down * (width / height));
    if (!areBlockEdges(rows, height, down) || !areBlockEdges(columns, width, across)) continue;
    const n = pixels.channels;
    const result = bytes(down, across, n);
    for (let y = 0; y < down; y++)
      for (let x = 0; x < across; x++) {
        const sy = Math.floor(((2 * y + 1) * height) / (2 * down));
        const sx = Math.floor(((2 * x + 1) * width) / (2 * across));
        const source = (sy * width + sx) * n;
        result.data.set(pixels.data.subarray(source, source + n), (y * across + x) * n);
      }
    return result;
  }
  return null;
}

function areBlockEdges(changes: number[], side: number, blocks: number): boolean {
  return changes.every((change) => {
    const place = change * (blocks / side);
    return Math.abs(place - rint(place)) * side <= blocks * 1.001;
  });
}

export function isMnistForm(image: Bytes): boolean {
  const [x, y, width, height] = boundingBox(image);
  if (![BOX - 1, BOX].includes(Math.max(width, height)) || largest(image.data) < 254) return false;
  const [top, left] = corner(crop(image, y, y + height, x, x + width));
  return Math.abs(y - top) <= MAX_OFF_CENTRE && Math.abs(x - left) <= MAX_OFF_CENTRE;
}

/** Row and column of the top left corner that centre the digit's mass, as far as it fits. */
function corner(digit: Bytes): [number, number] {
  const [down, across] = centreOfMass(digit);
  return [clamp(CENTRE - down, 0, SIDE - digit.height), clamp(CENTRE - across, 0, SIDE - digit.width)];
}

/** The digit in a black image. */
export function placed(digit: Bytes): Bytes {
  const [top, left] = corner(digit).map(rint);
  const image = bytes(SIDE, SIDE);
  for (let y = 0; y < digit.height; y++)
    image.data.set(digit.data.subarray(y * digit.width, (y + 1) * digit.width), (top + y) * SIDE + left);
  return image;
}

interface Strokes {
  digit: Bytes;
  excluded: Bytes;
  box: Rectangle;
  pieces: Component[];
  count: number;
  solid: number;
  specks: number;
  leftOut: number;
  faded: boolean;
  marks: Bytes | null;
  isLined: boolean;
  space: Bytes | null;
  corrections: string[];
}

interface Pieces {
  labels: Int32Array;
  stats: Component[];
  onEdge: boolean[];
}

const sizeOf = (piece: Component) => Math.max(piece.width, piece.height);

function findStrokes(ink: Ink): Strokes {
  const found = strokesFrom(ink, ink.thresholds[0]);
  const { mask, lines, space, extra, corrections, main, labels, stats, onEdge } = found.onEdge[found.main] // then the low
    ? strokesFrom(ink, ink.thresholds[1]) // threshold may have joined the digit to lines on the paper
    : found;
  const sizes = stats.map(sizeOf);
  const mainBox = boxOf(stats[main]);
  let keep = stats.map(
    (piece, i) =>
      !extra[i] && sizes[i] >= MIN_STROKE * sizes[main] && (!onEdge[i] || onEdge[main]) &&
      (sizes[i] >= SAME_HEIGHT * sizes[main] || gap(piece, mainBox) <= MAX_DISTANCE * sizes[main]),
  );
  let digit = keep.every(Boolean) ? mask : chosen(mask, labels, keep);
  const whole = space || lines || extra.some(Boolean) ? null : withFaintEnds(ink, digit, boundingBox(digit));
  const dry = whole ? null : joinedStrokes(mask, labels, stats, keep, extra.map((is, i) => is || onEdge[i]));
  if (dry) {
    keep = dry.keep;
    digit = chosen(mask, labels, keep);
  }
  const solid = solidInk(ink.amount, digit, space);
  const digitBox = boundingBox(digit);
  let [out, all] = [0, 0];
  stats.forEach((piece, i) => {
    const around = !onEdge[i] && !extra[i] && gap(piece, digitBox) <= sizes[main];
    const weight = (sizes[i] <= NOISE_SIZE ? 0.5 : 1) * piece.area;
    if (!keep[i] && around) out += weight;
    if (keep[i] || around) all += weight;
  });
  digit = whole ?? digit;
  const excluded = bytes(mask.height, mask.width);
  for (let i = 0; i < excluded.data.length; i++)
    excluded.data[i] = (mask.data[i] || (lines && lines.data[i])) && !digit.data[i] ? 1 : 0;
  if (lines) corrections.push("removed lines of the paper");
  if (space) corrections.push("filled an outline");
  return {
    digit, excluded, box: whole ? boundingBox(whole) : digitBox, solid,
    pieces: dry?.strokes ?? stats.filter((_, i) => keep[i]), count: count(keep.map(Number)),
    specks: keep.filter((kept, i) => !kept && !extra[i]).length, leftOut: out / all, faded: whole !== null,
    marks: extra.some(Boolean) ? chosen(mask, labels, extra) : null, isLined: lines !== null, space, corrections,
  };
}

/** The strokes of a digit with those that a dry pen left beyond narrow gaps; null where the pen was not dry. */
function joinedStrokes(
  mask: Bytes, labels: Int32Array, stats: Component[], keep: boolean[], other: boolean[],
): { keep: boolean[]; strokes: Component[] } | null {
  const longest = largest(stats.map((piece, i) => (keep[i] ? sizeOf(piece) : 0)));
  const possible = stats.map((piece, i) => keep[i] || (!other[i] && sizeOf(piece) >= MIN_PART * longest));
  const area = (of: boolean[]) => stats.reduce((sum, piece, i) => sum + (of[i] ? piece.area : 0), 0);
  const least = (1 + MIN_JOINED) * area(keep);
  if (area(possible) < least || count(keep.map(Number)) > MAX_STROKES) return null;
  const ink = possible.every(Boolean) ? mask : chosen(mask, labels, possible);
  const halfGap = (of: boolean[]) => {
    const box = union(stats.filter((_, i) => of[i]));
    return rint((MAX_BREAK / 2) * Math.max(box.width, box.height));
  };
  let [whole, reach, before] = [keep, halfGap(keep), 0];
  let group: number[] = [];
  while (reach > before) {
    const groups = connectedComponents(grown(ink, reach)).labels;
    const numbers = new Int32Array(stats.length + 1);
    for (let i = 0; i < labels.length; i++) numbers[labels[i]] = groups[i];
    group = Array.from(numbers.subarray(1));
    const kept = new Set(group.filter((_, i) => keep[i]));
    whole = possible.map((is, i) => is && kept.has(group[i]));
    [reach, before] = [halfGap(whole), reach];
  }
  if (area(whole) < least) return null;
  const parts = new Map<number, Component[]>();
  stats.forEach((piece, i) => whole[i] && parts.set(group[i], [...(parts.get(group[i]) ?? []), piece]));
  return { keep: whole, strokes: [...parts.values()].map(union) };
}

/** The box around all pieces, and their area. */
function union(pieces: Component[]): Component {
  const [x, y] = [Math.min(...pieces.map((piece) => piece.x)), Math.min(...pieces.map((piece) => piece.y))];
  return {
    x, y,
    width: Math.max(...pieces.map((piece) => piece.x + piece.width)) - x,
    height: Math.max(...pieces.map((piece) => piece.y + piece.height)) - y,
    area: pieces.reduce((sum, piece) => sum + piece.area, 0),
  };
}

/** The pieces of ink from a threshold on, and which of them is the digit, or its longest stroke. */
function strokesFrom(ink: Ink, threshold: number) {
  const mask = atLeast(ink.amount, threshold);
  let pieces = piecesOf(mask);
  const lines = crosses(pieces.stats, mask, ink.blank) ? paperLines(mask, ink.blank) : null;
  if (lines) {
    for (let i = 0; i < mask.data.length; i++) if (lines.data[i]) mask.data[i] = 0;
    pieces = piecesOf(mask);
  }
  let main = mainPiece(pieces);
  if (!pieces.stats.length || areEmptyCells(mask, pieces.stats, main))
    throw new BadInput(
      `The image (${mask.width * ink.scale}x${mask.height * ink.scale}) seems blank, ` +
        "with only lines of the paper: draw a digit, or crop closer to it.",
    );
  const space = pieces.onEdge[main] ? null : outlineSpace(mask, boxOf(pieces.stats[main]));
  if (space) {
    for (let i = 0; i < mask.data.length; i++) mask.data[i] |= space.data[i];
    pieces = piecesOf(mask);
  }
  const { extra, corrections } = extraMarks(pieces.labels, mask, pieces.stats, ink.blank);
  if (lines) {
    const least = MIN_STROKE * Math.max(mask.width, mask.height); // what is left of lines at the border
    const cut = pieces.stats.map((piece) => touches(piece, mask, ink.margin + 2));
    if (pieces.stats.some((piece, i) => !cut[i] && sizeOf(piece) >= least)) cut.forEach((is, i) => (extra[i] ||= is));
  }
  main = mainPiece(pieces, extra);
  return { mask, lines, space, extra, corrections, main, ...pieces };
}

/** A mask of the pixels from a limit on. */
function atLeast(image: Floats, limit: number): Bytes {
  const mask = bytes(image.height, image.width);
  const [from, to, least] = [image.data, mask.data, Math.fround(limit)];
  for (let i = 0; i < to.length; i++) to[i] = from[i] >= least ? 1 : 0;
  return mask;
}

function piecesOf(mask: Bytes): Pieces {
  const { labels, stats } = connectedComponents(mask);
  return { labels, stats, onEdge: stats.map((piece) => touches(piece, mask)) };
}

/** The piece that is most likely the digit, or its longest stroke. */
function mainPiece({ stats, onEdge }: Pieces, extra?: boolean[]): number {
  const weights = stats.map((piece, i) => (extra?.[i] ? 0 : sizeOf(piece) * Math.sqrt(piece.area) * (onEdge[i] ? 0.3 : 1)));
  return weights.indexOf(largest(weights));
}

/** Whether a piece reaches from border to border. */
function crosses(stats: Component[], { width, height }: Bytes, [top, bottom, left, right]: Blank): boolean {
  return stats.some(
    (piece) =>
      (piece.x <= left + 2 && piece.x + piece.width >= width - right - 2) ||
      (piece.y <= top + 2 && piece.y + piece.height >= height - bottom - 2),
  );
}

function chosen(mask: Bytes, labels: Int32Array, keep: boolean[]): Bytes {
  const result = bytes(mask.height, mask.width);
  const kept = Uint8Array.from([0, ...keep.map(Number)]);
  for (let i = 0; i < labels.length; i++) result.data[i] = kept[labels[i]];
  return result;
}

/** The amount of ink that counts as solid. */
function solidInk(amount: Floats, digit: Bytes, space: Bytes | null): number {
  const amounts = new Float32Array(digit.data.length);
  let size = 0;
  for (let i = 0; i < amounts.length; i++) if (digit.data[i] && !(space && space.data[i])) amounts[size++] = amount.data[i];
  return smallest(amounts.subarray(0, size), Math.floor(SOLID_QUANTILE * size));
}

/** The digit with the fainter ends of its strokes; null where there are none. */
function withFaintEnds(ink: Ink, digit: Bytes, box: Rectangle): Bytes | null {
  const mask = above(ink.amount, Math.fround(ink.faintest));
  const near = grown(digit, rint(SOFT_EDGE * Math.max(box[2], box[3])) + 1); // with the soft edges of its strokes
  const countBeyond = (image: Bytes) => {
    let result = 0;
    for (let i = 0; i < image.data.length; i++) if (image.data[i] && !near.data[i]) result++;
    return result;
  };
  const least = MIN_FAINT * count(digit.data);
  if (countBeyond(mask) < least) return null;
  const { labels, stats } = connectedComponents(mask);
  const joined = stats.map(() => false);
  for (let i = 0; i < labels.length; i++) if (digit.data[i] && labels[i]) joined[labels[i] - 1] = true;
  const whole = chosen(mask, labels, joined);
  for (let i = 0; i < labels.length; i++) whole.data[i] |= digit.data[i];
  const ends = countBeyond(whole);
  const elsewhere = count(mask.data) - count(whole.data);
  if (ends < least || elsewhere > MAX_FAINT_ELSEWHERE * ends) return null;
  if (stats.some((piece, i) => joined[i] && touches(piece, mask))) return null;
  const added = bytes(mask.height, mask.width);
  for (let i = 0; i < added.data.length; i++) added.data[i] = near.data[i] ? 0 : whole.data[i];
  const width = 2 * largest(depth(added).data);
  if (width > MAX_WIDER * 2 * largest(depth(digit).data)) return null;
  return ink.margin && count(added.data) / width ** 2 < MIN_ELONGATION ? null : whole;
}

/** Distance from each pixel of a mask to its edge; one row and one column more than the mask on each side. */
function depth(mask: Bytes): Floats {
  return distance(padded(mask, 1));
}

/** Whether the strokes are longer, or enclose more holes, than those of any digit. */
function isTangled(digit: Bytes, pieces: number): boolean {
  const { width, height } = digit;
  const solid = padded(digit, 1);
  const { data } = solid;
  const stride = width + 2;
  let [outline, euler] = [0, 0];
  for (let y = 1; y < height + 2; y++)
    for (let x = 1, p = y * stride + 1; x < stride; x++, p++) {
      const here = data[p];
      const corner = data[p - stride - 1];
      if (here !== data[p - 1]) outline++;
      if (here !== data[p - stride]) outline++;
      const four = here + corner + data[p - 1] + data[p - stride];
      if (four === 1) euler++;
      else if (four === 3) euler--;
      else if (four === 2 && here === corner) euler -= 2;
    }
  if ((outline * Math.PI) / 8 > MAX_STROKE_LENGTH * Math.max(height, width)) return true;
  if (pieces - Math.floor(euler / 4) <= MAX_HOLES) return false;
  const areas = connectedComponents(inverse(solid), 4).stats.map((piece) => piece.area);
  const large = Math.max(MIN_HOLE * height * width, MIN_HOLE_PIXELS);
  const strokes = count(solid.data) >= large ? 1 : 0; // OpenCV's statistics include the background of its mask
  return areas.filter((area) => area >= large).length + strokes - 2 > MAX_HOLES;
}

/** Throws SeveralDigits where the strokes seem to be several digits. */
function checkSingle(pieces: Component[], box: Rectangle): void {
  const tooMany = (marks: number) =>
    new SeveralDigits(`The image has ${marks} separate marks, not a single digit: crop it to one digit.`);
  if (pieces.length > MAX_STROKES) throw tooMany(pieces.length);
  const boxes = pieces.map((p) => [p.x, p.y, p.x + p.width, p.y + p.height]);
  const size = largest(boxes.map(([x0, y0, x1, y1]) => Math.max(x1 - x0, y1 - y0)));
  boxes.sort((a, b) => a[0] - b[0] || a[1] - b[1] || a[2] - b[2] || a[3] - b[3]);
  let digits: number[][] = [];
  for (let part of boxes) {
    const first = part;
    const near = digits.filter((digit) => {
      const across = Math.max(digit[0], first[0]) - Math.min(digit[2], first[2]);
      const down = Math.max(digit[1], first[1]) - Math.min(digit[3], first[3]);
      return across <= MAX_GAP * size && down <= MAX_ROW_GAP * size;
    });
    for (const digit of near)
      part = [
        Math.min(part[0], digit[0]), Math.min(part[1], digit[1]), Math.max(part[2], digit[2]), Math.max(part[3], digit[3]),
      ];
    digits = [...digits.filter((digit) => !near.includes(digit)), part];
  }
  const tallest = largest(pieces.map((piece) => piece.height));
  const tall = digits.filter(([, y0, , y1]) => y1 - y0 >= SAME_HEIGHT * tallest).length;
  if (tall > MAX_DIGITS) throw tooMany(tall);
  if (tall > 1) throw new SeveralDigits(`The image seems to contain ${tall} digits: crop it to one digit.`);
  if (box[2] > MAX_ASPECT * box[3])
    throw new SeveralDigits(
      `The drawing is ${oneDecimal(box[2] / box[3])} times as wide as it is high, wider than any digit: ` +
        "crop it to one digit.",
    );
}

/** As Python formats it: a quarter or three quarters of a decimal is rounded to the even digit. */
function oneDecimal(value: number): string {
  return (Number.isInteger(4 * value) ? rint(10 * value) / 10 : value).toFixed(1);
}

function boxOf(piece: Component): Rectangle {
  return [piece.x, piece.y, piece.width, piece.height];
}

/** Pixels between a box and the box of a piece. */
function gap(piece: Component, [x, y, width, height]: Rectangle): number {
  const across = Math.max(piece.x - (x + width), x - (piece.x + piece.width));
  const down = Math.max(piece.y - (y + height), y - (piece.y + piece.height));
  return Math.max(across, down, 0);
}

/** Whether a piece reaches into the margin or touches the border. */
function touches(piece: Omit<Component, "area">, image: { width: number; height: number }, margin = 0): boolean {
  const [right, bottom] = [image.width - piece.x - piece.width, image.height - piece.y - piece.height];
  return Math.min(piece.x, piece.y, right, bottom) <= margin;
}

/** The digit scaled into 20x20, and the width of its original strokes as a share of its size. */
function normalised(amount: Floats, strokes: Strokes): [Bytes, number] {
  const [x, y, width, height] = strokes.box;
  const reach = rint(SOFT_EDGE * Math.max(width, height)) + 1;
  const cut = <T extends Bytes | Floats>(image: T) => crop(image, y - reach, y + height + reach, x - reach, x + width + reach);
  const ink = cut(amount);
  const excluded = cut(strokes.excluded).data;
  const space = strokes.space && cut(strokes.space).data;
  const solid = Math.fround(strokes.solid);
  for (let i = 0; i < ink.data.length; i++)
    ink.data[i] = excluded[i] ? 0 : space && space[i] ? 1 : clamp(ink.data[i] / solid, 0, 1);
  const grey = scaled(ink, WORK_SIZE / Math.max(width, height));
  for (let i = 0; i < grey.data.length; i++) grey.data[i] = clamp(grey.data[i], 0, 1);
  if (strokes.faded) {
    const window = rint(2 * MIN_STROKE_WIDTH * WORK_SIZE) + 1;
    const around = blur(dilate(grey, square(window)), window).data;
    for (let i = 0; i < grey.data.length; i++) grey.data[i] = Math.min(grey.data[i] / Math.max(around[i], FADED), 1);
  }
  const shape = cut(strokes.digit);
  for (let i = 0; i < shape.data.length; i++) shape.data[i] *= 255;
  const near = grown(above(resize(shape, grey.width, grey.height, "area"), 0), rint(SOFT_EDGE * WORK_SIZE)).data;
  const visible = bytes(grey.height, grey.width);
  for (let i = 0; i < near.length; i++) visible.data[i] = near[i] ? Math.fround(grey.data[i] * 255) : 0;
  let digit = fullRange(visible);
  const stroke = strokeWidth(digit);
  const growth = rint(MIN_STROKE_WIDTH * WORK_SIZE - stroke);
  if (growth >= 1) digit = dilate(padded(digit, (growth >> 1) + 1), disc(growth + 1));
  digit = cropped(digit);
  return [fullRange(scaled(digit, BOX / Math.max(digit.width, digit.height))), stroke / WORK_SIZE];
}

/** Scaled so that its largest value is 255. */
export function fullRange(digit: Bytes): Bytes {
  const factor = Math.fround(255 / Math.max(1, largest(digit.data)));
  return { ...digit, data: digit.data.map((value) => Math.min(255, rint(Math.fround(value * factor)))) };
}

function scaled<T extends Bytes | Floats>(digit: T, factor: number): T {
  const [width, height] = [Math.max(1, rint(digit.width * factor)), Math.max(1, rint(digit.height * factor))];
  return resize(digit, width, height, factor < 1 ? "area" : "cubic");
}

function cropped(digit: Bytes): Bytes {
  const [x, y, width, height] = boundingBox(above(digit, VISIBLE));
  return width ? crop(digit, y, y + height, x, x + width) : digit;
}

/** In pixels: twice the median distance to the edge along the middle lines of the strokes. */
export function strokeWidth(digit: Bytes): number {
  const middle = middleLines(depth(above(digit, 127)));
  return middle.length ? 2 * median(middle) : 0;
}
