// Groups x channels on a canvas: one strip per group, one cell per unit, colour by score. Sorting, scaling and the
// read-out are done here; Python hears only a click.

// Cividis: monotone in lightness and made for colour-blind eyes (Nunez, Anderton, Renslow 2018), every 1/10.
const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#f1da48", "#fee838"];
const TABLE = Array.from({ length: 256 }, (_, level) => {
  const place = (level / 255) * (CIVIDIS.length - 1);
  const index = Math.min(Math.floor(place), CIVIDIS.length - 2);
  const channel = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  return [1, 3, 5].map((at) => {
    const [a, b] = [channel(CIVIDIS[index], at), channel(CIVIDIS[index + 1], at)];
    return Math.round(a + (b - a) * (place - index));
  });
});
const GAP = 3;
const DIM = 0.62; // how far a pruned cell fades into the background
const NAMED = 3; // layers told by name; of more, how many
const HATCH = { least: 5, step: 6 };
const SORTED = "prunescope-sorted";
const maps = new WeakMap();

function addSwitch(parent, text, checked, onChange) {
  const label = make("label", "", parent);
  const box = make("input", "", label);
  Object.assign(box, { type: "checkbox", checked });
  label.append(text);
  box.addEventListener("change", () => onChange(box.checked));
  return { label, box };
}

function createMap(root) {
  const map = { root, sorted: false, along: true, shared: false, filled: true, cell: null, rows: [] };
  const head = make("div", "head", root);
  map.title = make("div", "title", head);
  const switches = make("div", "switches", head);
  map.sort = addSwitch(switches, "Sort channels by score", false, (on) => (sortMap(map, on), tellSorted(map)));
  map.same = addSwitch(switches, "Same order as the other map", true, (on) => ((map.along = on), prepare(map), follow(map), draw(map)));
  addSwitch(switches, "One colour scale for all groups", false, (on) => ((map.shared = on), prepare(map), draw(map)));
  addSwitch(switches, "Cells of equal width", false, (on) => ((map.filled = !on), draw(map)));
  pictureButton(switches, "picture", () => takePicture(map));
  const body = make("div", "body", root);
  map.labels = make("div", "labels", body);
  map.frame = make("div", "frame", body);
  map.canvas = make("canvas", "", map.frame);
  map.notes = make("div", "notes", body);
  map.canvas.tabIndex = 0;
  map.canvas.setAttribute("role", "application");
  const below = make("div", "below", root);
  map.readout = make("div", "readout", below);
  map.readout.setAttribute("role", "status");
  map.legend = make("div", "legend", below);
  wire(map);
  new ResizeObserver(() => draw(map)).observe(map.frame);
  const heard = () => (root.isConnected ? follow(map) : document.removeEventListener(SORTED, heard));
  document.addEventListener(SORTED, heard);
  return map;
}

// Two maps side by side are two components; the document is what both can see.
function tellSorted(map) {
  document.prunescopeSorted = { ...document.prunescopeSorted, [map.data.name]: map.sorted };
  document.dispatchEvent(new Event(SORTED));
}

// A map that stands beside another is sorted when that one is.
function follow(map) {
  const other = map.data && map.data.follows;
  if (!other || !map.along) return;
  const wanted = Boolean((document.prunescopeSorted || {})[other]);
  if (wanted !== map.sorted) sortMap(map, wanted);
}

function sortMap(map, on) {
  map.sorted = on;
  map.sort.box.checked = on;
  draw(map);
}

function extent(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value === null) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low > high ? [0, 0] : [low, high];
}

// Everything per row that drawing needs: a byte per cell (255 = absent), order by score, ranks from the top.
function prepare(map) {
  const spans = map.data.rows.map((row) => extent(row.scores));
  map.span = extent(spans.flat());
  map.rows = map.data.rows.map((row, index) => {
    const [low, high] = map.shared ? map.span : spans[index];
    const level = (score) => (score === null ? 255 : high > low ? Math.round((254 * (score - low)) / (high - low)) : 127);
    const order = row.scores.map((_, unit) => unit).sort((a, b) => (row.scores[b] ?? -Infinity) - (row.scores[a] ?? -Infinity) || a - b);
    const rank = new Int32Array(order.length);
    order.forEach((unit, place) => (rank[unit] = place + 1));
    const shown = map.along && row.along.length ? row.along : order;
    const place = new Int32Array(shown.length);
    shown.forEach((unit, at) => (place[unit] = at));
    return { ...row, levels: Uint8Array.from(row.scores, level), shown, place, rank, gone: new Set(row.pruned || []) };
  });
}

const unitAt = (map, row, place) => (map.sorted ? row.shown[place] : place);
const placeOf = (map, row, unit) => (map.sorted ? row.place[unit] : unit);

function layOut(map) {
  const rows = map.rows.length;
  const pitch = Math.max(11 + GAP, Math.min(26, Math.floor(420 / Math.max(1, rows))));
  const longest = Math.max(1, ...map.rows.map((row) => row.scores.length));
  const room = Math.max(80, map.frame.clientWidth);
  const cell = Math.max(2, Math.min(14, room / longest));
  const width = map.filled ? room : Math.max(room, Math.ceil(cell * longest));
  map.layout = { pitch, cell, width, height: rows * pitch, widthOf: (row) => (map.filled ? width : cell * row.scores.length) };
}

// A strip of one pixel per unit, stretched when drawn: as cheap for 2,048 units as for 16.
function stripOf(map, row, background) {
  const units = row.scores.length;
  const strip = new OffscreenCanvas(units, 1);
  const context = strip.getContext("2d");
  const image = context.createImageData(units, 1);
  for (let place = 0; place < units; place += 1) {
    const unit = unitAt(map, row, place);
    const level = row.levels[unit];
    if (level === 255) continue;
    const fade = row.gone.has(unit) ? DIM : 0;
    for (let part = 0; part < 3; part += 1) image.data[4 * place + part] = TABLE[level][part] * (1 - fade) + background[part] * fade;
    image.data[4 * place + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return strip;
}

// Pruned runs are hatched as well as faded: a mark that does not hang on colour.
function hatch(map, context, row, top, height, width, ink) {
  const cell = width / row.scores.length;
  for (let place = 0; place < row.scores.length; ) {
    const start = place;
    while (place < row.scores.length && row.gone.has(unitAt(map, row, place))) place += 1;
    if (place === start) {
      place += 1;
      continue;
    }
    if ((place - start) * cell < HATCH.least) continue;
    context.save();
    context.beginPath();
    context.rect(start * cell, top, (place - start) * cell, height);
    context.clip();
    context.beginPath();
    const first = Math.floor((start * cell - height) / HATCH.step) * HATCH.step;
    for (let x = first; x < place * cell; x += HATCH.step) context.moveTo(x, top + height), context.lineTo(x + height, top);
    context.strokeStyle = ink;
    context.stroke();
    context.restore();
  }
}

function coloursOf(map) {
  const probe = make("i", "theme-probe", map.root);
  const background = getComputedStyle(probe).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  probe.remove();
  const ink = getComputedStyle(map.root).color;
  const accent = getComputedStyle(map.root).getPropertyValue("--st-primary-color");
  return { background, ink, accent };
}

function draw(map) {
  if (!map.data || !map.frame.clientWidth) return;
  layOut(map);
  const { pitch, width, height } = map.layout;
  const ratio = window.devicePixelRatio || 1;
  Object.assign(map.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  Object.assign(map.canvas.style, { width: `${width}px`, height: `${height}px` });
  const context = map.canvas.getContext("2d");
  context.scale(ratio, ratio);
  const colours = coloursOf(map);
  drawStrips(map, context, colours, ratio);
  for (const [place, weight] of [[map.data.selected, 2.5], [map.cell, 1.5]]) outline(map, context, place, weight, colours);
  drawLabels(map);
  drawLegend(map);
}

function drawStrips(map, context, colours, ratio) {
  const { pitch } = map.layout;
  map.rows.forEach((row, index) => {
    const wide = map.layout.widthOf(row);
    if (!row.scores.length) return;
    context.imageSmoothingEnabled = row.scores.length > wide * ratio;
    context.drawImage(stripOf(map, row, colours.background), 0, 0, row.scores.length, 1, 0, index * pitch, wide, pitch - GAP);
    context.lineWidth = 1;
    hatch(map, context, row, index * pitch, pitch - GAP, wide, `color-mix(in srgb, ${colours.ink} 45%, transparent)`);
  });
}

function outline(map, context, place, weight, colours) {
  const index = place ? map.rows.findIndex((row) => row.id === place.id) : -1;
  if (index < 0 || place.channel == null || place.channel >= map.rows[index].scores.length) return;
  const row = map.rows[index];
  const cell = map.layout.widthOf(row) / row.scores.length;
  const x = placeOf(map, row, place.channel) * cell;
  const { pitch } = map.layout;
  context.strokeStyle = `rgb(${colours.background.join(",")})`;
  context.lineWidth = weight + 2;
  context.strokeRect(x, index * pitch + 0.5, Math.max(cell, 3), pitch - GAP - 1);
  context.strokeStyle = weight > 2 ? colours.accent : colours.ink;
  context.lineWidth = weight;
  context.strokeRect(x, index * pitch + 0.5, Math.max(cell, 3), pitch - GAP - 1);
}

function drawLabels(map) {
  const key = JSON.stringify([map.layout.pitch, map.rows.map((row) => row.name)]);
  if (map.labelKey !== key) {
    map.labelKey = key;
    map.labels.replaceChildren();
    for (const row of map.rows) {
      const label = make("div", "", map.labels, row.name.length > 22 ? `\u2026${row.name.slice(-21)}` : row.name);
      label.title = row.name;
      label.style.height = `${map.layout.pitch}px`;
      label.style.paddingBottom = `${GAP}px`;
    }
  }
  const current = (map.cell || map.data.selected || {}).id;
  map.rows.forEach((row, index) => map.labels.children[index].classList.toggle("current", row.id === current));
  drawNotes(map);
}

// A word beside each strip; the column's head says what it is.
function drawNotes(map) {
  const key = JSON.stringify([map.layout.pitch, map.rows.map((row) => row.note), map.data.notes]);
  if (map.noteKey === key) return;
  map.noteKey = key;
  map.notes.replaceChildren();
  map.notes.hidden = !map.data.notes;
  if (!map.data.notes) return;
  map.notes.title = map.data.notes;
  for (const row of map.rows) {
    const note = make("div", "", map.notes, row.note || "");
    note.style.height = `${map.layout.pitch}px`;
    note.style.paddingBottom = `${GAP}px`;
  }
}

const listed = (names) => names.slice(0, NAMED).join(", ") + (names.length > NAMED ? ` and ${names.length - NAMED} more` : "");

// The filters that make a unit, and the layers that read it, in words.
function membersOf(row, unit) {
  const members = row.members || [];
  const filters = (at) => (at ? `${/[-, ]/.test(at[unit]) ? "filters" : "filter"} ${at[unit]}` : `filter ${unit}`);
  const byFilters = new Map();
  for (const one of members.filter((each) => each.makes)) {
    const what = filters(one.at);
    byFilters.set(what, [...(byFilters.get(what) || []), one.layer]);
  }
  const made = [...byFilters].map(([what, layers]) => `${what} of ${listed(layers)}`).join("; ");
  const read = members.filter((each) => !each.makes).map((each) => each.layer);
  return [made && `Made by ${made}`, read.length && `read by ${listed(read)}`].filter(Boolean).join(", ");
}

function formatScore(value) {
  if (value === null || value === undefined) return "no score";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
  return text.replace("-", "\u2212");
}

function drawLegend(map) {
  const unit = map.data.unit ? ` ${map.data.unit}` : "";
  const ends = map.shared ? map.span.map((value) => formatScore(value)) : ["lowest in its group", "highest in its group"];
  map.legend.replaceChildren();
  const scale = make("span", "scale", map.legend);
  make("span", "", scale, ends[0]);
  make("span", "ramp", scale).style.background = `linear-gradient(to right, ${CIVIDIS.join(",")})`;
  make("span", "", scale, map.shared ? ends[1] + unit : ends[1]);
  if (map.rows.some((row) => row.gone.size)) make("span", "swatch", map.legend, "pruned in this plan");
  if (map.data.notes) make("span", "", map.legend, map.data.notes);
}

function showCell(map, cell) {
  map.cell = cell;
  const row = cell && map.rows.find((candidate) => candidate.id === cell.id);
  map.readout.replaceChildren();
  if (row) {
    make("b", "", map.readout, `${row.name}, channel ${cell.channel}`);
    const unit = map.data.unit ? ` ${map.data.unit}` : "";
    const rank = `rank ${row.rank[cell.channel]} of ${row.scores.length}`;
    map.readout.append(`: ${formatScore(row.scores[cell.channel])}${unit}, ${rank}${row.gone.has(cell.channel) ? ", pruned" : ""}`);
    if (row.members) make("div", "members", map.readout, membersOf(row, cell.channel));
  } else map.readout.textContent = "Point at a cell for its score; click to select it. Arrow keys move, Enter selects.";
  cancelAnimationFrame(map.frameRequest);
  map.frameRequest = requestAnimationFrame(() => draw(map));
}

function cellAt(map, event) {
  const box = map.canvas.getBoundingClientRect();
  const index = Math.floor((event.clientY - box.top) / map.layout.pitch);
  const row = map.rows[index];
  if (!row || !row.scores.length) return null;
  const place = Math.floor(((event.clientX - box.left) / map.layout.widthOf(row)) * row.scores.length);
  return place >= 0 && place < row.scores.length ? { id: row.id, channel: unitAt(map, row, place) } : null;
}

function moveCell(map, down, right, jump) {
  const from = map.cell || map.data.selected;
  const index = Math.max(0, map.rows.findIndex((row) => from && row.id === from.id));
  const row = map.rows[index];
  const share = from ? (placeOf(map, row, from.channel) + 0.5) / row.scores.length : 0;
  const next = map.rows[Math.min(map.rows.length - 1, Math.max(0, index + down))];
  const last = next.scores.length - 1;
  let place = next === row ? placeOf(map, row, from ? from.channel : 0) + right : Math.floor(share * next.scores.length);
  if (jump !== undefined) place = jump * last;
  return { id: next.id, channel: unitAt(map, next, Math.min(last, Math.max(0, place))) };
}

function wire(map) {
  const { canvas } = map;
  canvas.addEventListener("pointermove", (event) => {
    const cell = cellAt(map, event);
    if (JSON.stringify(cell) !== JSON.stringify(map.cell)) showCell(map, cell);
  });
  canvas.addEventListener("pointerleave", () => showCell(map, null));
  const choose = (cell) => {
    if (!cell) return;
    map.data.selected = cell;
    showCell(map, cell);
    map.setTriggerValue("pick", cell);
  };
  canvas.addEventListener("click", (event) => choose(cellAt(map, event)));
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [0, -16], PageDown: [0, 16], Home: [0, 0, 0], End: [0, 0, 1] };
    if (event.key === "Enter" || event.key === " ") choose(map.cell);
    else if (event.key in moves && map.rows.length) showCell(map, moveCell(map, ...moves[event.key]));
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".heatmap");
  if (!root || !data) return;
  let map = maps.get(parentElement);
  if (!map || map.root !== root) {
    map = createMap(root);
    maps.set(parentElement, map);
  }
  Object.assign(map, { data, setTriggerValue });
  map.title.textContent = data.title;
  if (data.unit) make("span", "unit", map.title, data.unit);
  map.canvas.setAttribute("aria-label", `${data.title}: groups by channels. Arrow keys move, Enter selects.`);
  map.same.label.style.display = data.follows ? "" : "none";
  prepare(map);
  follow(map);
  showCell(map, map.cell && map.rows.some((row) => row.id === map.cell.id && map.cell.channel < row.scores.length) ? map.cell : null);
}
