// A picture to move through: a slider for the step, Play, the drawing, and a line that says what the step shows.
// Everything shown comes from Python; here it is only drawn. One drawer per kind of picture.

const NS = "http://www.w3.org/2000/svg";
const PLAY_MS = 14000; // for all steps together, at most
const LEAST_MS = 160, MOST_MS = 900;
const TONES = { "": "var(--curve)", taken: "var(--focus)", gone: "url(#hatch)", soft: "var(--line)", third: "var(--third)" };
const players = new WeakMap();
const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

function make(tag, className, parent, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.appendChild(node);
  return node;
}

function draw(tag, attributes, parent, text) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  parent.appendChild(node);
  return node;
}

function hatch(svg) {
  const pattern = draw("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, draw("defs", {}, svg));
  draw("rect", { width: 1.4, height: 5, fill: "var(--soft)", opacity: 0.45 }, pattern);
}

const LAYOUT = { left: 46, right: 10, top: 24, bottom: 34 };

function frameOf(svg, width, height, data, low, high) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  hatch(svg);
  const { left, right, top, bottom } = LAYOUT;
  const box = { x: left, y: top, width: width - left - right, height: height - top - bottom };
  box.up = (value) => box.y + box.height * (1 - (value - low) / (high - low || 1));
  for (const tick of data.ticks) {
    draw("line", { class: "axis", x1: left, x2: width - right, y1: box.up(tick), y2: box.up(tick) }, svg);
    draw("text", { x: left - 6, y: box.up(tick) + 4, "text-anchor": "end" }, svg, `${tick}`);
  }
  draw("text", { x: left, y: height - 4 }, svg, data.xlabel);
  draw("text", { x: 0, y: 11 }, svg, data.ylabel);
  return box;
}

// Bars that rise and fall. frames: [values, tones]; line: a level across each frame.
function bars(svg, width, data) {
  const box = frameOf(svg, width, 250, data, data.low, data.high);
  const step = box.width / data.items.length;
  const zero = box.up(Math.max(data.low, 0));
  const drawn = data.items.map((item, at) => {
    const group = draw("g", {}, svg);
    const bar = draw("rect", { class: "bar", x: box.x + at * step + step * 0.1, width: step * 0.8, rx: Math.min(2, step / 5) }, group);
    draw("title", {}, bar, item);
    const every = Math.ceil(data.items.length / Math.max(1, Math.floor(box.width / 44)));
    if (at % every === 0) draw("text", { x: box.x + (at + 0.5) * step, y: box.y + box.height + 14, "text-anchor": "middle" }, group, item);
    return bar;
  });
  const level = data.line ? draw("line", { x1: box.x, x2: box.x + box.width, stroke: "var(--focus)", "stroke-width": 2, "stroke-dasharray": "5 4" }, svg) : null;
  return (index) => {
    const { values, tones } = data.frames[index];
    drawn.forEach((bar, at) => {
      const end = box.up(values[at]);
      bar.setAttribute("y", Math.min(end, zero));
      bar.setAttribute("height", Math.max(values[at] ? 1 : 0, Math.abs(end - zero)));
      const tone = (tones && tones[at]) || "";
      bar.setAttribute("fill", TONES[tone]);
      bar.setAttribute("stroke", tone === "gone" ? "var(--soft)" : "none");
    });
    if (level) for (const name of ["y1", "y2"]) level.setAttribute(name, box.up(data.line[index]));
  };
}

// Curves over the steps, and a line that stands at the present one.
function lines(svg, width, data) {
  const box = frameOf(svg, width, 270, data, data.low, data.high);
  const across = (at) => box.x + (box.width * at) / Math.max(1, data.told.length - 1);
  const paths = data.series.map((one) => {
    const points = one.y.map((value, at) => (value === null ? null : `${across(at).toFixed(1)},${box.up(value).toFixed(1)}`)).filter(Boolean);
    const path = draw("polyline", { points: points.join(" "), fill: "none", "stroke-width": one.tone === "soft" ? 1 : 2.4 }, svg);
    draw("title", {}, path, one.name);
    return path;
  });
  for (const tick of data.xticks || []) draw("text", { x: across(tick.at), y: box.y + box.height + 14, "text-anchor": "middle" }, svg, tick.text);
  const mark = draw("line", { y1: box.y, y2: box.y + box.height, stroke: "var(--st-text-color)", "stroke-width": 1.4, "stroke-dasharray": "3 3" }, svg);
  const dots = data.series.map(() => draw("circle", { r: 4 }, svg));
  return (index) => {
    for (const name of ["x1", "x2"]) mark.setAttribute(name, across(index));
    data.series.forEach((one, at) => {
      const value = one.y[index];
      const tone = data.active ? (data.fresh[index].includes(at) ? "taken" : value ? "" : "soft") : one.tone;
      paths[at].setAttribute("stroke", TONES[tone]);
      paths[at].setAttribute("opacity", data.active && tone === "" ? 0.65 : 1);
      paths[at].setAttribute("stroke-width", tone === "taken" ? 3 : tone === "soft" ? 1 : data.active ? 1.5 : 2.4);
      const seen = value !== null && (!data.active || tone === "taken");
      dots[at].setAttribute("opacity", seen ? 1 : 0);
      dots[at].setAttribute("fill", TONES[tone]);
      if (seen) for (const [name, place] of [["cx", across(index)], ["cy", box.up(value)]]) dots[at].setAttribute(name, place);
    });
  };
}

// One cell for each filter; hatched: silent; framed: silent since just now.
function cells(svg, width, data) {
  const size = Math.max(18, Math.min(34, Math.floor(width / Math.min(data.count, 20)) - 2));
  const columns = Math.max(1, Math.min(data.count, Math.floor(width / (size + 3))));
  const height = Math.ceil(data.count / columns) * (size + 3) + 2;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  hatch(svg);
  const drawn = Array.from({ length: data.count }, (_, at) => {
    const [x, y] = [(at % columns) * (size + 3) + 1, Math.floor(at / columns) * (size + 3) + 1];
    const cell = draw("rect", { class: "bar", x, y, width: size, height: size, rx: 3, "stroke-width": 1 }, svg);
    const text = draw("text", { x: x + size / 2, y: y + size / 2 + 4, "text-anchor": "middle" }, svg, size < 22 && at > 99 ? "" : `${at}`);
    return { cell, text };
  });
  return (index) => {
    const { silent, fresh } = data.frames[index];
    drawn.forEach(({ cell, text }, at) => {
      const quiet = silent.includes(at), now = fresh.includes(at);
      cell.setAttribute("fill", quiet ? "url(#hatch)" : "color-mix(in srgb, var(--curve) 38%, var(--st-background-color))");
      cell.setAttribute("stroke", now ? "var(--focus)" : quiet ? "var(--soft)" : "var(--curve)");
      cell.setAttribute("stroke-width", now ? 3 : 1);
      text.setAttribute("class", quiet ? "" : "strong");
    });
  };
}

// A layer's filters in a row, and under each the weights of the next layer that read its channel: both leave together.
function leaving(svg, width, data) {
  const rows = Math.min(data.outputs, 10), cell = 9, name = 20;
  const height = name + 26 + name + 16 + rows * (cell + 2);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  const step = Math.min(22, width / data.columns.length), lower = name + 26 + name + 14;
  draw("text", { class: "strong", x: 0, y: 13 }, svg, data.maker);
  draw("text", { class: "strong", x: 0, y: lower - 7 }, svg, data.reader);
  const drawn = data.columns.map(() => {
    const column = draw("g", { class: "mover" }, svg);
    draw("rect", { x: 0, y: name, width: step * 0.8, height: 24, rx: 2, fill: "var(--curve)" }, column);
    for (let row = 0; row < rows; row += 1) {
      draw("rect", { x: 0, y: lower + row * (cell + 2), width: step * 0.8, height: cell, rx: 1, fill: "var(--third)", opacity: 0.75 }, column);
    }
    return column;
  });
  return (index) => {
    const gone = new Set(data.frames[index]);
    let place = 0;
    drawn.forEach((column, at) => {
      const out = gone.has(at);
      column.style.opacity = out ? 0 : 1;
      column.style.transform = `translate(${place * step}px, ${out ? -14 : 0}px)`;
      if (!out) place += 1;
    });
  };
}

const KINDS = { bars, lines, cells, leaving };

function create(root) {
  const player = { root, at: 0, name: "", timer: null, show: () => {} };
  const controls = make("div", "controls", root);
  player.play = make("button", "", controls, "Play");
  player.play.type = "button";
  const label = make("label", "", controls);
  player.label = make("span", "", label);
  player.range = make("input", "", label);
  Object.assign(player.range, { type: "range", min: 0, step: 1 });
  player.count = make("output", "", controls);
  player.svg = document.createElementNS(NS, "svg");
  player.svg.setAttribute("role", "img");
  root.appendChild(player.svg);
  player.key = make("ul", "key", root);
  player.told = make("p", "told", root);
  player.told.setAttribute("aria-live", "polite");
  player.range.addEventListener("input", () => (stop(player), move(player, Number(player.range.value))));
  player.play.addEventListener("click", () => (player.timer === null ? start(player) : stop(player)));
  player.watch = new ResizeObserver(() => redraw(player));
  player.watch.observe(root);
  return player;
}

function move(player, at) {
  const { data } = player;
  player.at = Math.max(0, Math.min(at, data.told.length - 1));
  player.range.value = player.at;
  player.range.setAttribute("aria-valuetext", data.steps[player.at]);
  player.count.textContent = data.steps[player.at];
  player.told.textContent = data.told[player.at];
  player.svg.setAttribute("aria-label", `${data.alt} ${data.told[player.at]}`);
  player.show(player.at);
}

function start(player) {
  const last = player.data.told.length - 1;
  if (player.at >= last) move(player, 0);
  const pace = Math.max(still() ? MOST_MS : LEAST_MS, Math.min(MOST_MS, PLAY_MS / Math.max(1, last)));
  player.play.textContent = "Pause";
  player.told.setAttribute("aria-live", "off"); // a step every moment would only be noise
  player.timer = setInterval(() => (player.at >= last ? stop(player) : move(player, player.at + 1)), pace);
}

function stop(player) {
  if (player.timer !== null) clearInterval(player.timer);
  player.timer = null;
  player.play.textContent = "Play";
  player.told.setAttribute("aria-live", "polite");
}

function redraw(player) {
  const width = Math.round(player.root.clientWidth);
  if (!width || !player.data || (width === player.width && player.drawn === player.data)) return;
  Object.assign(player, { width, drawn: player.data });
  player.show = KINDS[player.data.kind](player.svg, width, player.data);
  move(player, player.at);
}

function fill(player, data) {
  player.data = data;
  if (player.name !== data.name) Object.assign(player, { name: data.name, at: data.start });
  player.label.textContent = data.label;
  player.range.setAttribute("aria-label", data.label);
  player.range.max = data.told.length - 1;
  player.key.replaceChildren();
  for (const { text, tone } of data.key || []) {
    const item = make("li", "", player.key);
    const sign = make("i", tone === "gone" ? "hatched" : tone === "framed" ? "framed" : "", item);
    sign.style.setProperty("--tone", TONES[tone] || tone);
    item.append(text);
  }
  redraw(player);
}

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".player");
  let player = players.get(root);
  if (!player) players.set(root, (player = create(root)));
  if (data && JSON.stringify(data) !== player.text) {
    player.text = JSON.stringify(data);
    fill(player, data);
  }
  return () => stop(player);
}
