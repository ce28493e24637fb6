/** Port of `zoo/images/photos.py`: a photograph → the small image that a network for photographs takes. */

import { BadInput, type Bytes, bytes, crop, rint } from "./arrays";
import type { Prepared } from "./digits";
import { resize } from "./vision";

const MAX_ASPECT = 8;

export interface Input {
  height: number;
  width: number;
  channels: number;
  form: "digit" | "photo";
}
export type Fit = "crop" | "whole";

export function fitToInput(pixels: Bytes, expected: Input, fit: Fit): Prepared {
  const { height, width } = pixels;
  const corrections: string[] = [];
  if (pixels.channels === 4 && pixels.data.some((value, i) => i % 4 === 3 && value < 255))
    corrections.push("placed on a white background");
  if (pixels.channels === 1 && expected.channels === 3) corrections.push("converted grey to RGB");
  else if (pixels.channels !== 1 && expected.channels === 1) corrections.push("converted to grey");
  const colour = inChannels(pixels, expected.channels);
  if (height === expected.height && width === expected.width) return { image: colour, corrections };
  let image: Bytes;
  let scale: number;
  if (fit === "crop") {
    if (Math.max(height / width, width / height) > MAX_ASPECT)
      throw new BadInput(`The image (${width}x${height}) is too narrow to crop: use the whole image, or crop it yourself.`);
    const aspect = expected.width / expected.height;
    const rows = Math.min(height, Math.max(1, rint(width / aspect)));
    const columns = Math.min(width, Math.max(1, rint(height * aspect)));
    const [top, left] = [(height - rows) >> 1, (width - columns) >> 1];
    if (rows !== height || columns !== width) corrections.push(`cropped to the central ${columns}x${rows}`);
    scale = expected.width / columns;
    image = resized(crop(colour, top, top + rows, left, left + columns), expected.width, expected.height);
    if (rows === expected.height && columns === expected.width) return { image, corrections };
  } else {
    if (Math.max(height / width, width / height) > Math.max(expected.height, expected.width))
      throw new BadInput(`The image (${width}x${height}) is too narrow to be reduced as a whole: crop it.`);
    scale = Math.min(expected.height / height, expected.width / width);
    const small = resized(colour, Math.max(1, rint(width * scale)), Math.max(1, rint(height * scale)));
    image = paddedWithMean(small, expected);
    if (small.width !== image.width || small.height !== image.height) corrections.push("padded with its mean colour");
  }
  corrections.push(`${scale < 1 ? "reduced" : "enlarged"} to ${expected.width}x${expected.height}`);
  return { image, corrections };
}

function resized(image: Bytes, width: number, height: number): Bytes {
  if (width === image.width && height === image.height) return image;
  return resize(image, width, height, width <= image.width && height <= image.height ? "area" : "cubic");
}

/** RGB, or grey by Pillow's weights; transparent pixels are placed on white. */
function inChannels(pixels: Bytes, channels: number): Bytes {
  const n = pixels.channels;
  if (n === channels) return pixels;
  const result = bytes(pixels.height, pixels.width, channels);
  for (let i = 0; i < pixels.width * pixels.height; i++) {
    const rgb = [0, 1, 2].map((c) => {
      const value = pixels.data[i * n + (n === 1 ? 0 : c)];
      return n === 4 ? 255 - rint(((255 - value) * pixels.data[i * 4 + 3]) / 255) : value;
    });
    if (channels === 3) result.data.set(rgb, i * 3);
    else result.data[i] = (rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16;
  }
  return result;
}

function paddedWithMean(small: Bytes, expected: Input): Bytes {
  const n = expected.channels;
  const sums = new Array<number>(n).fill(0);
  small.data.forEach((value, i) => (sums[i % n] += value));
  const result = bytes(expected.height, expected.width, n);
  for (let i = 0; i < result.data.length; i++) result.data[i] = rint(sums[i % n] / (small.width * small.height));
  const [top, left] = [(expected.height - small.height) >> 1, (expected.width - small.width) >> 1];
  for (let y = 0; y < small.height; y++)
    result.data.set(
      small.data.subarray(y * small.width * n, (y + 1) * small.width * n), ((top + y) * expected.width + left) * n,
    );
  return result;
}
