/** The Web Worker: corrects an image and classifies it, so that the page stays responsive. */

import { BadInput, type Bytes } from "./arrays";
import { DOUBT, type Prepared, toMnist } from "./digits";
import { type Answer, answers, load, NotLoaded } from "./network";
import { type Fit, fitToInput } from "./photos";
import type { Card, Prediction, Reply, Request } from "./protocol";

async function predict(source: Bytes, card: Card, fit: Fit): Promise<Prediction> {
  const loading = load(card);
  loading.catch(() => undefined); // it is awaited below, unless the correction fails
  const begin = performance.now();
  const prepared = card.input.form === "digit" ? toMnist(source) : fitToInput(source, card.input, fit);
  const correction = performance.now() - begin;
  let network = 0;
  await loading;
  const run = async (images: Bytes[]) => {
    const start = performance.now();
    const result = await answers(card, images);
    network += performance.now() - start;
    return result;
  };
  const [single] = await run([prepared.image]);
  return { ...ofOneClass(card, prepared, single), times: { correction, network } };
}

function ofOneClass(card: Card, { image, corrections }: Prepared, { probabilities, known }: Answer): Omit<Prediction, "times"> {
  const best = probabilities.indexOf(Math.max(...probabilities));
  return {
    label: card.labels[best],
    probability: probabilities[best],
    known: known === null || card.known_from === null ? null : known >= card.known_from,
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
