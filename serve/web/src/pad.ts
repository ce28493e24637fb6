/** The canvas: strokes of a drawing, or a picture with boxes around the digits that were read in it. */

import type { Digit } from "./protocol";

export const SIDE = 320; // pixels of the drawing that is classified, as in `serve/demo/pad.js`
const PEN = 22; // like a felt pen on a card
type Point = [x: number, y: number];
const SEVEN: Point[] = [[98, 84], [222, 84], [150, 250]];

export class Pad {
  canDraw = true;
  private strokes: Point[][] = [];
  private picture: HTMLCanvasElement | null = null;
  private current: { pointer: number; points: Point[] } | null = null;

  /** @param changed: called after each change by hand; the canvas may be empty then. */
  constructor(
    private canvas: HTMLCanvasElement,
    private boxes: SVGSVGElement,
    private changed: () => void,
  ) {
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.canDraw || this.current || event.button !== 0) return; // one finger draws at a time
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      if (this.isExample || this.picture) this.reset();
      this.current = { pointer: event.pointerId, points: [this.place(event)] };
      this.strokes.push(this.current.points);
      this.redraw();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.current?.pointer !== event.pointerId) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const point of events.length ? events : [event]) this.current.points.push(this.place(point));
      this.redraw();
    });
    for (const end of ["pointerup", "pointercancel"] as const)
      canvas.addEventListener(end, (event) => {
        if (this.current?.pointer !== event.pointerId) return;
        this.current = null;
        this.changed();
      });
  }

  get isEmpty(): boolean {
    return !this.picture && !this.strokes.length;
  }

  get isDrawing(): boolean {
    return this.strokes.length > 0;
  }

  get isExample(): boolean {
    return this.strokes[0] === SEVEN;
  }

  showExample(): void {
    this.reset();
    this.strokes = [SEVEN];
    this.redraw();
  }

  show(picture: HTMLCanvasElement): void {
    this.reset();
    this.picture = picture;
    this.redraw();
  }

  clear(): void {
    this.reset();
    this.redraw();
    this.changed();
  }

  undo(): void {
    if (this.picture || this.isExample || this.strokes.length < 2) return this.clear();
    this.strokes.pop();
    this.redraw();
    this.changed();
  }

  /** What is to be classified: the picture, or the drawing in its own resolution. */
  content(): HTMLCanvasElement {
    if (this.picture) return this.picture;
    const drawing = document.createElement("canvas");
    drawing.width = drawing.height = SIDE;
    this.paint(drawing);
    return drawing;
  }

  /** Draw boxes in pixels of `content()`. */
  mark(digits: Digit[]): void {
    const { width, height } = this.picture ?? { width: SIDE, height: SIDE };
    this.boxes.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.boxes.replaceChildren(
      ...digits.map(({ box: [x0, y0, x1, y1] }) => {
        const rectangle = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        const place = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
        for (const [name, value] of Object.entries(place)) rectangle.setAttribute(name, String(value));
        return rectangle;
      }),
    );
  }

  private reset(): void {
    [this.strokes, this.picture, this.current] = [[], null, null];
    this.mark([]);
  }

  private redraw(): void {
    this.paint(this.canvas);
  }

  private paint(canvas: HTMLCanvasElement): void {
    const context = canvas.getContext("2d", { willReadFrequently: true })!;
    const { width } = canvas;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, width);
    if (this.picture) {
      const scale = width / Math.max(this.picture.width, this.picture.height);
      const [w, h] = [this.picture.width * scale, this.picture.height * scale];
      context.imageSmoothingEnabled = scale < 4; // small images show their pixels
      context.imageSmoothingQuality = "high";
      context.drawImage(this.picture, (width - w) / 2, (width - h) / 2, w, h);
    }
    context.scale(width / SIDE, width / SIDE);
    context.strokeStyle = "#000";
    context.lineWidth = PEN;
    context.lineCap = context.lineJoin = "round";
    for (const [first, ...others] of this.strokes) {
      context.beginPath();
      context.moveTo(...first);
      for (const point of others.length ? others : [first]) context.lineTo(...point);
      context.stroke();
    }
  }

  private place(event: PointerEvent): Point {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * SIDE) / box.width, ((event.clientY - box.top) * SIDE) / box.height];
  }
}
