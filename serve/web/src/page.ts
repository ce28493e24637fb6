/** The page: an image comes in by drawing, file, camera or clipboard; the answer is shown beside it. */

import { BadInput } from "./arrays";
import { photograph } from "./camera";
import { Client, PredictionFailed } from "./client";
import { decode, pixelsOf } from "./decode";
import { Pad } from "./pad";
import type { Fit, Input } from "./photos";
import type { Card } from "./protocol";
import { answer, failure, hint, isColourful, percent } from "./result";

interface Example {
  name: string;
  form: Input["form"];
  file: string;
}

const WARM_UP_RUNS = 3;
const MAX_LABELS = 20; // that are listed

const element = <T extends Element = HTMLElement>(id: string) => document.getElementById(id) as unknown as T;
const canvas = element<HTMLCanvasElement>("canvas");
const models = element<HTMLSelectElement>("model");
const fit = element<HTMLSelectElement>("fit");
const file = element<HTMLInputElement>("file");
const result = element("result");
const client = new Client();
const pad = new Pad(canvas, element<SVGSVGElement>("boxes"), () => void read());
let cards: Card[] = [];
let examples: Example[] = [];
let example: string | null = null; // the file of the example image that is shown
let started = false;

const card = () => cards[Number(models.value)];
const isPhoto = () => card().input.form === "photo";

/** Classify what the canvas shows. */
async function read(): Promise<void> {
  client.cancel();
  describe();
  if (pad.isEmpty) {
    show(hint(`${isPhoto() ? "Choose a photograph" : "Draw a digit, or choose an image"}. The answer appears here.`));
    return;
  }
  const [model, content, begin] = [card(), pad.content(), performance.now()];
  const pixels = pixelsOf(content);
  try {
    const prediction = await client.predict(pixels, model, fit.value as Fit);
    if (!prediction) return;
    pad.mark(prediction.digits);
    const parts = answer(prediction, model, content);
    if (!isPhoto() && isColourful(pixels)) parts.splice(-1, 0, ...photoModel());
    show(...parts);
    result.classList.toggle("unknown", prediction.known === false);
    Object.assign(result.dataset, prediction.times, { total: performance.now() - begin });
    showFirst();
  } catch (error) {
    if (!(error instanceof PredictionFailed)) throw error;
    show(...failure(error.message));
  }
}

function show(...parts: HTMLElement[]): void {
  result.classList.remove("unknown");
  for (const name of Object.keys(result.dataset)) delete result.dataset[name];
  result.replaceChildren(...parts);
  const texts = [...parts[0].querySelectorAll(".label, strong, p")].map(({ textContent }) => textContent);
  element("status").textContent = texts.join(". ") || parts[0].textContent; // read out by screen readers
}

/** A button that switches to a model for photographs, if there is one. */
function photoModel(): HTMLElement[] {
  const index = cards.findIndex(({ input }) => input.form === "photo");
  if (index < 0) return [];
  const note = document.createElement("p");
  const button = document.createElement("button");
  note.className = "note";
  button.type = "button";
  button.textContent = `Try ${cards[index].name}`;
  button.addEventListener("click", () => choose(index));
  note.append("A colour photograph? ", button);
  return [note];
}

/** Time from the start of the page to the first answer, and what was loaded for it. */
function showFirst(): void {
  if (started) return;
  started = true;
  const own = (performance.getEntriesByType("resource") as PerformanceResourceTiming[])
    .concat(performance.getEntriesByType("navigation") as PerformanceResourceTiming[])
    .reduce((sum, entry) => sum + entry.transferSize, 0);
  const loaded = own + client.loaded;
  const size = loaded < 50_000 ? "everything was on this device" : `${(loaded / 1e6).toFixed(1)} MB loaded`;
  element("first").textContent = `First answer after ${(performance.now() / 1000).toFixed(1)} s, ${size}.`;
  Object.assign(element("first").dataset, { bytes: loaded, milliseconds: performance.now() });
}

/** Texts that depend on the model and on what the canvas shows. */
function describe(): void {
  const { labels, input, accuracy, dataset } = card();
  const more = labels.length > MAX_LABELS ? ` and ${labels.length - MAX_LABELS} more` : "";
  const knows = labels.join("") === "0123456789" ? "the digits 0 to 9" : labels.slice(0, MAX_LABELS).join(", ") + more;
  const [correct, images] = [accuracy?.correct, accuracy?.images].map((count) => count?.toLocaleString("en"));
  const test = `Right for ${correct} of ${images} test images${dataset ? ` (${dataset})` : ""}.`;
  element("about").textContent = `Knows ${knows}. ${accuracy ? test : ""}`;
  element("fit-label").hidden = input.form === "digit";
  pad.canDraw = input.form === "digit";
  canvas.classList.toggle("photo", !pad.canDraw);
  const text = element("hint");
  text.hidden = !pad.isEmpty && !pad.isExample;
  if (isPhoto()) text.textContent = "Upload, take, drop or paste a photograph.";
  else text.textContent = pad.isExample ? "An example. Draw a digit here." : "Draw a digit here.";
  for (const button of element("examples").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.file === example));
}

/** Show and classify an image. A failure is shown in place of the answer. */
async function open(load: () => Promise<HTMLCanvasElement | null>, from: string | null = null): Promise<void> {
  client.cancel();
  try {
    const picture = await load();
    if (!picture) return;
    example = from;
    pad.show(picture);
    canvas.scrollIntoView({ block: "nearest" });
    await read();
  } catch (error) {
    if (!(error instanceof BadInput)) throw error;
    show(...failure(error.message));
  }
}

async function openExample({ form, file }: Example): Promise<void> {
  if (card().input.form !== form) models.value = String(cards.findIndex(({ input }) => input.form === form));
  await open(async () => {
    const response = await fetch(file).catch(() => null);
    if (!response?.ok) throw new BadInput("The example cannot be loaded. Reload the page.");
    return decode(await response.blob());
  }, file);
}

/** The first example of the model's form: a drawn 7, or a picture. */
async function showExample(): Promise<void> {
  const first = examples.find(({ form }) => form === card().input.form);
  if (isPhoto() && first) return openExample(first);
  example = null;
  if (isPhoto()) pad.clear();
  else {
    pad.showExample();
    await read();
  }
}

/** Classify the same image with another model, but a drawing or an example only with a model for its form. */
function choose(index: number): void {
  models.value = String(index);
  const other = examples.find(({ file }) => file === example)?.form;
  const misfit = isPhoto() ? pad.isDrawing || other === "digit" : other === "photo";
  void (misfit ? showExample() : read());
}

function act(name: string | undefined): void {
  example = null;
  if (name === "undo") pad.undo();
  else if (name === "clear") pad.clear();
  else if (name === "upload") file.click();
  else if (name === "camera") void open(() => photograph(element<HTMLDialogElement>("camera")));
}

for (const button of document.querySelectorAll<HTMLElement>("[data-action]"))
  button.addEventListener("click", () => act(button.dataset.action));
canvas.addEventListener("pointerdown", () => {
  if (pad.canDraw) [example, element("hint").hidden] = [null, true];
  else file.click();
});
canvas.addEventListener("keydown", (event) => {
  const undo = event.key === "z" && (event.ctrlKey || event.metaKey);
  const clear = ["Delete", "Backspace", "Escape"].includes(event.key);
  const upload = event.key === "Enter" || event.key === " ";
  if (!undo && !clear && !upload) return;
  event.preventDefault();
  act(undo ? "undo" : clear ? "clear" : "upload");
});
file.addEventListener("change", () => {
  const chosen = file.files?.[0];
  if (chosen) void open(() => decode(chosen));
  file.value = "";
});
document.addEventListener("paste", (event) => {
  const pasted = event.clipboardData?.files[0];
  if (pasted) void open(() => decode(pasted));
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const dropped = event.dataTransfer?.files[0];
  if (dropped) void open(() => decode(dropped));
});
fit.addEventListener("change", () => void read());
models.addEventListener("change", () => choose(Number(models.value)));

function listModels(): void {
  for (const [form, label] of [["digit", "Digits"], ["photo", "Photographs"]]) {
    const group = document.createElement("optgroup");
    group.label = label;
    cards.forEach(({ name, input, accuracy, bytes }, index) => {
      const share = accuracy ? percent(accuracy.correct / accuracy.images, 2) : "accuracy unknown";
      const text = `${name} · ${share} · ${Math.round(bytes / 1000)} KB`;
      if (input.form === form) group.append(new Option(text, String(index)));
    });
    if (group.children.length) models.append(group);
  }
  models.value = "0";
}

function listExamples(): void {
  for (const one of examples) {
    const button = document.createElement("button");
    const image = new Image();
    button.type = "button";
    button.dataset.file = image.src = one.file;
    button.setAttribute("aria-label", `Example ${one.name}`);
    image.alt = "";
    button.append(image);
    button.addEventListener("click", () => void openExample(one));
    element("examples").append(button);
  }
  element("examples").hidden = !examples.length;
}

/** The first corrections are slow, until the browser has compiled them: repeat the example before the visitor draws. */
async function warmUp(): Promise<void> {
  for (let run = 0; run < WARM_UP_RUNS && pad.isExample; run++)
    await client.warmUp(pixelsOf(pad.content()), card(), fit.value as Fit);
  if (pad.isExample) await read(); // shows times that are typical of this device
}

/** The same for photographs of digits, which need other corrections. */
async function warmUpExamples(): Promise<void> {
  for (const { form, file } of examples) {
    if (form !== "digit" || isPhoto()) continue;
    const picture = await fetch(file).then((response) => response.blob()).then(decode);
    await client.warmUp(pixelsOf(picture), card(), fit.value as Fit);
  }
}

async function start(): Promise<void> {
  ({ models: cards, examples } = await (await fetch("models.json")).json());
  listModels();
  listExamples();
  await showExample();
  await warmUp();
  document.body.dataset.ready = "true";
  // Only now, so that it does not compete with the page for the network. Where the browser refuses it, the page still
  // works online.
  const registration = await navigator.serviceWorker?.register("offline.js").catch(() => undefined);
  // Look for a newer export now: the browser itself does so when it is idle, which can be late.
  if (navigator.serviceWorker?.controller) await registration?.update().catch(() => undefined);
  await warmUpExamples().catch(() => undefined); // a picture that cannot be loaded is reported when it is clicked
}

start().catch((error) => show(...failure(`The page cannot start: ${error.message}. Reload it.`)));
