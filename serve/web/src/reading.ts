/** Port of `zoo/reading.py`: a line's candidates and the network's answers → its digits. The reasons are given there. */

import { type Bytes, largest } from "./arrays";
import { DOUBT, NO_WRITING, type Prepared, SIDE } from "./digits";
import type { Answer } from "./network";
import {
  type Box, type Candidate, FEATURES, findNumber, findNumberReduced, isLikelyNumber, type Line, mayBeNumber, quantile, score,
} from "./numbers";

const DIGITS = [..."0123456789"];
const UNSURE_BELOW = 0.8;
const SURE = 0.9;
const CHUNK = 16;
const GAP = " ";
const BLOCK = 4;
const BLOCKS = SIDE / BLOCK;
const MAX_PIECES = 3;
const LEAST = 1e-4;
const WIDE_GAP = 1.0;
const UNUSUAL_GAP = 2.5;
const ALTERNATIVES = 10;
const WORST_SCORE = -12.0;
const MAX_DIGITS = 40;
const TOP_K = 3;

/** A text and its probability. */
export type Text = [text: string, probability: number];

/** One digit of a number; `box` is in pixels of the image. */
export interface Digit {
  label: string;
  probability: number;
  box: Box;
}

/** The number in an image. */
export interface Reading {
  /** All lines, from top to bottom. Gaps, and ends of lines, are spaces. */
  text: string;
  probability: number;
  unsure: boolean;
  /** Whether the ink is digits; null for a model that does not tell. */
  known: boolean | null;
  /** Line by line from left to right; empty unless there are several. */
  digits: Digit[];
  /** The most probable texts, best first. */
  alternatives: Text[];
  corrections: string[];
}

/** What of a model's card decides how it reads numbers. */
export interface NumberCard {
  labels: string[];
  input: { form: string };
  unsure_below: number;
  known_from: number | null;
}

export type Run = (images: Bytes[]) => Promise<Answer[]>;

export function readsNumbers(card: NumberCard): boolean {
  return card.input.form === "digit" && card.labels.join() === DIGITS.join();
}

/** Whether an image that was corrected as a single digit, with that answer, may be a number: see `readNumber`. */
export function mayBeRead(card: NumberCard, { image, corrections }: Prepared, answer: Answer): boolean {
  if (!readsNumbers(card) || !corrections.length || !mayBeNumber(image)) return false;
  if (corrections.some((correction) => correction.startsWith(NO_WRITING))) return false;
  if (corrections.some((correction) => correction.startsWith(DOUBT))) return true;
  if (!(largest(answer.probabilities) >= SURE)) return true;
  return answer.known === null ? isLikelyNumber(image) : !(answer.known >= SURE);
}

/**
 * Read the number in an image; null where there is none. Throws BadInput for a blank image.
 *
 * `run` classifies up to 16 images in MNIST's form. With `single`, the answer for the image as a single digit, the result
 * is also null unless several digits are more certain than that.
 */
export async function readNumber(source: Bytes, card: NumberCard, run: Run, single?: Answer): Promise<Reading | null> {
  if (!readsNumbers(card)) return null;
  const number = single ? findNumberReduced(source) : findNumber(source);
  if (!number) return null;
  const images = number.lines.flatMap((line) => line.candidates.map((candidate) => candidate.pixels));
  const answers: Answer[] = [];
  for (let start = 0; start < images.length; start += CHUNK) answers.push(...(await run(images.slice(start, start + CHUNK))));
  const lines = readLines(number.lines, answers);
  if (single ? !isSurer(lines, certainty(single)) : !lines.length) return null;
  return joined(lines, card, number.corrections);
}

/** How certain it is that an image shows its most probable digit: the network's probability is that of a digit. */
function certainty({ probabilities, known }: Answer): number {
  return (known ?? 1) * largest(probabilities);
}

/** Whether several digits in one line are more certain than one digit of that certainty. */
function isSurer(lines: LineReading[], single: number): boolean {
  if (lines.length !== 1 || lines[0].digits.length < 2) return false;
  return lines[0].probability >= SURE || lines[0].probability > single;
}

function joined(lines: LineReading[], card: NumberCard, corrections: string[]): Reading {
  const alternatives = mostProbable(lines.map((line) => line.alternatives), Math.min(TOP_K, card.labels.length), GAP);
  const [text, probability] = alternatives[0];
  const digits = lines.flatMap((line) => line.digits);
  const several = digits.length > 1;
  let note = several ? `found ${digits.length} digits` : "found one digit in several strokes";
  if (lines.length > 1) note += ` in ${lines.length} lines`;
  const known = lines.flatMap((line) => line.known ?? []);
  return {
    text, probability, alternatives,
    unsure: !(probability >= Math.max(card.unsure_below, UNSURE_BELOW)),
    known: known.length ? known.every((value) => value >= (card.known_from ?? 0)) : null,
    digits: several ? digits : [],
    corrections: [...corrections, note],
  };
}

/** One line of digits. `alternatives` are the most probable texts with the boxes of `digits`, best first. */
export interface LineReading {
  text: string;
  probability: number;
  digits: Digit[];
  alternatives: Text[];
  known: number | null;
}

/** A reading for each line that is a number, in the same order. `answers` are those of all candidates, joined. */
export function readLines(lines: Line[], answers: Answer[]): LineReading[] {
  const readings: LineReading[] = [];
  let start = 0;
  for (const line of lines) {
    const reading = readLine(line, answers.slice(start, (start += line.candidates.length)));
    if (reading) readings.push(reading);
  }
  return readings;
}

function readLine(line: Line, answers: Answer[]): LineReading | null {
  const scores = line.candidates.map((candidate, i) => candidateScore(candidate, answers[i]));
  const path = bestPath(line, scores);
  if (!path.length || path.length > MAX_DIGITS || path.some((index) => scores[index] < WORST_SCORE)) return null;
  const boxes = path.map((index) => line.candidates[index].box);
  const highest = path.map((index) => largest(answers[index].probabilities));
  const best = path.map((index, place) => answers[index].probabilities.indexOf(highest[place]));
  const shares = textProbabilities(line, scores, answers, best);
  const digits = best.map((label, place): Digit => ({ label: DIGITS[label], probability: shares[place], box: boxes[place] }));
  const slots = path.map((index, place): Text[] => {
    const gap = place && isGap(line, boxes, place) ? GAP : "";
    return DIGITS.map((label, i): Text => [
      gap + label, (answers[index].probabilities[i] / highest[place]) * shares[place],
    ]);
  });
  const alternatives = mostProbable(slots, ALTERNATIVES);
  const known = path.flatMap((index) => answers[index].known ?? []);
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  return {
    text: alternatives[0][0], probability: alternatives[0][1], digits, alternatives,
    known: known.length ? Math.min(mean, 10 * Math.min(...known)) : null,
  };
}

/** For each label of a text, its probability given the labels before it; all ways that read the text count. */
function textProbabilities(line: Line, scores: number[], answers: Answer[], labels: number[]): number[] {
  const rest = logSums(line, scores);
  let sums = new Array<number>(line.cuts).fill(-Infinity);
  sums[0] = 0;
  let before = rest[0];
  return labels.map((label, step) => {
    const after = new Array<number>(line.cuts).fill(-Infinity);
    line.candidates.forEach(({ first, last }, i) => {
      const share = Math.log(Math.max(answers[i].probabilities[label], LEAST));
      after[last] = logAdd(after[last], sums[first] + scores[i] + share);
    });
    sums = after;
    const isLast = step === labels.length - 1;
    const total = isLast ? sums[line.cuts - 1] : sums.reduce((sum, value, cut) => logAdd(sum, value + rest[cut]), -Infinity);
    const probability = Math.exp(Math.min(total - before, 0));
    before = total;
    return probability;
  });
}

/** Whether a mark or an unusual distance is between a digit and the one before it. */
function isGap(line: Line, boxes: Box[], index: number): boolean {
  const [end, start] = [boxes[index - 1][2], boxes[index][0]];
  const reach = 0.15 * line.height;
  if (line.marks.some((mark) => end - reach <= mark && mark <= start + reach)) return true;
  const gaps = boxes.slice(1).map((box, i) => box[0] - boxes[i][2]);
  const usual = Math.max(quantile(gaps, 0.5), 0.1 * line.height);
  return gaps.length > 2 && start - end > Math.max(WIDE_GAP * line.height, UNUSUAL_GAP * usual);
}

/** The `count` most probable texts that take one part from each slot, best first; of equal ones the first. */
function mostProbable(slots: Text[][], count: number, separator = ""): Text[] {
  let best: Text[] = [];
  for (const slot of slots) {
    const texts = best.length
      ? best.flatMap(([text, p]) => slot.map(([part, q]): Text => [`${text}${separator}${part}`, p * q]))
      : [...slot];
    best = texts.sort((a, b) => b[1] - a[1]).slice(0, count);
  }
  return best;
}

/** About the log odds that a candidate is one whole digit. */
function candidateScore({ features, pixels }: Candidate, { probabilities, known }: Answer): number {
  const geometry = [...features];
  geometry[FEATURES - 1] = Math.min(geometry[FEATURES - 1], MAX_PIECES);
  const bounded = known === null ? 0.5 : Math.min(Math.max(known, LEAST), 1 - LEAST);
  const logOdds = Math.log(bounded / (1 - bounded)) / 4;
  const confidence = Math.log(Math.max(largest(probabilities), LEAST));
  const inputs = [...geometry, logOdds, confidence, ...probabilities, ...blocksOf(pixels)];
  return score(inputs, known === null ? "plain" : "known");
}

/** The means of blocks of an image in MNIST's form, 0 to 1. */
function blocksOf({ data }: Bytes): number[] {
  const sums = new Array<number>(BLOCKS ** 2).fill(0);
  for (let i = 0; i < data.length; i++) {
    const [row, column] = [Math.floor(i / SIDE / BLOCK), Math.floor((i % SIDE) / BLOCK)];
    sums[row * BLOCKS + column] += data[i];
  }
  return sums.map((sum) => sum / BLOCK ** 2 / 255);
}

/** The candidates, from left to right, of the way from cut 0 to the last cut with the highest sum; [] for none. */
function bestPath({ cuts, candidates }: Line, scores: number[]): number[] {
  const best = new Array<number>(cuts).fill(-Infinity);
  const origin = new Array<number>(cuts).fill(-1);
  best[0] = 0;
  const order = [...candidates.keys()].sort((a, b) => candidates[a].last - candidates[b].last);
  for (const index of order) {
    const { first, last } = candidates[index];
    const total = best[first] + scores[index];
    if (total > best[last]) [best[last], origin[last]] = [total, index];
  }
  const path: number[] = [];
  let cut = cuts - 1;
  while (cut > 0 && origin[cut] >= 0) {
    path.push(origin[cut]);
    cut = candidates[origin[cut]].first;
  }
  return cut === 0 ? path.reverse() : [];
}

/** For each cut, the logarithm of the sum over all ways from it to the last cut of exp(sum of scores). */
function logSums({ cuts, candidates }: Line, scores: number[]): number[] {
  const sums = new Array<number>(cuts).fill(-Infinity);
  sums[cuts - 1] = 0;
  const order = [...candidates.keys()].sort((a, b) => candidates[b].first - candidates[a].first);
  for (const index of order) {
    const { first, last } = candidates[index];
    sums[first] = logAdd(sums[first], scores[index] + sums[last]);
  }
  return sums;
}

/** log(exp(a) + exp(b)) */
function logAdd(a: number, b: number): number {
  const [low, high] = a < b ? [a, b] : [b, a];
  return low === -Infinity ? high : high + Math.log1p(Math.exp(low - high));
}
