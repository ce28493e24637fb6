/** Port of `zoo/images/writing.py`: is the ink that was found written? The reasons are given there. */

import { type Bytes, bytes, clamp, count, crop, type Floats, largest, median, padded, type Rectangle, rint } from "./arrays";
import type { Blank, Ink } from "./ink";
import { connectedComponents, grown } from "./vision";

const [NEAR, FAR] = [0.2, 0.45];
const [LEAST_NEAR, LEAST_FAR] = [1, 3];
const [NO_PAPER, MAYBE_PAPER] = [0.3, 0.2];
const MOST = 0.4;
const MAX_PRINTED = 0.04;
const MIN_RUN = 5;
const MIN_STRAIGHT = 0.85;
const MIN_JOINTS = 6;
const NET_LENGTH = 5;
const MIN_ROOM = 0.31;
const MAX_LENGTH = 1.3;
const MAX_ACROSS = 0.03;
const LEAST_WAY = 20;
const ASIDE = 3;
const MIN_FAINT = 0.12;

export const SOFT_EDGES = "only soft edges, as a shadow or a crease has";

type Pair = [number, number];

/** What there is instead of writing, in words, or null; and doubts in words. */
export interface Signs {
  nothing: string | null;
  doubts: string[];
}

/** `marks` are those that were removed; `solid` is the amount of solid ink. */
export function signsAgainstWriting(
  ink: Ink, digit: Bytes, marks: Bytes | null, box: Rectangle, solid: number, besideLines: number,
): Signs {
  const [x, y, width, height] = box;
  const part = crop(digit, y, y + height, x, x + width);
  const size = Math.max(width, height);
  const thick = thickness(part);
  const [top, bottom, left, right] = ink.blank;
  const rooms = [y - top, digit.height - bottom - y - height, x - left, digit.width - right - x - width];
  const [least, most] = [Math.min(...rooms), Math.max(...rooms)];
  const straight = count(part.data) <= MAX_LENGTH * thick * Math.hypot(width, height) ? axisOf(part, box) : null;
  const hasRoom = most > MIN_ROOM * size;
  const isCut = least <= 1 && most > 1 && (!straight || hasRoom);
  const isPrinted = (isCut || besideLines >= MIN_JOINTS) && thick <= MAX_PRINTED * size;
  if ((isPrinted || isNet(part, thick)) && isAlongSides(part, thick)) return { nothing: "only lines of the paper", doubts: [] };
  if (straight && goesOn(ink.amount, straight, thick, solid, ink.blank))
    return { nothing: "only a line of the paper", doubts: [] };
  const other = shareBeside(ink.amount, digit, marks, box, thick, [NO_PAPER * solid, MAYBE_PAPER * solid]);
  if (other[0] > MOST) return { nothing: SOFT_EDGES, doubts: [] };
  const doubts: string[] = [];
  if (other[1] > MOST) doubts.push("the ink has soft edges, as a shadow or a crease of the paper has");
  if (least <= 0 && (ink.uneven || hasRoom))
    doubts.push("the ink reaches the border, as an edge or a crease of the paper does");
  if (width > height && straight) doubts.push("the stroke is more level than that of a one");
  return { nothing: null, doubts };
}

/** Mean thickness in pixels. */
function thickness(part: Bytes): number {
  const { width, height, data } = padded(part, 1);
  let steps = 0;
  for (let y = 1, p = width; y < height; y++)
    for (let x = 0; x < width; x++, p++) {
      if (data[p] !== data[p - width]) steps++;
      if (x && data[p] !== data[p - 1]) steps++;
    }
  return count(part.data) / ((steps * Math.PI) / 8);
}

/** The share of what lies beside the strokes that differs from the paper by more than each limit. */
function shareBeside(
  amount: Floats, digit: Bytes, marks: Bytes | null, [x, y, width, height]: Rectangle, thick: number, limits: number[],
): number[] {
  const [near, far] = [Math.max(LEAST_NEAR, rint(NEAR * thick)), Math.max(LEAST_FAR, rint(FAR * thick))];
  const around = <T extends Bytes | Floats>(image: T) =>
    crop(image, Math.max(0, y - far), y + height + far, Math.max(0, x - far), x + width + far);
  const part = around(digit);
  const [inside, outside, values] = [grown(part, near).data, grown(part, far).data, around(amount).data];
  const marked = marks && grown(around(marks), near).data;
  const least = limits.map(Math.fround);
  const counts = limits.map(() => 0);
  let size = 0;
  for (let p = 0; p < values.length; p++) {
    if (!outside[p] || inside[p] || (marked && marked[p])) continue;
    size++;
    for (let i = 0; i < least.length; i++) if (Math.abs(values[p]) > least[i]) counts[i]++;
  }
  return counts.map((differing) => differing / Math.max(1, size));
}

/** Whether nearly all ink is one piece whose lines are longer than a digit's. */
function isNet(part: Bytes, thick: number): boolean {
  const area = count(part.data);
  if (area <= NET_LENGTH * Math.max(part.width, part.height) * thick) return false;
  return largest(connectedComponents(part).stats.map((piece) => piece.area)) >= MIN_STRAIGHT * area;
}

/** Whether nearly all ink is in straight lines that are about level or upright. */
function isAlongSides(part: Bytes, thick: number): boolean {
  const run = Math.max(3, rint(MIN_RUN * thick));
  const { width, height, data } = part;
  const straight = bytes(height, width);
  const mark = (lines: number, length: number, nextLine: number, next: number) => {
    for (let line = 0; line < lines; line++)
      for (let i = 0; i < length; i++) {
        const first = i;
        while (i < length && data[line * nextLine + i * next]) i++;
        if (i - first >= run) for (let k = first; k < i; k++) straight.data[line * nextLine + k * next] = 1;
      }
  };
  mark(height, width, width, 1);
  mark(width, height, 1, width);
  return count(straight.data) >= MIN_STRAIGHT * count(data);
}

/** A straight line through the ink: its centre and direction (x, y), and where the ink ends along it. */
interface Axis {
  centre: Pair;
  direction: Pair;
  ends: Pair;
}

/** The axis of ink that is one straight stroke, whole or broken; null for other ink. */
function axisOf({ width, height, data }: Bytes, box: Rectangle): Axis | null {
  let [n, sx, sy, sxx, syy, sxy] = [0, 0, 0, 0, 0, 0];
  for (let y = 0, p = 0; y < height; y++)
    for (let x = 0; x < width; x++, p++) {
      if (!data[p]) continue;
      n++;
      sx += x;
      sy += y;
      sxx += x * x;
      syy += y * y;
      sxy += x * y;
    }
  const [across, down, mixed] = [n * sxx - sx * sx, n * syy - sy * sy, n * sxy - sx * sy];
  const root = Math.sqrt((across - down) ** 2 + 4 * mixed ** 2);
  if (across + down - root > MAX_ACROSS * (across + down + root)) return null;
  let [dx, dy] = across > down ? [across - down + root, 2 * mixed] : [2 * mixed, down - across + root];
  const length = Math.hypot(dx, dy);
  if (!length) return null;
  [dx, dy] = [dx / length, dy / length];
  const centre: Pair = [sx / n, sy / n];
  const ends: Pair = [Infinity, -Infinity];
  for (let y = 0, p = 0; y < height; y++)
    for (let x = 0; x < width; x++, p++) {
      if (!data[p]) continue;
      const along = (x - centre[0]) * dx + (y - centre[1]) * dy;
      ends[0] = Math.min(ends[0], along);
      ends[1] = Math.max(ends[1], along);
    }
  return { centre: [centre[0] + box[0], centre[1] + box[1]], direction: [dx, dy], ends };
}

/** Whether fainter ink goes on from an end of a straight stroke to the border. */
function goesOn({ width, height, data }: Floats, axis: Axis, thick: number, solid: number, blank: Blank): boolean {
  const [[x, y], [dx, dy]] = [axis.centre, axis.direction];
  const [top, bottom, left, right] = blank;
  const [x0, y0, x1, y1] = [left + 1, top + 1, width - right - 2, height - bottom - 2];
  const aside = rint(thick) + ASIDE;
  for (const [side, end] of [[-1, axis.ends[0]], [1, axis.ends[1]]]) {
    const first = rint(thick) + 3;
    let size = 0;
    for (; first + size < 2 * Math.max(width, height); size++) {
      const step = (first + size) * side + end;
      const [px, py] = [x + step * dx, y + step * dy];
      if (px < x0 || px > x1 || py < y0 || py > y1) break;
    }
    if (size < LEAST_WAY) continue;
    const levels = [0, aside, -aside].map((offset) => {
      const band = new Float32Array(size);
      for (let i = 0; i < size; i++) {
        const step = (first + i) * side + end;
        const [px, py] = [x + step * dx, y + step * dy];
        const at = (shift: number) =>
          data[clamp(rint(py + shift * dx), y0, y1) * width + clamp(rint(px - shift * dy), x0, x1)];
        band[i] = Math.fround(at(offset - 1) + at(offset)) + at(offset + 1);
      }
      return median(band) / 3;
    });
    if (levels[0] - Math.max(levels[1], levels[2]) > MIN_FAINT * solid) return true;
  }
  return false;
}
