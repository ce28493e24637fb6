/** The networks, each loaded once. Runs in the Web Worker. */

import * as ort from "onnxruntime-web/wasm";

import type { Bytes } from "./arrays";
import type { Card } from "./protocol";

/** A file that cannot be loaded or run; the message is for the user. */
export class NotLoaded extends Error {}

export interface Answer {
  probabilities: Float32Array;
  known: number | null;
}

ort.env.wasm.numThreads = 1; // more threads would need headers that a plain file host does not send
const runtime = (name: string) => new URL(`onnxruntime-web-${ort.env.versions.web}/${name}`, self.location.href).href;
ort.env.wasm.wasmPaths = { mjs: runtime("ort-wasm-simd-threaded.js"), wasm: runtime("ort-wasm-simd-threaded.wasm") };

const sessions = new Map<string, Promise<ort.InferenceSession>>();

/** Load a network unless it is loaded. */
export function load(card: Card): Promise<ort.InferenceSession> {
  let opened = sessions.get(card.file);
  if (!opened) {
    opened = open(card);
    sessions.set(card.file, opened);
    opened.catch(() => sessions.delete(card.file)); // the next answer tries again
  }
  return opened;
}

async function open(card: Card): Promise<ort.InferenceSession> {
  const response = await fetch(card.file).catch(() => null);
  if (!response?.ok) {
    const reason = response ? `status ${response.status}` : "no connection";
    throw new NotLoaded(`The model ${card.name} cannot be loaded (${reason}). Reload the page.`);
  }
  const content = new Uint8Array(await response.arrayBuffer());
  return ort.InferenceSession.create(content).catch((error) => {
    throw new NotLoaded(`This browser cannot run ${card.name} (${error.message}). Reload the page, or use a newer browser.`);
  });
}

/** The answers of a network for images of its input size. */
export async function answers(card: Card, images: Bytes[]): Promise<Answer[]> {
  const { height, width, channels } = card.input;
  const network = await load(card);
  const pixels = new Uint8Array(images.length * height * width * channels);
  images.forEach((image, i) => pixels.set(image.data, i * height * width * channels));
  const image = new ort.Tensor("uint8", pixels, [images.length, height, width, channels]);
  const outputs = await network.run({ image });
  const probabilities = outputs.probabilities.data as Float32Array;
  const known = card.known_from === null ? undefined : (outputs.known?.data as Float32Array | undefined);
  const labels = card.labels.length;
  return images.map((_, i) => ({
    probabilities: probabilities.slice(i * labels, (i + 1) * labels),
    known: known ? known[i] : null,
  }));
}
