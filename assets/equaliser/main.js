// Ties model, view, hands and messages together; called anew by Streamlit on every rerun.

const desks = new WeakMap();

function readModel(data, before) {
  const rows = data.rows;
  const dense = data.dense_accuracy;
  const kept = new Map(rows.map((row) => [row.id, row.kept]));
  const model = {
    rows, dense, chance: data.chance || 0, cost: data.cost || {}, snap: Math.max(1, data.snap || 1), selected: data.selected,
    lossScale: data.loss_scale ?? 1, stages: stagesOf(rows), picture: data.picture || { format: "png" },
    byId: new Map(rows.map((row) => [row.id, row])),
    curves: new Map(rows.map((row) => [row.id, prepareCurve(row.curve, dense)])),
    values: before ? before.values : kept,
    locked: before ? before.locked : new Set(rows.filter((row) => row.locked).map((row) => row.id)),
  };
  return model;
}

function shapeOf(rows) {
  return JSON.stringify(rows.map((row) => [row.id, row.name, row.units, row.stage, Boolean(row.locked && row.reason)]));
}

function createDesk(root) {
  const desk = { view: buildDesk(root), model: null, gesture: null, late: null, rev: null, painting: 0, moved: new Set(), marked: new Set() };
  desk.outbox = createOutbox(({ kind, ...message }) => {
    if (kind !== "edit" || !carried(message)) desk.setStateValue(kind, message);
  });
  desk.snapshot = () => ({
    rev: desk.rev,
    values: Object.fromEntries(desk.model.values),
    locked: desk.model.rows.filter((row) => desk.model.locked.has(row.id) && !row.reason).map((row) => row.id),
  });
  desk.repaint = () => {
    if (!desk.model) return;
    desk.view.theme = isDark(desk.view.probe) ? "dark" : "light"; // asked before anything is written
    paintTools(desk);
    paintAll(desk.view, desk.model);
    announce(desk);
  };
  // One paint per frame however many pointer events arrive; a null id means that many bars moved.
  desk.touch = (id) => {
    desk.moved.add(id);
    if (!desk.painting) desk.painting = requestAnimationFrame(() => paintMoved(desk));
  };
  desk.toggleLock = (id) => {
    endKeys(desk);
    const { locked } = desk.model;
    if (!locked.delete(id)) locked.add(id);
    desk.outbox.commit(desk.snapshot(), null);
    desk.repaint();
  };
  desk.pick = (id) => {
    desk.model.selected = id;
    desk.repaint();
    desk.setTriggerValue("pick", { id });
  };
  // Python's values, but ours where it cannot know them yet.
  desk.adopt = (data, ours = new Set()) => {
    desk.late = null;
    const unheard = desk.outbox.unheardIds(data.ack);
    const theirs = Object.fromEntries(data.rows.map((row) => [row.id, row.kept]));
    for (const row of data.rows) if (!ours.has(row.id) && !unheard.has(row.id)) desk.model.values.set(row.id, row.kept);
    if (desk.outbox.knewLocks(data.ack)) desk.model.locked = new Set(data.rows.filter((row) => row.locked).map((row) => row.id));
    desk.rev = data.rev;
    settle(desk.view.root);
    desk.outbox.rebase(data.rev, theirs);
  };
  wireMaster(desk);
  wireTools(desk);
  wireOverview(desk);
  wirePage(desk);
  wireRedraw(desk);
  wireAnswer(desk);
  new ResizeObserver(() => desk.model && fitColumns(desk.view, desk.model)).observe(desk.view.scroller);
  const timer = setInterval(() => (root.isConnected ? desk.outbox.resendLate() : clearInterval(timer)), 1000);
  return desk;
}

// Whether a headline takes the edit: its answer is then shorter than all that stands around the bars.
function carried(message) {
  return !window.dispatchEvent(new CustomEvent("prunescope-edit", { detail: message, cancelable: true }));
}

// The headline heard from Python; the bars themselves stand as the hand left them.
function wireAnswer(desk) {
  const hear = ({ detail }) => {
    if (!desk.view.root.isConnected) return window.removeEventListener("prunescope-answer", hear);
    if (!desk.model) return undefined;
    desk.model.lossScale = detail.loss_scale;
    desk.outbox.acknowledge(detail.ack);
    return announce(desk);
  };
  window.addEventListener("prunescope-answer", hear);
}

// Somebody else on the page knows of something new; under a hand it can wait.
function wireRedraw(desk) {
  const hear = () => {
    if (!desk.view.root.isConnected) return window.removeEventListener("prunescope-redraw", hear);
    if (desk.gesture || desk.outbox.holdsEdits()) return void setTimeout(hear, 200);
    return desk.setTriggerValue("redraw", { at: Date.now() });
  };
  window.addEventListener("prunescope-redraw", hear);
}

// Bars glide only when someone else moved them, never under the hand.
function settle(root) {
  root.classList.add("settling");
  setTimeout(() => root.classList.remove("settling"), 260);
}

// The master repaints only bars on screen while it moves; the end of the gesture repaints all.
function idsInSight({ scroller, columns }, { rows }) {
  const width = columns.scrollWidth / rows.length;
  const first = Math.floor(scroller.scrollLeft / width);
  return rows.slice(first, first + Math.ceil(scroller.clientWidth / width) + 1).map((row) => row.id);
}

function paintMoved(desk) {
  desk.painting = 0;
  const ids = desk.moved.has(null) ? idsInSight(desk.view, desk.model) : [...desk.moved];
  desk.moved.clear();
  for (const id of ids) paintRow(desk.view, desk.model, id);
  paintMaster(desk.view, desk.model);
  paintStages(desk.view, desk.model);
  paintStrip(desk.view, desk.model);
  paintOverview(desk.view, desk.model);
  announce(desk);
}

// Tells the rest of the page what the bars amount to, and whether Python knows them yet: a headline of its own can
// show estimates under the hand, and Python's numbers at rest.
function announce({ model, gesture, outbox }) {
  const accuracy = estimateAccuracy(model, model.values);
  const figures = estimateCosts(model, model.values);
  if (accuracy) figures.accuracy = { ...accuracy, dense: model.dense };
  const detail = { moving: Boolean(gesture) || outbox.holdsEdits(), figures };
  window.dispatchEvent(new CustomEvent("prunescope-estimates", { detail }));
}

function receive(desk, data) {
  const shape = shapeOf(data.rows);
  desk.live = data.live;
  desk.view.strip.classList.toggle("elsewhere", data.strip === false);
  desk.view.root.style.setProperty("--bar", `${data.height}px`);
  if (shape !== desk.shape) {
    // Another network: whatever was under way belonged to the old one.
    Object.assign(desk, { shape, gesture: null, late: null, rev: data.rev, model: readModel(data, null) });
    desk.view.root.classList.remove("dragging");
    desk.view.figures = {};
    desk.marked.clear();
    desk.view.found = null;
    desk.view.strip.replaceChildren();
    desk.outbox.clear();
    desk.outbox.start(data.ack);
    buildRows(desk.view, desk.model);
    for (const cell of desk.view.cells.values()) wireColumn(desk, cell);
    wireStages(desk);
  } else {
    desk.model = readModel(data, desk.model);
    desk.outbox.acknowledge(data.ack);
    if (data.rev !== desk.rev) {
      if (desk.gesture) desk.late = data;
      else desk.adopt(data);
    }
  }
  desk.repaint();
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".equaliser");
  if (!root || !data) return;
  let desk = desks.get(parentElement);
  if (!desk || desk.view.root !== root) {
    desk = createDesk(root);
    desks.set(parentElement, desk);
  }
  Object.assign(desk, { setStateValue, setTriggerValue });
  receive(desk, data);
}
