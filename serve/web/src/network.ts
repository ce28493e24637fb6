/** The models of this site, and their answers. */

import * as ort from "onnxruntime-web/wasm";

import type { Bytes } from "./arrays";
import type { Input } from "./photos";

/** What `zoo export` writes into `models.json` for each model. */
export interface Card {
  name: string;
  title: string;
  labels: string[];
  input: Input;
  accuracy: number | null;
  bytes: number;
  unsure_below: number;
  known_from: number | null;
  file: string;
}

export interface Answer {
  probabilities: Float32Array;
  known: number | null;
}

ort.env.wasm.numThreads = 1; // more threads would need headers that a plain file host does not send
ort.env.wasm.wasmPaths = new URL("./", document.baseURI).href;

const sessions = new Map<string, Promise<ort.InferenceSession>>();

function session(card: Card): Promise<ort.InferenceSession> {
  let opened = sessions.get(card.name);
  if (!opened) {
    opened = fetch(card.file)
      .then((response) => {
        if (!response.ok) throw new Error(`The model ${card.name} cannot be loaded (status ${response.status}).`);
        return response.arrayBuffer();
      })
      .then((content) => ort.InferenceSession.create(new Uint8Array(content)));
    sessions.set(card.name, opened);
    opened.catch(() => sessions.delete(card.name));
  }
  return opened;
}

/** Load a model and run it once: the first run is the slowest. */
export async function warmUp(card: Card): Promise<void> {
  const { height, width, channels } = card.input;
  await answer(card, { height, width, channels, data: new Uint8Array(height * width * channels) });
}

export async function answer(card: Card, image: Bytes): Promise<Answer> {
  const { height, width, channels } = card.input;
  const network = await session(card);
  const outputs = await network.run({ image: new ort.Tensor("uint8", image.data, [1, height, width, channels]) });
  const known = card.known_from !== null && outputs.known ? (outputs.known.data as Float32Array)[0] : null;
  return { probabilities: outputs.probabilities.data as Float32Array, known };
}
