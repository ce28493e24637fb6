/** The page's side of the Web Worker. */

import type { Bytes } from "./arrays";
import type { Fit } from "./photos";
import type { Card, Prediction, Reply, Request } from "./protocol";

/** No answer; the message is for the user. */
export class PredictionFailed extends Error {}

const notLoaded = () => new PredictionFailed("The program that classifies images cannot be loaded. Reload the page.");

const WARM_UP = 0; // the number of requests whose answer nobody sees

interface Waiting {
  request: Request;
  resolve(prediction: Prediction | null): void;
  reject(error: Error): void;
}

/** Sends one image at a time. Of the images that come meanwhile, only the newest is classified. */
export class Client {
  loaded = 0; // bytes that the worker has loaded over the network
  private worker = new Worker("predict.js", { type: "module" });
  private count = 0;
  private current: Waiting | null = null;
  private next: Waiting | null = null;
  private failed = false; // the worker does not run

  constructor() {
    this.worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => this.receive(data));
    this.worker.addEventListener("error", (event) => {
      event.preventDefault();
      this.failed = true;
      this.current?.reject(notLoaded());
      this.next?.reject(notLoaded());
      this.current = this.next = null;
    });
  }

  /** The answer; null if a newer image replaced this one. Throws PredictionFailed. */
  predict(source: Bytes, card: Card, fit: Fit): Promise<Prediction | null> {
    if (this.failed) return Promise.reject(notLoaded());
    return new Promise((resolve, reject) => {
      this.next?.resolve(null);
      this.next = { request: { id: ++this.count, card, fit, source }, resolve, reject };
      this.send();
    });
  }

  /** Classify an image only to make the browser compile the program; not while an image of the visitor waits. */
  warmUp(source: Bytes, card: Card, fit: Fit): Promise<Prediction | null> {
    if (this.failed || this.current) return Promise.resolve(null);
    return new Promise((resolve, reject) => {
      this.next = { request: { id: WARM_UP, card, fit, source }, resolve, reject };
      this.send();
    });
  }

  /** Drop the images that have no answer yet. */
  cancel(): void {
    this.next?.resolve(null);
    this.next = null;
    this.count++;
  }

  private send(): void {
    if (this.current || !this.next) return;
    [this.current, this.next] = [this.next, null];
    this.worker.postMessage(this.current.request);
  }

  private receive({ prediction, error, loaded }: Reply): void {
    const { current } = this;
    this.current = null;
    this.loaded = Math.max(this.loaded, loaded);
    if (current && current.request.id !== this.count) current.resolve(null);
    else if (prediction) current?.resolve(prediction);
    else current?.reject(new PredictionFailed(error));
    this.send();
  }
}
