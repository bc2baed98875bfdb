// The picture: builds the desk once per set of rows, then only moves what moved.

const ICONS = {
  open: '<svg viewBox="0 0 16 16" aria-hidden="true"><rect x="3.5" y="7.5" width="9" height="6" rx="1.4"/><path d="M5.5 7.5V5a2.5 2.5 0 0 1 4.7-1.2"/></svg>',
  shut: '<svg viewBox="0 0 16 16" aria-hidden="true"><rect class="body" x="3.5" y="7.5" width="9" height="6" rx="1.4"/><path d="M5.5 7.5V5a2.5 2.5 0 0 1 5 0v2.5"/></svg>',
};
const WIDE_COLUMN = 68; // from here names stand upright under their bar
const COLUMN_RANGE = [36, 96];
const ZOOM = 1.35;
const NARROWEST = 14;
const TINY_COLUMN = 30; // under it numbers and locks would overlap

function shortName(name, room) {
  return name.length <= room ? name : `\u2026${name.slice(name.length - room + 1)}`;
}

function buildFader(column, label) {
  const fader = make("div", "fader", column, {
    role: "slider", tabindex: "0", "aria-orientation": "vertical", "aria-label": label,
  });
  const slot = make("div", "slot", fader);
  make("div", "fill", slot);
  make("div", "cap", fader);
  return fader;
}

// A stage: neighbouring groups whose maps have one size. Its head is a slider that moves them all.
function buildStage(stage, parent, many) {
  const box = make("div", "stage", parent);
  const columns = make("div", "stage-columns");
  let head = null;
  if (many) {
    head = make("div", "stage-head", box, {
      role: "slider", tabindex: "0", "aria-orientation": "horizontal", "aria-label": `Stage ${stage.name}, ${stage.rows.length} groups`,
    });
    make("div", "stage-fill", head);
    make("span", "", head).textContent = stage.name;
    make("b", "", head);
  }
  box.appendChild(columns);
  return { box, head, columns, stage };
}

function buildColumn(row, parent) {
  const column = make("div", "column", parent);
  column.dataset.id = row.id;
  const fader = buildFader(column, row.name);
  if ((row.members || []).length > 1) fader.setAttribute("aria-description", `pruned together: ${row.members.join(", ")}`);
  const count = make("button", "count", column, { type: "button", title: "Type how many stay" });
  const kept = make("b", "", count);
  const of = make("span", "", count);
  of.textContent = `of ${row.units}`;
  const lock = make("button", "lock", column, { type: "button" });
  const name = make("button", "name", column, { type: "button", title: row.name, "aria-label": `Select ${row.name}` });
  const text = make("span", "", name);
  return { column, fader, count, kept, lock, name, text, row };
}

function buildDesk(root) {
  root.replaceChildren();
  const strip = make("div", "strip", root, { role: "group", "aria-label": "Estimates for this plan" });
  const tools = buildTools(root);
  const overview = buildOverview(root);
  const desk = make("div", "desk", root);
  const axis = make("div", "axis", desk, { "aria-hidden": "true" });
  make("span", "axis-title", axis).textContent = "Kept channels";
  const ticks = make("div", "ticks", axis);
  for (const share of [100, 75, 50, 25, 0]) make("span", "", ticks).textContent = `${share} %`;
  const master = make("div", "column master", desk);
  const masterFader = buildFader(master, "All groups");
  const masterCount = make("div", "count", master);
  const masterKept = make("b", "", masterCount);
  make("span", "", masterCount).textContent = "of all";
  make("div", "master-name", master).textContent = "All groups";
  const scroller = make("div", "scroller", desk);
  const columns = make("div", "columns", scroller, {
    role: "group", "aria-label": "Groups of channels, in network order", id: "equaliser-columns",
  });
  const foot = make("div", "foot", root);
  const legend = make("div", "legend", foot);
  const keys = buildKeys(foot);
  const tip = make("div", "tip", root, { role: "tooltip" });
  const typed = make("div", "typed", root, { role: "status" });
  const probe = make("i", "theme-probe", root);
  return { root, probe, strip, tools, overview, keys, stages: [], desk, master: { column: master, fader: masterFader, kept: masterKept }, scroller, columns, legend, tip, typed, cells: new Map(), figures: {} };
}

function buildRows(view, model) {
  view.columns.replaceChildren();
  view.cells.clear();
  view.stages = model.stages.map((stage) => buildStage(stage, view.columns, model.stages.length > 1));
  view.root.classList.toggle("staged", model.stages.length > 1);
  for (const { columns, stage } of view.stages) for (const row of stage.rows) view.cells.set(row.id, buildColumn(row, columns));
  fitColumns(view, model);
}

// Column width from the room there is; narrow columns turn their names by 90 degrees.
function fitColumns(view, model) {
  const room = view.scroller.clientWidth;
  if (!room || !model.rows.length) return;
  const fitting = Math.min(COLUMN_RANGE[1], Math.max(COLUMN_RANGE[0], Math.floor(room / model.rows.length)));
  const width = Math.max(NARROWEST, Math.min(COLUMN_RANGE[1], Math.round(fitting * ZOOM ** settled.zoom)));
  const upright = width >= WIDE_COLUMN && model.rows.every((row) => row.name.length <= width / 6.2);
  view.root.style.setProperty("--column", `${width}px`);
  view.root.classList.toggle("upright", upright);
  view.root.classList.toggle("tiny", width < TINY_COLUMN);
  view.overview.box.hidden = width * model.rows.length <= room + 2 && !settled.zoom;
  for (const cell of view.cells.values()) cell.text.textContent = shortName(cell.row.name, upright ? 14 : 17);
  // The longest name sets the height for all, so that the foot of the desk stays a line.
  view.overview.width = view.overview.box.clientWidth;
  const longest = Math.max(...[...view.cells.values()].map((cell) => cell.text.offsetHeight));
  view.root.style.setProperty("--names", `${Math.max(24, longest + 8)}px`);
  placeWindow(view);
  if (view.theme) paintOverview(view, model);
}

function buildLegend(view, theme, anyCurve, anyMissing) {
  const key = `${theme}|${anyCurve}|${anyMissing}`;
  if (view.legendKey === key) return;
  view.legendKey = key;
  view.legend.replaceChildren();
  if (anyCurve) {
    make("span", "legend-title", view.legend).textContent = "Points of accuracy lost as cut, this group alone";
    const scale = make("div", "scale", view.legend);
    const stops = Array.from({ length: 13 }, (_, i) => heatColour(i / 12, theme));
    make("div", "ramp", scale).style.background = `linear-gradient(to right, ${stops.join(",")})`;
    for (const points of LEGEND_POINTS) {
      const tick = make("span", "", scale);
      tick.textContent = points === HOTTEST_POINTS ? `${points}+` : String(points);
      tick.style.left = `${100 * heat(points)}%`;
    }
  }
  if (anyMissing) make("span", "no-curve", view.legend).textContent = "not scanned yet";
}

function describe(model, row, kept) {
  const removed = 1 - kept / row.units;
  const parts = [`${kept} of ${row.units} channels kept`, `${formatPercent(removed)} removed`];
  const loss = lossAt(model.curves.get(row.id), removed);
  if (loss && removed > 0) parts.push(`${loss.beyond ? "at least " : ""}${formatPoints(loss.drop)} lost, this group alone`);
  if (model.locked.has(row.id)) parts.push(row.reason ? `locked: ${row.reason}` : "locked by you");
  return parts.join(", ");
}

// A write that changes nothing still costs the browser a new layout: what is shown already is left alone.
function isShown(node, ...values) {
  const key = values.join("|");
  if (node.shownKey === key) return true;
  node.shownKey = key;
  return false;
}

function paintSlider(fader, { kept, units, least, text, disabled }) {
  fader.style.setProperty("--kept", (kept / units).toFixed(5));
  fader.setAttribute("aria-valuemin", least);
  fader.setAttribute("aria-valuemax", units);
  fader.setAttribute("aria-valuenow", kept);
  fader.setAttribute("aria-valuetext", text);
  fader.setAttribute("aria-disabled", String(disabled));
}

function paintRow(view, model, id) {
  const cell = view.cells.get(id);
  const { row } = cell;
  const kept = model.values.get(id);
  const locked = model.locked.has(id);
  const curve = model.curves.get(id);
  const loss = lossAt(curve, 1 - kept / row.units);
  const text = describe(model, row, kept);
  if (isShown(cell.column, kept, locked, id === model.selected, Boolean(curve), loss?.drop, view.theme, model.snap, text)) return;
  paintSlider(cell.fader, { kept, units: row.units, least: allowedKept(row, 1, model.snap), text, disabled: locked });
  cell.fader.style.setProperty("--heat", loss ? heatColour(heat(100 * loss.drop), view.theme) : "");
  cell.fader.classList.toggle("unscanned", !curve);
  cell.kept.textContent = kept;
  cell.count.setAttribute("aria-label", `${kept} of ${row.units} channels of ${row.name} stay: type another number`);
  cell.column.classList.toggle("locked", locked);
  cell.column.classList.toggle("fixed", Boolean(row.locked && row.reason));
  cell.column.classList.toggle("selected", id === model.selected);
  if (cell.lockShown !== locked) {
    cell.lockShown = locked;
    cell.lock.innerHTML = locked ? ICONS.shut : ICONS.open;
    cell.lock.setAttribute("aria-pressed", String(locked));
    cell.lock.setAttribute("aria-label", `Lock ${row.name}`);
    cell.lock.disabled = cell.count.disabled = Boolean(row.locked && row.reason);
  }
}

function paintMaster(view, model) {
  const share = masterShare(model);
  const still = model.rows.every((row) => model.locked.has(row.id));
  const percent = Math.round(100 * share);
  const text = still ? "every group is locked" : `${percent} % of all unlocked channels kept`;
  if (isShown(view.master.column, share, text)) return;
  paintSlider(view.master.fader, { kept: percent, units: 100, least: 1, text, disabled: still });
  view.master.fader.style.setProperty("--kept", share.toFixed(5));
  view.master.column.classList.toggle("locked", still);
  view.master.kept.textContent = `${percent} %`;
}

function paintStages(view, model) {
  view.stages.forEach(({ head, stage }) => {
    if (!head) return;
    const free = stage.rows.filter((row) => !model.locked.has(row.id));
    const percent = Math.round(100 * shareOf(free, model.values));
    const text = free.length ? `${percent} % of its unlocked channels kept` : "every group is locked";
    if (isShown(head, text)) return;
    paintSlider(head, { kept: percent, units: 100, least: 1, text, disabled: !free.length });
    head.lastChild.textContent = free.length ? `${percent} %` : "";
  });
}

function paintFigure(view, name, title, value, note, how) {
  let figure = view.figures[name];
  if (!figure) {
    const box = make("div", "figure", view.strip);
    const head = make("div", "figure-head", box);
    make("span", "", head).textContent = title;
    const mark = make("span", "mark", head);
    figure = view.figures[name] = { box, mark, value: make("div", "figure-value", box), note: make("div", "figure-note", box) };
    figure.box.dataset.figure = name;
  }
  if (isShown(figure.box, how, value, note)) return;
  figure.mark.textContent = how;
  figure.value.textContent = value;
  figure.note.textContent = note;
}

function paintStrip(view, model) {
  if (view.strip.classList.contains("elsewhere")) return;
  const accuracy = estimateAccuracy(model, model.values);
  if (accuracy) {
    const parts = [accuracy.atChance ? "at chance level" : `${formatPoints(accuracy.value - model.dense)} from ${formatPercent(model.dense, 1)}`];
    if (accuracy.unknown) parts.push(`${accuracy.unknown} groups not scanned`);
    paintFigure(view, "accuracy", "Accuracy", formatPercent(accuracy.value, 1), parts.join(", "), "estimated");
  }
  const titles = { macs: "MACs", params: "Parameters", latency: "Latency" };
  for (const [name, cost] of Object.entries(estimateCosts(model, model.values))) {
    const show = name === "latency" ? (value) => `${value.toFixed(value < 10 ? 2 : 1)} ms` : formatCount;
    const share = cost.dense ? cost.value / cost.dense : 1;
    paintFigure(view, name, titles[name], show(cost.value), `${formatPercent(share)} of ${show(cost.dense)}`, "estimated");
  }
  view.strip.hidden = !Object.keys(view.figures).length;
}

function paintAll(view, model) {
  const missing = model.rows.some((row) => !model.curves.get(row.id) && !(row.locked && row.reason));
  const scanned = model.rows.some((row) => model.curves.get(row.id));
  buildLegend(view, view.theme, scanned, missing);
  for (const row of model.rows) paintRow(view, model, row.id);
  paintMaster(view, model);
  paintStages(view, model);
  paintStrip(view, model);
  paintOverview(view, model);
}

function isDark(probe) {
  const [r, g, b] = getComputedStyle(probe).color.match(/[\d.]+/g).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b < 128;
}
