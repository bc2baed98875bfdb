// All bars in one small picture, with a window over those in sight: drag it, click beside it, or use the arrow keys.

const OVERVIEW_HEIGHT = 38;

function buildOverview(root) {
  const box = make("div", "overview", root, { hidden: "" });
  const canvas = make("canvas", "", box, { "aria-hidden": "true" });
  const frame = make("div", "overview-window", box, {
    role: "scrollbar", tabindex: "0", "aria-label": "Groups in sight", "aria-controls": "equaliser-columns",
    "aria-orientation": "horizontal", "aria-valuemin": "0", "aria-valuemax": "100",
  });
  return { box, canvas, frame };
}

function paintOverview(view, model) {
  const { box, canvas } = view.overview;
  if (box.hidden || !model) return;
  const width = view.overview.width || box.clientWidth; // asking in every frame of a drag would lay the page out each time
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = OVERVIEW_HEIGHT * scale;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, OVERVIEW_HEIGHT);
  const step = width / model.rows.length;
  const bar = Math.max(1, step - (step > 4 ? 1.5 : 0.5));
  const idle = view.theme === "dark" ? "#56656b" : "#b4bec1";
  model.rows.forEach((row, index) => {
    const kept = model.values.get(row.id) / row.units;
    const curve = model.curves.get(row.id);
    const loss = model.locked.has(row.id) ? null : lossAt(curve, 1 - kept);
    const height = Math.max(1, kept * (OVERVIEW_HEIGHT - 4));
    pen.fillStyle = loss ? heatColour(heat(100 * loss.drop), view.theme) : idle;
    pen.globalAlpha = model.locked.has(row.id) ? 0.45 : 1;
    pen.fillRect(index * step, OVERVIEW_HEIGHT - height, bar, height);
    if (row.id === model.selected || view.found === row.id) pen.fillRect(index * step, 0, bar, 2);
  });
  pen.globalAlpha = 1;
}

function placeWindow(view) {
  const { box, frame } = view.overview;
  const { scrollWidth, clientWidth, scrollLeft } = view.scroller;
  if (!scrollWidth) return;
  frame.style.left = `${(100 * scrollLeft) / scrollWidth}%`;
  frame.style.width = `${(100 * clientWidth) / scrollWidth}%`;
  const hidden = Math.max(1, scrollWidth - clientWidth);
  frame.setAttribute("aria-valuenow", Math.round((100 * scrollLeft) / hidden));
  box.classList.toggle("whole", scrollWidth <= clientWidth + 2);
}

function wireOverview(desk) {
  const { view } = desk;
  const { box, frame } = view.overview;
  let grip = null;
  const toShare = (share) => (view.scroller.scrollLeft = share * view.scroller.scrollWidth);
  box.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const area = box.getBoundingClientRect();
    const own = frame.getBoundingClientRect();
    const inside = event.clientX >= own.left && event.clientX <= own.right;
    grip = inside ? event.clientX - own.left : own.width / 2;
    toShare((event.clientX - grip - area.left) / area.width);
    box.setPointerCapture(event.pointerId);
    event.preventDefault();
    frame.focus({ preventScroll: true });
  });
  box.addEventListener("pointermove", (event) => {
    if (grip === null || !box.hasPointerCapture(event.pointerId)) return;
    const area = box.getBoundingClientRect();
    toShare((event.clientX - grip - area.left) / area.width);
  });
  for (const kind of ["pointerup", "lostpointercapture"]) box.addEventListener(kind, () => (grip = null));
  frame.addEventListener("keydown", (event) => {
    const page = view.scroller.clientWidth;
    const moves = { ArrowLeft: -60, ArrowRight: 60, PageUp: -page, PageDown: page, Home: -1e9, End: 1e9 };
    if (moves[event.key] === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    view.scroller.scrollLeft += moves[event.key];
  });
  view.scroller.addEventListener("scroll", () => {
    placeWindow(view);
    // Bars that were out of sight while a handle moved are painted as they come.
    if (desk.gesture) desk.touch(null);
  });
}
