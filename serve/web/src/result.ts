/**
 * The answer for one image: label, probabilities to scale, what the network sees, and what was changed in the image.
 * Words and looks are those of `serve/demo/result.py`.
 */

import type { Bytes } from "./arrays";
import { DOUBT } from "./digits";
import type { Card, Prediction } from "./protocol";

const [MAX_COLUMNS, COLUMN_LETTERS] = [12, 2]; // so many labels of so few letters become columns in a fixed order
const MAX_BARS = 5; // of other labels, most probable first
const SMALLEST_BAR = 0.005; // probabilities below this have no bar, because it would read 0 %
const PREVIEW_PIXELS = 224; // longest side of the copy of the image
const COLOURFUL = 25; // mean difference of the channels, of 255, above which an image is a colour photograph

function element(tag: string, css: string, ...content: (Node | string)[]): HTMLElement {
  const result = document.createElement(tag);
  if (css) result.className = css;
  result.append(...content);
  return result;
}

/** A share in percent. One below 1 is never rounded to 100 %, one above 0 never to 0 %. */
export function percent(share: number, decimals = 1): string {
  const step = 10 ** -decimals; // in percent
  if (100 * share >= 100 - step / 2) return `>${(100 - step).toFixed(decimals)} %`;
  return 100 * share < step / 2 ? `<${step.toFixed(decimals)} %` : `${(100 * share).toFixed(decimals)} %`;
}

export function hint(message: string): HTMLElement {
  return element("p", "empty", message);
}

export function failure(message: string): HTMLElement[] {
  return [headline("?", "No answer", message)];
}

/** The parts of an answer. @param source: the image as it came. */
export function answer(prediction: Prediction, card: Card, source: HTMLCanvasElement): HTMLElement[] {
  const { digits, probabilities, image, corrections, times } = prediction;
  const parts = [headline(...verdict(prediction, card))];
  if (digits.length) {
    const cells = digits.map(({ label, probability }) =>
      element("li", "", element("b", "", label), element("span", "", percent(probability))));
    parts.push(labelled(element("ol", "digits", ...cells), "Each digit and its probability"));
  } else if (probabilities) parts.push(bars(card.labels, probabilities));
  const figures = [figure(original(source), digits.length ? `${digits.length} digits` : "Your image")];
  if (image) figures.push(figure(networkInput(image), `What the network sees, ${image.width}×${image.height}`));
  parts.push(element("div", "pair", ...figures));
  if (corrections.length) {
    const chips = corrections.map((text) => element("li", text.startsWith(DOUBT) ? "doubt" : "", text));
    parts.push(labelled(element("ul", "chips", ...chips), "Changes made to the image"));
  }
  const [network, correction] = [times.network, times.correction].map((milliseconds) => `${milliseconds.toFixed(1)} ms`);
  return [...parts, element("p", "time", `${card.name} · network ${network} · correction ${correction}`)];
}

function labelled(list: HTMLElement, label: string): HTMLElement {
  list.setAttribute("aria-label", label);
  return list;
}

function headline(label: string, title: string, sentence = ""): HTMLElement {
  const more = sentence ? [element("p", "", sentence)] : [];
  const large = element("div", label.length > 4 ? "label long" : "label", label);
  return element("div", "headline", large, element("div", "", element("strong", "", title), ...more));
}

/** The large label, a title and a sentence. */
function verdict({ label, probability, known, unsure }: Prediction, card: Card): [string, string, string] {
  if (known === false) return ["–", "None of the classes", `The nearest is ${label}, with ${percent(probability)}.`];
  if (unsure) return [label, `Unsure, ${percent(probability)}`, reasonForDoubt(probability, card)];
  return [label, percent(probability), ""];
}

function reasonForDoubt(probability: number, card: Card): string {
  if (probability >= card.unsure_below) return "A correction is doubtful. The corrections below say why.";
  const threshold = percent(card.unsure_below);
  return card.calibrated
    ? `Half of this model's mistakes have a probability below ${threshold}.`
    : `The probability is below ${threshold}, the default threshold.`;
}

/** Short labels become columns in their own order; others rows, the most probable first. */
function bars(labels: string[], probabilities: Float32Array): HTMLElement {
  if (labels.length <= MAX_COLUMNS && labels.every((label) => label.length <= COLUMN_LETTERS)) {
    const columns = labels.map((label, i) => bar(label, probabilities[i], "height"));
    return labelled(element("ol", "columns", ...columns), "Probability of each label");
  }
  const order = labels.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
  const shown = order.filter((i) => probabilities[i] >= SMALLEST_BAR).slice(0, MAX_BARS);
  const rows = shown.map((i) => bar(labels[i], probabilities[i], "width"));
  return labelled(element("ol", "bars", ...rows), "Most probable labels");
}

function bar(label: string, probability: number, dimension: "width" | "height"): HTMLElement {
  const visible = probability >= SMALLEST_BAR;
  const fill = element("span", "fill");
  fill.style[dimension] = visible ? `${100 * Math.max(probability, 0.01)}%` : "0";
  const short = probability > 0.99 ? ">99" : (100 * probability).toFixed(0);
  const shown = element("span", "figure", visible ? (dimension === "width" ? percent(probability) : short) : "");
  shown.title = percent(probability);
  return element("li", visible ? "" : "zero", element("span", "name", label), element("span", "track", fill), shown);
}

function figure(canvas: HTMLCanvasElement, caption: string): HTMLElement {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", caption);
  return element("figure", "", canvas, element("figcaption", "", caption));
}

function original(source: HTMLCanvasElement): HTMLCanvasElement {
  const scale = Math.min(1, PREVIEW_PIXELS / Math.max(source.width, source.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(source.width * scale));
  canvas.height = Math.max(1, Math.round(source.height * scale));
  const context = canvas.getContext("2d")!;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function networkInput({ width, height, channels, data }: Bytes): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.className = "pixels";
  [canvas.width, canvas.height] = [width, height];
  const shown = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = data[i * channels + (channels === 1 ? 0 : c)];
    shown.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d")!.putImageData(shown, 0, 0);
  return canvas;
}

export function isColourful({ width, height, channels, data }: Bytes): boolean {
  if (channels < 3) return false;
  const [down, across] = [Math.max(1, height >> 6), Math.max(1, width >> 6)];
  let [sum, count] = [0, 0];
  for (let y = 0; y < height; y += down)
    for (let x = 0; x < width; x += across, count++) {
      const rgb = data.subarray((y * width + x) * channels, (y * width + x) * channels + 3);
      sum += Math.max(...rgb) - Math.min(...rgb);
    }
  return sum / count > COLOURFUL;
}
