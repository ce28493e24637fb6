// A canvas to draw on with mouse, finger or pen. The component's value is the drawing, updated after each stroke.
const PEN_WIDTH = 22; // pixels of the canvas, which has 320: like a felt pen on a card
const getCanvas = () => element.querySelector("canvas");
let strokes = [];
let current = null;

function redraw() {
  const canvas = getCanvas();
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = "#000";
  context.lineWidth = PEN_WIDTH;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(stroke[0].x, stroke[0].y);
    for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) context.lineTo(point.x, point.y);
    context.stroke();
  }
}

function submit() {
  redraw();
  props.value = strokes.length ? getCanvas().toDataURL("image/png") : "";
  trigger("input");
}

function position(event) {
  const canvas = getCanvas();
  const box = canvas.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

element.addEventListener("pointerdown", (event) => {
  if (event.target !== getCanvas() || event.button !== 0) return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  current = [position(event)];
  strokes.push(current);
  redraw();
});
element.addEventListener("pointermove", (event) => {
  if (!current) return;
  for (const point of event.getCoalescedEvents?.() ?? [event]) current.push(position(point));
  redraw();
});
for (const end of ["pointerup", "pointercancel"]) {
  element.addEventListener(end, () => {
    if (!current) return;
    current = null;
    submit();
  });
}
element.addEventListener("click", (event) => {
  const action = event.target.closest("button")?.dataset.action;
  if (action === "undo") strokes.pop();
  if (action === "clear") strokes = [];
  if (action) submit();
});
redraw();
getCanvas().dataset.ready = "true"; // strokes are handled from now on
