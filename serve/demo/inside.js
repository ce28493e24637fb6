// "Look inside": shows one layer at a time, and draws the receptive field of a unit on the input. Works with a pointer,
// with touch and with the keyboard. The data is in the attribute data-look (serve/demo/inside.py).
const MAGMA = ["#000004", "#180f3d", "#440f76", "#721f81", "#9e2f7f", "#cd4071", "#f1605d", "#fd9668", "#feca8d", "#fcfdbf"];
const RED_BLUE = ["#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"];
const LINE = 2; // pixels between maps of a sheet, at least
const MIN_MAP = 16; // pixels; smaller maps are enlarged

function palette(colours) {
  const table = new Uint8ClampedArray(256 * 3);
  const channel = (colour, index) => Number.parseInt(colour.slice(1 + 2 * index, 3 + 2 * index), 16);
  for (let step = 0; step < 256; step++) {
    const place = (step / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(place), colours.length - 2);
    for (let index = 0; index < 3; index++) {
      const [from, to] = [channel(colours[low], index), channel(colours[low + 1], index)];
      table[3 * step + index] = from + (to - from) * (place - low);
    }
  }
  return table;
}
const COLOURS = { maps: palette(MAGMA), kernels: palette(RED_BLUE) };

async function greys(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return { width: canvas.width, values: data.filter((_, index) => index % 4 === 0) };
}

// A block of a sheet of grey values as a canvas in colours
function coloured(sheet, left, top, width, height, table) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let index = 0; index < width * height; index++) {
    const grey = sheet.values[(top + Math.floor(index / width)) * sheet.width + left + (index % width)];
    pixels.data.set([table[3 * grey], table[3 * grey + 1], table[3 * grey + 2], 255], 4 * index);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function look(root) {
  const data = JSON.parse(root.dataset.look);
  const find = (selector) => root.querySelector(selector);
  const unitMap = find(".zoo-unit-map");
  const state = { layer: 0, map: 0, row: 0, column: 0 };
  const sheets = data.layers.map(() => null);
  const layer = () => data.layers[state.layer];
  const panel = () => find(`[data-panel="${state.layer}"]`);

  async function load(number) {
    sheets[number] ??= { maps: await greys(data.layers[number].sheet) };
    const kernels = data.layers[number].kernels;
    if (kernels) sheets[number].kernels ??= await greys(kernels.sheet);
  }

  function columns() {
    const [count] = layer().maps;
    return Math.min(count, count <= 10 ? 5 : count <= 32 ? 8 : 16);
  }

  function geometry() {
    const [count, height, width] = layer().maps;
    const scale = Math.ceil(MIN_MAP / Math.max(height, width));
    return { count, scale, width: width * scale + LINE, height: height * scale + LINE, across: columns() };
  }

  function drawMaps() {
    const { count, scale, width, height, across } = geometry();
    const canvas = panel().querySelector(".zoo-maps");
    const [, rows, cells] = layer().maps;
    canvas.width = across * width - LINE;
    canvas.height = Math.ceil(count / across) * height - LINE;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    for (let map = 0; map < count; map++) {
      const picture = coloured(sheets[state.layer].maps, 0, map * rows, cells, rows, COLOURS.maps);
      const [left, top] = [(map % across) * width, Math.floor(map / across) * height];
      context.drawImage(picture, left, top, cells * scale, rows * scale);
    }
  }

  function drawUnit() {
    const [count, rows, cells] = layer().maps;
    const scale = Math.max(1, Math.round(224 / Math.max(rows, cells)));
    unitMap.width = cells * scale;
    unitMap.height = rows * scale;
    const context = unitMap.getContext("2d");
    context.imageSmoothingEnabled = false;
    const sheet = sheets[state.layer].maps;
    context.drawImage(coloured(sheet, 0, state.map * rows, cells, rows, COLOURS.maps), 0, 0, unitMap.width, unitMap.height);
    for (const [colour, width] of [["#000", 4], ["#5eead4", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(state.column * scale + 1, state.row * scale + 1, scale - 2, scale - 2);
    }
    const single = rows === 1 && cells === 1;
    find(".zoo-map-name").textContent = single ? `Value ${state.map + 1} of ${count}` : `Map ${state.map + 1} of ${count}, ${rows}×${cells}`;
    drawField();
    drawKernels();
    const grey = sheet.values[(state.map * rows + state.row) * sheet.width + state.column];
    const [low, high] = [layer().low[state.map], layer().high[state.map]];
    const value = (low + ((high - low) * grey) / 255).toPrecision(2);
    const where = single ? `Value ${state.map + 1}` : `Unit in row ${state.row + 1}, column ${state.column + 1} of map ${state.map + 1}`;
    find(".zoo-unit").textContent = `${where}: about ${Number(value)}. ${describe()}`;
  }

  // The field's parts as [first row, end row, first column, end column]
  function parts() {
    const boxes = [];
    for (const [rows, cells] of layer().reach ?? []) {
      const [high, wide] = [rows[state.row], cells[state.column]];
      for (let row = 0; row < high.length; row += 2) {
        for (let cell = 0; cell < wide.length; cell += 2) boxes.push([high[row], high[row + 1], wide[cell], wide[cell + 1]]);
      }
    }
    return boxes;
  }

  function describe() {
    if (!layer().reach) return "Its receptive field is not known.";
    const boxes = parts();
    if (!boxes.length) return "It sees padding only.";
    const [top, bottom] = [Math.min(...boxes.map((box) => box[0])), Math.max(...boxes.map((box) => box[1]))];
    const [left, right] = [Math.min(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3]))];
    if (bottom - top === data.input[0] && right - left === data.input[1]) return "It sees the whole input.";
    return `It sees ${bottom - top}×${right - left} pixels of the input: rows ${top + 1} to ${bottom}, columns ${left + 1} to ${right}.`;
  }

  function drawField() {
    const boxes = parts().map(([top, bottom, left, right]) => `<rect x="${left}" y="${top}" width="${right - left}" height="${bottom - top}"/>`);
    find(".zoo-look-pictures svg").innerHTML = boxes.join("");
  }

  function drawKernels() {
    const kernels = layer().kernels;
    find(".zoo-kernel").classList.toggle("zoo-none", !kernels);
    if (!kernels) return;
    const [inputs, height, width] = kernels.size;
    const across = Math.ceil(Math.sqrt(inputs));
    const [scale, gap] = [Math.max(1, Math.floor(160 / (across * Math.max(height, width)))), across > 1 ? LINE : 0];
    const canvas = find(".zoo-kernels");
    canvas.width = across * (width * scale + gap) - gap;
    canvas.height = Math.ceil(inputs / across) * (height * scale + gap) - gap;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    for (let index = 0; index < inputs; index++) {
      const picture = coloured(sheets[state.layer].kernels, index * width, state.map * height, width, height, COLOURS.kernels);
      const [left, top] = [(index % across) * (width * scale + gap), Math.floor(index / across) * (height * scale + gap)];
      context.drawImage(picture, left, top, width * scale, height * scale);
    }
    const first = inputs < kernels.of ? `, ${inputs} of ${kernels.of}` : "";
    find(".zoo-kernel figcaption").textContent = `Its kernel${inputs > 1 ? "s" : ""}${first}: red adds, blue subtracts`;
  }

  let wanted = 0;
  async function show(number) {
    wanted = number;
    await load(number);
    if (number !== wanted) return; // another layer was chosen meanwhile
    const [, rows, cells] = data.layers[number].maps;
    const before = layer().maps;
    // The same place in the image, as far as the new layer has it
    state.row = Math.min(rows - 1, Math.floor(((state.row + 0.5) * rows) / before[1]));
    state.column = Math.min(cells - 1, Math.floor(((state.column + 0.5) * cells) / before[2]));
    state.layer = number;
    state.map = Math.min(state.map, layer().maps[0] - 1);
    for (const button of root.querySelectorAll("[data-layer]")) {
      const chosen = Number(button.dataset.layer) === number;
      button.setAttribute("aria-pressed", chosen);
      if (chosen) button.parentNode.parentNode.scrollLeft = button.parentNode.offsetLeft - 80;
    }
    for (const section of root.querySelectorAll("[data-panel]")) section.hidden = Number(section.dataset.panel) !== number;
    drawMaps();
    drawUnit();
  }

  function place(canvas, event) {
    const box = canvas.getBoundingClientRect();
    return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
  }
  const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));

  function point(event) {
    const canvas = event.target;
    const [x, y] = canvas instanceof HTMLCanvasElement ? place(canvas, event) : [0, 0];
    const [count, rows, cells] = layer().maps;
    if (canvas === unitMap) {
      state.row = clamp(Math.floor((y * rows) / canvas.height), rows);
      state.column = clamp(Math.floor((x * cells) / canvas.width), cells);
    } else if (canvas.classList.contains("zoo-maps")) {
      const { width, height, across, scale } = geometry();
      const map = Math.floor(y / height) * across + clamp(Math.floor(x / width), across);
      if (map >= count) return;
      state.map = map;
      state.row = clamp(Math.floor((y % height) / scale), rows);
      state.column = clamp(Math.floor((x % width) / scale), cells);
    } else return;
    drawUnit();
  }

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  function press(event) {
    const step = STEPS[event.key];
    if (!step) return;
    const [count, rows, cells] = layer().maps;
    if (event.target === unitMap) {
      state.row = clamp(state.row + step[0], rows);
      state.column = clamp(state.column + step[1], cells);
    } else if (event.target.classList.contains("zoo-maps")) {
      state.map = clamp(state.map + step[0] * columns() + step[1], count);
    } else return;
    event.preventDefault();
    drawUnit();
  }

  root.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") point(event); });
  root.addEventListener("pointerdown", point);
  root.addEventListener("keydown", press);
  root.addEventListener("click", (event) => {
    const button = event.target.closest("[data-layer]");
    if (button) show(Number(button.dataset.layer));
  });
  const [, rows, cells] = layer().maps;
  [state.row, state.column] = [rows >> 1, cells >> 1];
  show(0).then(() => { root.dataset.ready = "true"; });
}

function start() {
  const root = element.querySelector(".zoo-look:not([data-started])");
  if (!root) return;
  root.dataset.started = "true";
  look(root);
}
new MutationObserver(start).observe(element, { childList: true, subtree: true });
start();
