/** A file or camera frame → pixels. */

import { BadInput, type Bytes, bytes } from "./arrays";

const MAX_SIDE = 2048; // pixels: enough for a pen line, and within a phone's memory

/** The picture of a file on a canvas, reduced if it is large. Throws BadInput. */
export async function decode(file: Blob): Promise<HTMLCanvasElement> {
  const picture = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => null);
  if (!picture) {
    const name = file instanceof File && file.name ? `The file ${file.name}` : "This file";
    throw new BadInput(`${name} is no image that this browser can open. Choose a PNG, JPEG or WebP file.`);
  }
  const canvas = draw(picture, picture.width, picture.height);
  picture.close();
  return canvas;
}

export function draw(picture: CanvasImageSource, width: number, height: number): HTMLCanvasElement {
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** The pixels of a canvas in as few channels as they need: grey, RGB or RGBA. */
export function pixelsOf(canvas: HTMLCanvasElement): Bytes {
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d", { willReadFrequently: true })!.getImageData(0, 0, width, height);
  let [opaque, grey] = [true, true];
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] < 255) opaque = false;
    if (data[i] !== data[i + 1] || data[i] !== data[i + 2]) grey = false;
  }
  if (!opaque) return { width, height, channels: 4, data: new Uint8Array(data) };
  const channels = grey ? 1 : 3;
  const result = bytes(height, width, channels);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < channels; c++) result.data[i * channels + c] = data[4 * i + c];
  return result;
}
