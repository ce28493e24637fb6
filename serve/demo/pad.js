// A sheet of paper: strokes by mouse, finger or pen. At the end of each the picture is the component's value.
const PEN = 22; // pixels of the sheet, which has 320: as a felt pen on a card
const sheet = () => element.querySelector("canvas");
let strokes = [];
let current = null;

function paint() {
  const canvas = sheet();
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.strokeStyle = "#000";
  pen.lineWidth = PEN;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    pen.beginPath();
    pen.moveTo(stroke[0].x, stroke[0].y);
    for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) pen.lineTo(point.x, point.y);
    pen.stroke();
  }
}

function tell() {
  paint();
  props.value = strokes.length ? sheet().toDataURL("image/png") : "";
  trigger("input");
}

function place(event) {
  const canvas = sheet();
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

element.addEventListener("pointerdown", (event) => {
  if (event.target !== sheet() || event.button !== 0) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  current = [place(event)];
  strokes.push(current);
  paint();
});
element.addEventListener("pointermove", (event) => {
  if (!current) return;
  for (const part of event.getCoalescedEvents?.() ?? [event]) current.push(place(part));
  paint();
});
for (const end of ["pointerup", "pointercancel"]) {
  element.addEventListener(end, () => {
    if (!current) return;
    current = null;
    tell();
  });
}
element.addEventListener("click", (event) => {
  const asked = event.target.closest("button")?.dataset.asked;
  if (asked === "undo") strokes.pop();
  if (asked === "clear") strokes = [];
  if (asked) tell();
});
paint();
