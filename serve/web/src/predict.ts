/** The Web Worker: corrects an image and classifies it, so that the page stays responsive. */

import { BadInput, type Bytes } from "./arrays";
import { DOUBT, NO_WRITING, type Prepared, toMnist } from "./digits";
import { type Answer, answers, load, NotLoaded } from "./network";
import { type Fit, fitToInput } from "./photos";
import type { Card, Prediction, Reply, Request } from "./protocol";
import { mayBeRead, type Reading, readNumber } from "./reading";

async function predict(source: Bytes, card: Card, fit: Fit): Promise<Prediction> {
  const loading = load(card);
  loading.catch(() => undefined); // it is awaited below
  const begin = performance.now();
  const prepared = prepare(source, card, fit);
  const corrected = performance.now();
  await loading;
  const loaded = performance.now();
  let network = 0;
  const run = async (images: Bytes[]) => {
    const start = performance.now();
    const result = await answers(card, images);
    network += performance.now() - start;
    return result;
  };
  let prediction: Omit<Prediction, "times"> | null;
  if (prepared instanceof BadInput) {
    prediction = ofNumber(await readNumber(source, card, run), card);
    if (!prediction) throw prepared;
  } else {
    const [single] = await run([prepared.image]);
    const number = mayBeRead(card, prepared, single) ? await readNumber(source, card, run, single) : null;
    prediction = ofNumber(number, card) ?? ofOneClass(card, prepared, single);
  }
  return { ...prediction, times: { correction: corrected - begin + performance.now() - loaded - network, network } };
}

/** The network's input; BadInput where there is none, for example because there are several digits. */
function prepare(source: Bytes, card: Card, fit: Fit): Prepared | BadInput {
  try {
    return card.input.form === "digit" ? toMnist(source) : fitToInput(source, card.input, fit);
  } catch (error) {
    if (error instanceof BadInput) return error;
    throw error;
  }
}

function ofNumber(reading: Reading | null, { labels }: Card): Omit<Prediction, "times"> | null {
  if (!reading) return null;
  const alternatives = new Map(reading.alternatives);
  const probabilities = reading.digits.length ? null : Float32Array.from(labels, (label) => alternatives.get(label) ?? 0);
  return { ...reading, label: reading.text, probabilities, image: null };
}

function ofOneClass(card: Card, { image, corrections }: Prepared, { probabilities, known }: Answer): Omit<Prediction, "times"> {
  const best = probabilities.indexOf(Math.max(...probabilities));
  return {
    label: card.labels[best],
    probability: probabilities[best],
    known: known === null || card.known_from === null ? null : known >= card.known_from && !corrections.some((one) => one.startsWith(NO_WRITING)),
    unsure: !(probabilities[best] >= card.unsure_below) || corrections.some((one) => one.startsWith(DOUBT)),
    probabilities,
    digits: [],
    image,
    corrections,
  };
}

/** Bytes that came over the network, not out of a cache. */
function loadedBytes(): number {
  const entries = performance.getEntriesByType("resource") as PerformanceResourceTiming[];
  return entries.reduce((sum, entry) => sum + entry.transferSize, 0);
}

self.addEventListener("message", async ({ data }: MessageEvent<Request>) => {
  const { id, card, fit, source } = data;
  let reply: Reply;
  try {
    reply = { id, prediction: await predict(source, card, fit), loaded: loadedBytes() };
  } catch (error) {
    const expected = error instanceof BadInput || error instanceof NotLoaded;
    const message = expected ? error.message : `The image cannot be classified, because of an error of this page (${error}).`;
    reply = { id, error: message, loaded: loadedBytes() };
  }
  self.postMessage(reply);
});
