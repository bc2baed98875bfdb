// What hovering or focusing a bar tells: members, reason of a lock, the group's own curve.

const SPARK = { width: 216, height: 52 };

function drawSpark(points, removed, dense) {
  const deepest = Math.max(0.02, ...points.map((point) => point.drop));
  const x = (at) => 4 + (at / Math.max(points[points.length - 1].at, removed)) * (SPARK.width - 8);
  const y = (drop) => 4 + (Math.max(drop, 0) / deepest) * (SPARK.height - 8);
  const line = points.map((point) => `${x(point.at).toFixed(1)},${y(point.drop).toFixed(1)}`).join(" ");
  const band = [...points.map((p) => [p.at, p.low]), ...[...points].reverse().map((p) => [p.at, p.high])]
    .map(([at, drop]) => `${x(at).toFixed(1)},${y(Math.min(drop, deepest)).toFixed(1)}`).join(" ");
  const loss = lossAt(points, removed);
  const last = points[points.length - 1];
  return `<svg class="spark" viewBox="0 0 ${SPARK.width} ${SPARK.height}" aria-hidden="true">
    <polygon class="band" points="${band}"/><polyline points="${line}"/>
    <circle cx="${x(removed).toFixed(1)}" cy="${y(loss.drop).toFixed(1)}" r="3.5"/></svg>
    <div class="spark-axis"><span>0 % removed</span><span>${formatPercent(last.at)}: ${formatPoints(last.drop)} lost</span></div>`;
}

function fillTip(tip, model, row) {
  const kept = model.values.get(row.id);
  const removed = 1 - kept / row.units;
  const points = model.curves.get(row.id);
  tip.replaceChildren();
  make("b", "", tip).textContent = row.name;
  make("div", "tip-line", tip).textContent = `${kept} of ${row.units} channels kept, ${formatPercent(removed)} removed`;
  if (points) {
    const loss = lossAt(points, removed);
    const words = loss.drop < 0 ? `${formatPoints(-loss.drop)} gained` : `${formatPoints(loss.drop)} lost`;
    make("div", "tip-line", tip).textContent = `Alone: ${loss.beyond ? "at least " : ""}${words}`;
    make("div", "tip-curve", tip).innerHTML = drawSpark(points, removed, model.dense);
  }
  if (model.locked.has(row.id)) make("div", "tip-reason", tip).textContent = row.reason ? `Locked: ${row.reason}` : "Locked by you";
  const members = row.members || [];
  if (members.length > 1) {
    const shown = members.slice(0, 8).join(", ") + (members.length > 8 ? ` and ${members.length - 8} more` : "");
    make("div", "tip-members", tip).textContent = `Pruned together: ${shown}`;
  }
}

// Stands under the bars, so that it hides none of them.
function showTip(view, model, row, fader) {
  if (row) fillTip(view.tip, model, row);
  else {
    view.tip.replaceChildren();
    make("b", "", view.tip).textContent = "All groups";
    make("div", "tip-line", view.tip).textContent = "Moves every unlocked bar and keeps their mix.";
  }
  view.tip.classList.add("shown");
  placeNear(view, view.tip, fader, (box) => box.bottom + 50);
}

function placeNear(view, node, fader, topOf) {
  const outer = view.root.getBoundingClientRect();
  const box = fader.getBoundingClientRect();
  const left = box.left + box.width / 2 - outer.left - node.offsetWidth / 2;
  node.style.left = `${Math.max(0, Math.min(left, outer.width - node.offsetWidth))}px`;
  node.style.top = `${topOf(box) - outer.top}px`;
}

function hideTip(view) {
  view.tip.classList.remove("shown");
}

function showTyped(view, fader, text) {
  fader.dataset.typed = text;
  view.typed.textContent = `remove ${text} %`;
  view.typed.classList.toggle("shown", Boolean(text));
  if (text) placeNear(view, view.typed, fader, (box) => box.top + 4);
}
