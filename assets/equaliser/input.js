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

// share: part that is kept, 0..1; id: a handle (see spread.js).
function moveTo(desk, id, share) {
  const { model, gesture } = desk;
  const bounded = Math.min(1, Math.max(0, share));
  const rows = movedBy(desk, id);
  if (typeof id !== "string" || rows.length > 1) {
    gesture.share = bounded;
    const own = typeof id === "string" ? model.byId.get(id) : null;
    const moved = own
      ? scaleFrom(rows, gesture.start, gesture.start.get(id) / own.units, bounded, model.snap)
      : spread(desk, rows, bounded);
    for (const [rowId, kept] of moved) model.values.set(rowId, kept);
    desk.touch(null);
    return;
  }
  const row = model.byId.get(id);
  model.values.set(id, allowedKept(row, bounded * row.units, model.snap));
  desk.touch(id);
}

function isStill(desk, id) {
  return typeof id === "string" ? desk.model.locked.has(id) : !movedBy(desk, id).length;
}

function currentShare(desk, id) {
  const { model, gesture } = desk;
  if (typeof id === "string") return model.values.get(id) / model.byId.get(id).units;
  return gesture && gesture.share !== undefined ? gesture.share : shareOf(movedBy(desk, id), model.values);
}

function wirePointer(desk, fader, id) {
  const across = typeof id === "number";
  let grip = 0;
  const shareAt = (event) => {
    const box = fader.getBoundingClientRect();
    return across ? (event.clientX - grip - box.left) / box.width : 1 - (event.clientY - grip - box.top) / box.height;
  };
  const length = () => (across ? -fader.getBoundingClientRect().width : fader.getBoundingClientRect().height);
  fader.addEventListener("pointerdown", (event) => {
    if (event.button || desk.gesture) return;
    fader.focus({ preventScroll: true });
    if (isStill(desk, id)) return;
    event.preventDefault();
    if (typeof id === "string" && (event.ctrlKey || event.metaKey || event.shiftKey)) return mark(desk, id, event.shiftKey);
    fader.setPointerCapture(event.pointerId);
    grip = 0;
    beginGesture(desk, id);
    // Holding the cap moves it from where it is; a press elsewhere on the bar brings it there.
    const away = (currentShare(desk, id) - shareAt(event)) * length();
    if (Math.abs(away) <= 11) grip = away;
    else moveTo(desk, id, shareAt(event));
    return undefined;
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
  const row = typeof id === "string" ? desk.model.byId.get(id) : null;
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
    else if (event.key === "Escape" && !fader.dataset.typed && unmark(desk)) event.stopPropagation();
    if (event.key === " " && typeof id === "string" && !desk.model.locked.has(id)) {
      mark(desk, id, event.shiftKey);
      event.preventDefault();
      event.stopPropagation();
    }
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
  cell.name.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) mark(desk, id, event.shiftKey);
    else desk.pick(id);
  });
  cell.count.addEventListener("click", () => typeCount(desk, cell));
}

// A number field in the place of a bar's number: fingers have no keys to type on a bar.
function typeCount(desk, cell) {
  const { id } = cell.row;
  if (isStill(desk, id)) return;
  endKeys(desk);
  const field = make("input", "count-field", cell.count.parentElement, {
    type: "number", inputmode: "numeric", min: "1", max: String(cell.row.units), "aria-label": `Channels of ${cell.row.name} that stay`,
  });
  field.value = desk.model.values.get(id);
  field.style.top = `${cell.count.offsetTop}px`;
  let over = false;
  const close = (keep) => {
    if (over) return;
    over = true;
    const wanted = Number(field.value);
    field.remove();
    if (!keep || !field.value || !Number.isFinite(wanted) || desk.gesture) return;
    beginGesture(desk, id);
    moveTo(desk, id, wanted / cell.row.units);
    endGesture(desk);
  };
  field.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key !== "Enter" && event.key !== "Escape") return;
    event.preventDefault(); // else the same key press would open the field again
    close(event.key === "Enter");
    cell.count.focus();
  });
  field.addEventListener("blur", () => close(true));
  field.focus();
  field.select();
}

function wireStages(desk) {
  desk.view.stages.forEach(({ head }, index) => {
    if (!head) return;
    wirePointer(desk, head, index);
    wireKeys(desk, head, index);
  });
}

function wireMaster(desk) {
  const { fader } = desk.view.master;
  wirePointer(desk, fader, null);
  wireKeys(desk, fader, null);
  wireTip(desk, fader, null);
}
