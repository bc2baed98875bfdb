// Hands: pointer and keyboard. A gesture starts, moves and ends in a commit; Escape takes it back.

const PREVIEW_MS = 80;
const KEY_PAUSE_MS = 350; // arrow presses closer than this are one gesture

function beginGesture(desk, id) {
  endKeys(desk);
  desk.gesture = { id, start: new Map(desk.model.values), previewAt: 0 };
  desk.view.root.classList.add("dragging");
}

function changedBy(gesture, values) {
  const changed = {};
  for (const [id, kept] of values) if (gesture.start.get(id) !== kept) changed[id] = kept;
  return changed;
}

function endGesture(desk, keep = true) {
  const { gesture, model } = desk;
  if (!gesture) return;
  desk.gesture = null;
  desk.view.root.classList.remove("dragging");
  desk.moved.clear();
  if (!keep) model.values = new Map(gesture.start);
  const step = changedBy(gesture, model.values);
  if (desk.late) desk.adopt(desk.late, new Set(Object.keys(step)));
  if (Object.keys(step).length) desk.outbox.commit(desk.snapshot(), step);
  desk.repaint();
}

// share: part of the bar that is kept, 0..1; id null is the master.
function moveTo(desk, id, share) {
  const { model, gesture } = desk;
  const bounded = Math.min(1, Math.max(0, share));
  if (id === null) {
    gesture.share = bounded;
    const free = model.rows.filter((row) => !model.locked.has(row.id));
    const start = gesture.start;
    for (const [rowId, kept] of scaleAll(free, start, bounded, model.snap)) model.values.set(rowId, kept);
    desk.touch(null);
    return;
  }
  const row = model.byId.get(id);
  model.values.set(id, allowedKept(row, bounded * row.units, model.snap));
  desk.touch(id);
}

function isStill(desk, id) {
  return id === null ? desk.model.rows.every((row) => desk.model.locked.has(row.id)) : desk.model.locked.has(id);
}

function currentShare(desk, id) {
  const { model, gesture } = desk;
  if (id !== null) return model.values.get(id) / model.byId.get(id).units;
  return gesture && gesture.share !== undefined ? gesture.share : masterShare(model);
}

function wirePointer(desk, fader, id) {
  let grip = 0;
  const shareAt = (event) => {
    const box = fader.getBoundingClientRect();
    return 1 - (event.clientY - grip - box.top) / box.height;
  };
  fader.addEventListener("pointerdown", (event) => {
    if (event.button || desk.gesture) return;
    fader.focus({ preventScroll: true });
    if (isStill(desk, id)) return;
    event.preventDefault();
    fader.setPointerCapture(event.pointerId);
    grip = 0;
    beginGesture(desk, id);
    // Holding the cap moves it from where it is; a press elsewhere on the bar brings it there.
    const away = (currentShare(desk, id) - shareAt(event)) * fader.getBoundingClientRect().height;
    if (Math.abs(away) <= 11) grip = away;
    else moveTo(desk, id, shareAt(event));
  });
  fader.addEventListener("pointermove", (event) => {
    const { gesture } = desk;
    if (!gesture || gesture.id !== id || !fader.hasPointerCapture(event.pointerId)) return;
    moveTo(desk, id, shareAt(event));
    if (desk.live && event.timeStamp - gesture.previewAt > PREVIEW_MS) {
      gesture.previewAt = event.timeStamp;
      desk.outbox.preview(desk.snapshot());
    }
  });
  for (const kind of ["pointerup", "lostpointercapture"]) {
    fader.addEventListener(kind, () => desk.gesture && desk.gesture.id === id && !desk.gesture.keys && endGesture(desk));
  }
  fader.addEventListener("pointercancel", () => desk.gesture && desk.gesture.id === id && endGesture(desk, false));
}

// A run of key presses is one gesture, over after a pause or when the focus leaves.
function keyMove(desk, id, share) {
  if (!desk.gesture || desk.gesture.id !== id) {
    beginGesture(desk, id);
    desk.gesture.keys = true;
  }
  moveTo(desk, id, share);
  clearTimeout(desk.keyTimer);
  desk.keyTimer = setTimeout(() => endKeys(desk), KEY_PAUSE_MS);
}

function endKeys(desk) {
  clearTimeout(desk.keyTimer);
  if (desk.gesture && desk.gesture.keys) endGesture(desk);
}

function typeKey(desk, fader, id, key) {
  const typed = fader.dataset.typed || "";
  if (/^[0-9]$/.test(key) || (/^[.,]$/.test(key) && !typed.includes("."))) {
    const text = typed + (key === "," ? "." : key);
    if (Number(text) <= 100 && text.length <= 5) showTyped(desk.view, fader, text);
    return true;
  }
  if (!typed) return false;
  if (key === "Backspace") showTyped(desk.view, fader, typed.slice(0, -1));
  else if (key === "Escape") showTyped(desk.view, fader, "");
  else if (key === "Enter") {
    showTyped(desk.view, fader, "");
    if (!Number.isNaN(Number(typed))) keyMove(desk, id, 1 - Number(typed) / 100);
    endKeys(desk);
  } else return false;
  return true;
}

function keyShare(desk, id, key) {
  const share = currentShare(desk, id);
  const row = id === null ? null : desk.model.byId.get(id);
  const step = row ? desk.model.snap / row.units : 0.01;
  const targets = {
    ArrowUp: share + step, ArrowRight: share + step, ArrowDown: share - step, ArrowLeft: share - step,
    PageUp: share + Math.max(0.1, step), PageDown: share - Math.max(0.1, step), Home: 0, End: 1,
  };
  return targets[key];
}

function wireKeys(desk, fader, id) {
  fader.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && desk.gesture) endGesture(desk, false);
    const share = keyShare(desk, id, event.key);
    const known = share !== undefined || /^[0-9.,]$/.test(event.key);
    if (known) event.preventDefault(), event.stopPropagation();
    if (isStill(desk, id) || (desk.gesture && !desk.gesture.keys)) return;
    if (typeKey(desk, fader, id, event.key)) event.preventDefault(), event.stopPropagation();
    else if (share !== undefined) keyMove(desk, id, share);
  });
  fader.addEventListener("blur", () => (showTyped(desk.view, fader, ""), endKeys(desk)));
}

function wireTip(desk, fader, row) {
  const show = () => showTip(desk.view, desk.model, row && desk.model.byId.get(row.id), fader);
  fader.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && !desk.gesture && show());
  fader.addEventListener("focus", () => fader.matches(":focus-visible") && show());
  fader.addEventListener("keyup", () => desk.view.tip.classList.contains("shown") && show());
  for (const kind of ["pointerleave", "blur", "pointerdown"]) fader.addEventListener(kind, () => hideTip(desk.view));
}

function wireColumn(desk, cell) {
  const { id } = cell.row;
  wirePointer(desk, cell.fader, id);
  wireKeys(desk, cell.fader, id);
  wireTip(desk, cell.fader, cell.row);
  cell.lock.addEventListener("click", () => desk.toggleLock(id));
  cell.name.addEventListener("click", () => desk.pick(id));
}

function wireMaster(desk) {
  const { fader } = desk.view.master;
  wirePointer(desk, fader, null);
  wireKeys(desk, fader, null);
  wireTip(desk, fader, null);
  desk.view.root.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    event.stopPropagation();
    endKeys(desk);
    if (!desk.gesture) desk.outbox.command(event.shiftKey ? "redo" : "undo");
  });
}
