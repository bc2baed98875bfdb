// The row above the bars: find a layer, how handles share a move out, zoom; and what is marked.

const KEYS = [
  ["Drag, or \u2191 \u2193", "one bar, one channel"],
  ["Page up, Page down", "10 %"],
  ["Home, End", "as few as possible, all"],
  ["30 Enter", "remove 30 %; or click a bar's number and type how many stay"],
  ["Ctrl or Shift click, Space", "mark bars: marked ones move together"],
  ["Esc", "take a drag back; unmark all"],
  ["Ctrl Z, Ctrl Shift Z", "undo, redo, anywhere on the page"],
  ["/", "find a layer"],
  ["?", "this list"],
];
const settled = { spread: "mix", zoom: 0 }; // survives a page switch while the tab lives

function buildTools(root) {
  const bar = make("div", "tools", root);
  const find = make("input", "find", bar, { type: "search", placeholder: "Find a layer", "aria-label": "Find a layer", autocomplete: "off", spellcheck: "false" });
  const told = make("span", "find-told", bar, { role: "status" });
  const label = make("label", "spread", bar);
  make("span", "", label).textContent = "All groups and stages move";
  const spread = make("select", "", label);
  for (const [value, text] of Object.entries(SPREADS)) make("option", "", spread, { value }).textContent = text;
  const marks = make("span", "marks", bar, { hidden: "" });
  const count = make("b", "", marks);
  const clear = make("button", "clear", marks, { type: "button" });
  clear.textContent = "Unmark";
  const zoom = make("span", "zoom", bar, { role: "group", "aria-label": "Zoom" });
  const out = make("button", "", zoom, { type: "button", "aria-label": "Narrower bars" });
  out.textContent = "\u2212";
  const into = make("button", "", zoom, { type: "button", "aria-label": "Wider bars" });
  into.textContent = "+";
  const picture = pictureButton(bar, "take", () => {});
  return { bar, find, told, spread, marks, count, clear, out, into, picture };
}

function buildKeys(parent) {
  const box = make("details", "keys", parent);
  make("summary", "", box).textContent = "Keyboard and mouse";
  const list = make("dl", "", box);
  for (const [keys, what] of KEYS) {
    make("dt", "", list).textContent = keys;
    make("dd", "", list).textContent = what;
  }
  return box;
}

function paintTools(desk) {
  const { tools } = desk.view;
  const { model } = desk;
  const timed = Boolean(model.cost.latency_terms);
  const scanned = model.rows.some((row) => model.curves.get(row.id));
  for (const option of tools.spread.options) {
    if (option.value === "loss") option.disabled = !scanned;
    const words = timed ? SPREADS.time : "saving equal MACs";
    if (option.value === "time" && option.textContent !== words) option.textContent = words;
  }
  if (desk.spread === "loss" && !scanned) desk.spread = "mix";
  if (tools.spread.value !== desk.spread) tools.spread.value = desk.spread;
  const marked = desk.marked.size;
  tools.marks.hidden = !marked;
  if (marked) tools.count.textContent = `${marked} marked`;
  for (const [id, cell] of desk.view.cells) cell.column.classList.toggle("marked", desk.marked.has(id));
}

function mark(desk, id, upTo = false) {
  const { rows } = desk.model;
  if (upTo && desk.lastMarked) {
    const places = [desk.lastMarked, id].map((one) => rows.findIndex((row) => row.id === one));
    for (const row of rows.slice(Math.min(...places), Math.max(...places) + 1)) if (!row.reason) desk.marked.add(row.id);
  } else if (!desk.marked.delete(id)) desk.marked.add(id);
  desk.lastMarked = id;
  desk.repaint();
}

function unmark(desk) {
  if (!desk.marked.size) return false;
  desk.marked.clear();
  desk.repaint();
  return true;
}

function matches(model, text) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  return model.rows.filter((row) => [row.name, ...(row.members || [])].some((name) => name.toLowerCase().includes(wanted)));
}

function search(desk, next = false) {
  const { view, model } = desk;
  const found = matches(model, view.tools.find.value);
  const before = found.findIndex((row) => row.id === view.found);
  const hit = found[next ? (before + 1) % found.length : Math.max(0, before)];
  view.found = hit ? hit.id : null;
  const wanted = view.tools.find.value.trim();
  view.tools.told.textContent = !wanted ? "" : found.length ? `${found.indexOf(hit) + 1} of ${found.length}` : "none";
  const ids = new Set(found.map((row) => row.id));
  view.root.classList.toggle("searching", Boolean(wanted && found.length));
  for (const [id, cell] of view.cells) cell.column.classList.toggle("hit", ids.has(id));
  if (hit) showColumn(view, hit.id);
  paintOverview(view, model);
}

function showColumn(view, id) {
  const box = view.cells.get(id).column.getBoundingClientRect();
  const area = view.scroller.getBoundingClientRect();
  if (box.left < area.left || box.right > area.right) view.scroller.scrollLeft += box.left - area.left - area.width / 2 + box.width / 2;
}

function zoomBy(desk, steps) {
  settled.zoom = Math.max(-4, Math.min(4, settled.zoom + steps));
  const { view, model } = desk;
  const middle = (view.scroller.scrollLeft + view.scroller.clientWidth / 2) / Math.max(1, view.scroller.scrollWidth);
  fitColumns(view, model);
  view.scroller.scrollLeft = middle * view.scroller.scrollWidth - view.scroller.clientWidth / 2;
  paintOverview(view, model);
}

function wireTools(desk) {
  const { tools, scroller } = desk.view;
  desk.spread = settled.spread;
  tools.spread.addEventListener("change", () => (desk.spread = settled.spread = tools.spread.value));
  tools.clear.addEventListener("click", () => unmark(desk));
  tools.picture.addEventListener("click", () => desk.model && takePicture(desk));
  tools.out.addEventListener("click", () => zoomBy(desk, -1));
  tools.into.addEventListener("click", () => zoomBy(desk, 1));
  scroller.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomBy(desk, event.deltaY < 0 ? 1 : -1);
  }, { passive: false });
  tools.find.addEventListener("input", () => search(desk));
  tools.find.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && desk.view.found) {
      event.preventDefault();
      if (event.shiftKey || desk.model.selected === desk.view.found) search(desk, true);
      desk.pick(desk.view.found);
    } else if (event.key === "Escape") {
      tools.find.value = "";
      search(desk);
    }
  });
}

// Keys that work wherever the focus is, unless somebody is typing.
function wirePage(desk) {
  const { root } = desk.view;
  const hear = (event) => {
    if (!root.isConnected) return window.removeEventListener("keydown", hear);
    const at = event.composedPath()[0];
    if (at.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(at.tagName)) return undefined;
    const control = event.ctrlKey || event.metaKey;
    if (control && event.key.toLowerCase() === "z") {
      endKeys(desk);
      if (!desk.gesture) desk.outbox.command(event.shiftKey ? "redo" : "undo");
    } else if (!control && !event.altKey && event.key === "/") desk.view.tools.find.focus();
    else if (!control && event.key === "?") {
      desk.view.keys.open = !desk.view.keys.open;
      if (desk.view.keys.open) desk.view.keys.scrollIntoView({ block: "nearest" });
    } else return undefined;
    event.preventDefault();
    event.stopPropagation();
    return undefined;
  };
  window.addEventListener("keydown", hear);
}
