/** What the page and the Web Worker send each other. */

import type { Bytes } from "./arrays";
import type { Fit, Input } from "./photos";

/** What `zoo export` writes into `models.json` for each model. */
export interface Card {
  name: string;
  dataset: string | null;
  labels: string[];
  input: Input;
  accuracy: { correct: number; images: number } | null;
  bytes: number;
  unsure_below: number;
  calibrated: boolean; // whether `unsure_below` comes from a calibration run
  known_from: number | null;
  file: string;
}

/** One digit of a number: its place in pixels of the image. */
export interface Digit {
  label: string;
  probability: number;
  box: [x0: number, y0: number, x1: number, y1: number];
}

/** The answer for one image. */
export interface Prediction {
  label: string;
  probability: number;
  known: boolean | null; // whether the image shows one of the classes; null if the model cannot tell
  unsure: boolean;
  probabilities: Float32Array | null; // of each label; null for a number
  digits: Digit[]; // of a number; empty for one digit
  image: Bytes | null; // the network's input; null for a number
  corrections: string[];
  times: { correction: number; network: number }; // milliseconds
}

export interface Request {
  id: number;
  card: Card;
  fit: Fit;
  source: Bytes;
}

export interface Reply {
  id: number;
  prediction?: Prediction;
  error?: string; // for the user
  loaded: number; // bytes that the worker has loaded so far over the network
}
