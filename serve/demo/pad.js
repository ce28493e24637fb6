// A canvas to draw on with mouse, finger or pen. The component's value is the drawing, updated after each stroke.
// It begins with an example, which the first stroke replaces.
const EXAMPLE_PEN = 22; // pixels of the canvas, which has 320: like a felt pen on a card
const EXAMPLE = [[98, 84], [222, 84], [150, 250]].map(([x, y]) => ({ x, y }));
const getCanvas = () => element.querySelector("canvas");
const penWidth = () => Number(element.querySelector("input[type=range]").value);
let strokes = [Object.assign(EXAMPLE, { width: EXAMPLE_PEN })];
let isExample = true;
let current = null;
let value = "";

function redraw() {
  const canvas = getCanvas();
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = "#000";
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.lineWidth = stroke.width;
    context.beginPath();
    context.moveTo(stroke[0].x, stroke[0].y);
    for (const point of stroke.length > 1 ? stroke.slice(1) : stroke) context.lineTo(point.x, point.y);
    context.stroke();
  }
}

function submit() {
  redraw();
  element.querySelector("p").hidden = strokes.length > 0 && !isExample;
  element.querySelector("p").textContent = isExample ? "An example. Draw a digit here." : "Draw a digit here.";
  value = strokes.length ? getCanvas().toDataURL("image/png") : "";
  props.value = value;
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
  if (isExample) strokes = [];
  isExample = false;
  element.querySelector("p").hidden = true;
  current = Object.assign([position(event)], { width: penWidth() });
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
function act(action) {
  if (action === "undo") strokes.pop();
  if (action === "clear") strokes = [];
  if (action) isExample = false;
  if (action) submit();
}

element.addEventListener("click", (event) => {
  act(event.target.closest("button")?.dataset.action);
});
element.addEventListener("keydown", (event) => {
  if (event.target !== getCanvas()) return;
  const undo = event.key === "z" && (event.ctrlKey || event.metaKey);
  const clear = event.key === "Delete" || event.key === "Backspace" || event.key === "Escape";
  if (undo || clear) event.preventDefault();
  act(undo ? "undo" : clear ? "clear" : undefined);
});
// Gradio sets the value to the page's own again when it has mounted the component, after the example was submitted
watch("value", () => { if (props.value !== value) props.value = value; });
submit();
getCanvas().dataset.ready = "true"; // strokes are handled from now on
