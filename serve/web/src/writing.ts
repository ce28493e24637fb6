/** Port of `zoo/images/writing.py`: is the ink that was found written? The reasons are given there. */

import { type Bytes, bytes, count, crop, type Floats, padded, type Rectangle, rint } from "./arrays";
import type { Ink } from "./ink";
import { grown } from "./vision";

const [NEAR, FAR] = [0.2, 0.45];
const [LEAST_NEAR, LEAST_FAR] = [1, 3];
const [NO_PAPER, MAYBE_PAPER] = [0.3, 0.2];
const MOST = 0.4;
const MAX_PRINTED = 0.04;
const MIN_RUN = 5;
const MIN_STRAIGHT = 0.85;
const MIN_ROOM = 0.31;
const MAX_ACROSS = 0.03;

/** What there is instead of writing, in words, or null; and doubts in words. */
export interface Signs {
  nothing: string | null;
  doubts: string[];
}

/** `marks` are those that were removed; `solid` is the amount of solid ink. */
export function signsAgainstWriting(ink: Ink, digit: Bytes, marks: Bytes | null, box: Rectangle, solid: number): Signs {
  const [x, y, width, height] = box;
  const part = crop(digit, y, y + height, x, x + width);
  const size = Math.max(width, height);
  const thick = thickness(part);
  const [top, bottom, left, right] = ink.blank;
  const rooms = [y - top, digit.height - bottom - y - height, x - left, digit.width - right - x - width];
  const [least, most] = [Math.min(...rooms), Math.max(...rooms)];
  if (least <= 1 && most > 1 && thick <= MAX_PRINTED * size && isAlongSides(part, thick))
    return { nothing: "only lines of the paper", doubts: [] };
  const other = shareBeside(ink.amount, digit, marks, box, thick, [NO_PAPER * solid, MAYBE_PAPER * solid]);
  if (other[0] > MOST) return { nothing: "only soft edges, as a shadow or a crease has", doubts: [] };
  const doubts: string[] = [];
  if (other[1] > MOST) doubts.push("the ink has soft edges, as a shadow or a crease of the paper has");
  if (least <= 0 && (ink.uneven || most > MIN_ROOM * size))
    doubts.push("the ink reaches the border, as an edge or a crease of the paper does");
  if (width > height && isStraight(part)) doubts.push("the stroke is more level than that of a one");
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

/** Whether the ink is one straight stroke. */
function isStraight({ width, height, data }: Bytes): boolean {
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
  return across + down - root <= MAX_ACROSS * (across + down + root);
}
