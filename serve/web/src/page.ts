/** The page: a picture comes in by drawing, file, camera or clipboard; the answer is shown beside it. */

import { BadInput, type Bytes } from "./arrays";
import { decode, fromCanvas } from "./decode";
import { DOUBT, type Prepared, toMnist } from "./digits";
import { answer, type Card, warmUp } from "./network";
import { type Fit, fitToInput } from "./photos";

const element = <T extends HTMLElement>(id: string) => document.getElementById(id) as T;
const pad = element<HTMLCanvasElement>("pad");
const pen = pad.getContext("2d", { willReadFrequently: true })!;
const models = element<HTMLSelectElement>("model");
let cards: Card[] = [];
let pixels: Bytes | null = null;
let turn = 0;

const card = () => cards[models.selectedIndex];
const text = (id: string, content: string) => (element(id).textContent = content);

function clear(): void {
  turn++;
  pixels = null;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, pad.width, pad.height);
  text("answer", "");
  text("note", card()?.input.form === "photo" ? "Choose, take or paste a photo." : "Draw a digit, or choose a picture.");
  text("time", "");
  element("bars").replaceChildren();
  element("chips").replaceChildren();
  element("seen").hidden = true;
}

function prepare(source: Bytes): Prepared {
  const { input } = card();
  return input.form === "digit" ? toMnist(source) : fitToInput(source, input, element<HTMLSelectElement>("fit").value as Fit);
}

async function read(): Promise<void> {
  if (!pixels || !card()) return;
  const mine = ++turn;
  const model = card();
  try {
    const start = performance.now();
    const { image, corrections } = prepare(pixels);
    const corrected = performance.now();
    const { probabilities, known } = await answer(model, image);
    const end = performance.now();
    if (mine !== turn) return;
    const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
    const unknown = known !== null && model.known_from !== null && known < model.known_from;
    const unsure = probabilities[order[0]] < model.unsure_below || corrections.some((c) => c.startsWith(DOUBT));
    text("answer", unknown ? "?" : model.labels[order[0]]);
    const percent = (value: number) => `${(100 * value).toFixed(1)} %`;
    text("note", unknown ? "None of the classes." : `${unsure ? "Unsure: " : ""}${percent(probabilities[order[0]])}`);
    element("bars").replaceChildren(...order.slice(0, 3).map((label) => bar(model.labels[label], probabilities[label], percent)));
    element("chips").replaceChildren(...corrections.map((correction) => {
      const chip = document.createElement("li");
      chip.textContent = correction;
      return chip;
    }));
    showSeen(image);
    const milliseconds = (value: number) => value.toFixed(1);
    text("time", `Correction ${milliseconds(corrected - start)} ms, network ${milliseconds(end - corrected)} ms. ${loaded()}`);
    element("time").dataset.correction = String(corrected - start);
    element("time").dataset.network = String(end - corrected);
  } catch (error) {
    if (mine !== turn) return;
    text("answer", "");
    element("bars").replaceChildren();
    element("chips").replaceChildren();
    element("seen").hidden = true;
    text("time", "");
    text("note", error instanceof BadInput ? error.message : `The picture cannot be processed: ${String(error)}`);
  }
}

/** The size of what was loaded, from the browser's own records. */
function loaded(): string {
  const entries = performance.getEntriesByType("resource") as PerformanceResourceTiming[];
  const size = entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0);
  return size ? `Page, runtime and model: ${(size / 1e6).toFixed(1)} MB.` : "";
}

function bar(label: string, value: number, percent: (value: number) => string): HTMLElement {
  const row = document.createElement("li");
  const meter = document.createElement("meter");
  meter.value = value;
  meter.setAttribute("aria-label", `Probability of ${label}`);
  const [name, figure] = [document.createElement("span"), document.createElement("span")];
  name.textContent = label;
  figure.textContent = percent(value);
  row.append(name, meter, figure);
  return row;
}

function showSeen(image: Bytes): void {
  const canvas = element<HTMLCanvasElement>("input");
  [canvas.width, canvas.height] = [image.width, image.height];
  const shown = new ImageData(image.width, image.height);
  for (let i = 0; i < image.width * image.height; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = image.data[i * image.channels + (image.channels === 1 ? 0 : c)];
    shown.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d")!.putImageData(shown, 0, 0);
  element("seen").hidden = false;
}

async function open(file: Blob): Promise<void> {
  clear();
  try {
    pixels = await decode(file);
  } catch {
    text("note", "This file is not a picture that the browser can open: choose a PNG, JPEG or WebP file.");
    return;
  }
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
  const scale = Math.min(pad.width / picture.width, pad.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  pen.drawImage(picture, (pad.width - width) / 2, (pad.height - height) / 2, width, height);
  drawn = false;
  await read();
}

let drawn = false;
let last: [number, number] | null = null;

function place(event: PointerEvent): [number, number] {
  const box = pad.getBoundingClientRect();
  return [((event.clientX - box.left) * pad.width) / box.width, ((event.clientY - box.top) * pad.height) / box.height];
}

pad.addEventListener("pointerdown", (event) => {
  if (card()?.input.form === "photo") return;
  if (!drawn) clear();
  drawn = true;
  pad.setPointerCapture(event.pointerId);
  last = place(event);
  line(last, last);
});
pad.addEventListener("pointermove", (event) => {
  if (!last) return;
  const next = place(event);
  line(last, next);
  last = next;
});
for (const name of ["pointerup", "pointercancel"])
  pad.addEventListener(name, () => {
    if (!last) return;
    last = null;
    pixels = fromCanvas(pad);
    void read();
  });

function line(from: [number, number], to: [number, number]): void {
  pen.strokeStyle = "#000";
  pen.lineWidth = 22;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

element("clear").addEventListener("click", () => {
  drawn = false;
  clear();
});
for (const id of ["file", "camera"])
  element<HTMLInputElement>(id).addEventListener("change", (event) => {
    const field = event.target as HTMLInputElement;
    if (field.files?.[0]) void open(field.files[0]);
    field.value = "";
  });
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) void open(file);
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const file = event.dataTransfer?.files[0];
  if (file) void open(file);
});
element("fit").addEventListener("change", () => void read());
models.addEventListener("change", () => {
  describe();
  if (!pixels) clear();
  void read();
});

function describe(): void {
  const { title, accuracy, bytes, input } = card();
  const facts = [title, accuracy === null ? "" : `${(100 * accuracy).toFixed(2)} % on its test set`, `${Math.ceil(bytes / 1000)} KB`];
  text("about", facts.filter(Boolean).join(" · "));
  element("fit-label").hidden = input.form === "digit";
}

async function start(): Promise<void> {
  if ("serviceWorker" in navigator) void navigator.serviceWorker.register("worker.js").catch(() => undefined);
  cards = await (await fetch("models.json")).json();
  models.replaceChildren(...cards.map((entry) => new Option(entry.name)));
  describe();
  clear();
  await warmUp(card());
  document.body.dataset.ready = "true";
}

start().catch((error) => text("note", `The page cannot start: ${String(error)}`));
