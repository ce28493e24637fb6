/** The Web Worker: corrects an image and classifies it, so that the page stays responsive. */

import { BadInput, type Bytes } from "./arrays";
import { DOUBT, toMnist } from "./digits";
import { answers, load } from "./network";
import { type Fit, fitToInput } from "./photos";
import type { Card, Prediction, Reply, Request } from "./protocol";

async function predict(source: Bytes, card: Card, fit: Fit): Promise<Prediction> {
  const loading = load(card);
  loading.catch(() => undefined); // it is awaited below, unless the correction fails
  const begin = performance.now();
  const { image, corrections } = card.input.form === "digit" ? toMnist(source) : fitToInput(source, card.input, fit);
  const corrected = performance.now();
  await loading;
  const loaded = performance.now();
  const [{ probabilities, known }] = await answers(card, [image]);
  const times = { correction: corrected - begin, network: performance.now() - loaded };
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
    times,
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
    const message = error instanceof Error ? error.message : String(error);
    reply = { id, error: error instanceof BadInput ? message : `Something failed: ${message}`, loaded: loadedBytes() };
  }
  self.postMessage(reply);
});
