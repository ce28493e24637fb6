/** A dialog with the camera's live picture. */

import { BadInput } from "./arrays";
import { draw } from "./decode";

/** A photograph; null if the dialog was closed. Throws BadInput. */
export async function photograph(dialog: HTMLDialogElement): Promise<HTMLCanvasElement | null> {
  if (!navigator.mediaDevices?.getUserMedia)
    throw new BadInput("The browser allows the camera only over https or on this machine. Upload a photograph instead.");
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }).catch((error) => {
    if (error.name === "NotFoundError") throw new BadInput("This device has no camera. Upload a photograph instead.");
    throw new BadInput("The camera is not allowed for this page, or another program uses it. Allow it, or upload a photograph.");
  });
  const video = dialog.querySelector("video")!;
  try {
    video.srcObject = stream;
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    return dialog.returnValue === "take" && video.videoWidth ? draw(video, video.videoWidth, video.videoHeight) : null;
  } finally {
    video.srcObject = null;
    for (const track of stream.getTracks()) track.stop();
  }
}
