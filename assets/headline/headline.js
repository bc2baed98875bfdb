// The headline numbers. At rest they are Python's; under the hand, and until Python has answered, they are the
// equaliser's estimates, with a hollow mark. While something is being measured the strip asks Python again, never
// during a drag. The equaliser's edits travel as the strip's own, so that these numbers alone are the answer.

const POLL_MS = 500;
const SETTLE_MS = 40; // from an answer to the drawing of all around it: answers that follow at once share one
const LOST_MS = 4000; // an answer that is this late will not come: ask again
const HOLLOW = new Set(["estimated", "predicted"]);
const strips = new WeakMap();

// Three digits with a prefix of thousands, as pages/components/tables.py writes them.
function three(x) {
  if (!x) return "0.00";
  const digits = 2 - Math.floor(Math.log10(Math.abs(Number(x.toPrecision(3)))));
  return x.toFixed(Math.max(0, Math.min(digits, 6)));
}

function prefixed(n, steps, plain) {
  for (const [size, unit] of steps) if (Math.abs(n) >= 0.9995 * size) return `${three(n / size)} ${unit}`;
  return plain(n);
}

const THOUSANDS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
const BYTES = [[2 ** 30, "GB"], [2 ** 20, "MB"], [2 ** 10, "kB"]];
const count = (n) => (n < 1e4 && Number.isInteger(n) ? n.toLocaleString("en") : prefixed(n, THOUSANDS, three));
const WRITE = {
  accuracy: (x) => `${(100 * x).toFixed(1)} %`,
  latency: (x) => `${three(x)} ms`,
  macs: (x) => count(Math.round(x)),
  params: (x) => count(Math.round(x)),
  size_bytes: (x) => prefixed(x, BYTES, (n) => `${n.toFixed(0)} bytes`),
};

function signed(x, digits) {
  const text = Math.abs(x).toFixed(digits);
  const sign = Number(text) === 0 ? "" : x > 0 ? "+" : "\u2212";
  return `${sign}${text}`;
}

function changeOf(name, { value, dense }) {
  if (!dense) return "";
  return name === "accuracy" ? `${signed(100 * (value - dense), 1)} points` : `${signed(100 * (value / dense - 1), 0)} %`;
}

// What the bars amount to, in the words of Python's cells.
function estimated(cell, figures) {
  const dense = cell.dense_value;
  const share = figures.params ? figures.params.value / figures.params.dense : null;
  const found = cell.name === "size_bytes" && share !== null && dense ? { value: dense * share, dense } : figures[cell.name];
  if (!found) return { ...cell, value: "not known yet", change: "", mark: "", detail: "", busy: false, unknown: true };
  const value = WRITE[cell.name](found.value);
  const against = found.dense ? `dense ${WRITE[cell.name](found.dense)}` : "";
  return { ...cell, value, change: changeOf(cell.name, found), dense: against, mark: "estimated", detail: "", busy: false, unknown: false };
}

function buildCell(strip, name) {
  const box = make("div", "cell", strip.list);
  box.dataset.figure = name;
  const head = make("dt", "head", box);
  const title = make("span", "title", head);
  const mark = make("span", "mark", head);
  const body = make("dd", "body", box);
  const parts = { box, title, mark };
  for (const part of ["value", "against", "detail"]) parts[part] = make("div", part, body);
  parts.change = make("b", "change", parts.against);
  parts.dense = make("span", "dense", parts.against);
  return parts;
}

// A write that changes nothing still costs the browser a new layout.
function paintCell(parts, cell) {
  const key = JSON.stringify(cell);
  if (parts.shown === key) return;
  parts.shown = key;
  parts.title.textContent = cell.title;
  parts.mark.textContent = cell.mark;
  parts.mark.className = `mark${HOLLOW.has(cell.mark) ? " hollow" : ""}${cell.busy ? " busy" : ""}`;
  parts.mark.hidden = !cell.mark;
  parts.value.textContent = cell.value;
  parts.value.classList.toggle("unknown", Boolean(cell.unknown));
  parts.change.textContent = cell.change;
  parts.dense.textContent = cell.dense;
  parts.detail.textContent = cell.detail;
  parts.box.title = cell.help || "";
}

function paint(strip) {
  const { live, data } = strip;
  for (const cell of data.cells) {
    if (!strip.cells.has(cell.name)) strip.cells.set(cell.name, buildCell(strip, cell.name));
    const shown = live && !cell.silent ? estimated(cell, live) : cell;
    paintCell(strip.cells.get(cell.name), shown);
  }
  strip.list.classList.toggle("moving", Boolean(live));
}

function plan(strip, delay) {
  clearTimeout(strip.timer);
  strip.timer = setTimeout(() => {
    if (!strip.root.isConnected || !strip.data.pending) return;
    if (!strip.live && !document.hidden) strip.setTriggerValue("tick", { at: Date.now() });
    plan(strip, strip.live || document.hidden ? POLL_MS : LOST_MS);
  }, delay);
}

function createStrip(root) {
  root.replaceChildren();
  const strip = { root, list: make("dl", "cells", root), cells: new Map(), live: null, timer: 0 };
  const hear = ({ detail }) => {
    const live = detail.moving ? detail.figures : null;
    if (!live && !strip.live) return;
    strip.live = live;
    cancelAnimationFrame(strip.painting);
    strip.painting = requestAnimationFrame(() => paint(strip));
  };
  // Taken by preventDefault: the equaliser sends what nobody takes itself.
  const carry = (event) => {
    if (strip.data?.ack == null || !root.isConnected) return;
    event.preventDefault();
    strip.setStateValue("edit", event.detail);
  };
  window.addEventListener("prunescope-estimates", hear);
  window.addEventListener("prunescope-edit", carry);
  strip.close = () => {
    window.removeEventListener("prunescope-estimates", hear);
    window.removeEventListener("prunescope-edit", carry);
    clearTimeout(strip.timer);
    clearTimeout(strip.settling);
  };
  return strip;
}

// What else stands on the page is older than these numbers: whoever drew it shall draw it anew.
function askForRest(strip, word) {
  if (word === strip.asked) return;
  strip.asked = word;
  clearTimeout(strip.settling);
  if (word) strip.settling = setTimeout(() => window.dispatchEvent(new CustomEvent("prunescope-redraw")), SETTLE_MS);
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".headline");
  if (!root || !data) return;
  let strip = strips.get(parentElement);
  if (!strip || strip.root !== root) {
    if (strip) strip.close();
    strip = createStrip(root);
    strips.set(parentElement, strip);
  }
  Object.assign(strip, { data, setStateValue, setTriggerValue });
  if (data.ack != null) window.dispatchEvent(new CustomEvent("prunescope-answer", { detail: data }));
  paint(strip);
  clearTimeout(strip.timer);
  if (data.pending) plan(strip, data.poll_ms || POLL_MS);
  askForRest(strip, data.redraw);
  return () => {
    if (!root.isConnected) strip.close();
  };
}
