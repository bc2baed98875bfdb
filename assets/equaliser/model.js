// What the equaliser knows: no DOM, no messages. Rows are the records that Python sends, values a Map id -> units kept.

// Stops of the sensitivity scale, calm to hot. Lightness runs one way, so order survives every colour blindness.
const SCALES = {
  light: ["#a8c4dc", "#8fa9b8", "#e0a13f", "#c9571f", "#7d1a1d"],
  dark: ["#41627f", "#6f7f86", "#c9752f", "#f0a94a", "#fff0c2"],
};
const HOTTEST_POINTS = 20;
const LEGEND_POINTS = [0, 1, 2, 5, 10, 20];

// Place of a loss on the scale, 0..1; logarithmic, because the difference of 0 and 1 point matters more than of 15 and 16.
function heat(points) {
  const clamped = Math.min(Math.max(points, 0), HOTTEST_POINTS);
  return Math.log1p(clamped / 0.5) / Math.log1p(HOTTEST_POINTS / 0.5);
}

function mixHex(from, to, share) {
  const channel = (hex, at) => parseInt(hex.slice(at, at + 2), 16);
  const parts = [1, 3, 5].map((at) => Math.round(channel(from, at) + (channel(to, at) - channel(from, at)) * share));
  return `rgb(${parts.join(",")})`;
}

function heatColour(share, theme) {
  const stops = SCALES[theme];
  const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const index = Math.min(Math.floor(place), stops.length - 2);
  return mixHex(stops[index], stops[index + 1], place - index);
}

// A curve as points {at, drop, low, high}: shares removed and accuracy lost against dense, ascending, from 0 on.
function prepareCurve(curve, dense) {
  if (!curve || !curve.length || dense == null) return null;
  const points = curve
    .map(([at, accuracy, low, high]) => ({ at, drop: dense - accuracy, low: dense - (high ?? accuracy), high: dense - (low ?? accuracy) }))
    .sort((a, b) => a.at - b.at);
  if (points[0].at > 0) points.unshift({ at: 0, drop: 0, low: 0, high: 0 });
  return points;
}

// Accuracy lost when this group alone loses `removed` of its units; straight lines between stored points. Beyond the
// last one its value stands and `beyond` says that the truth may be worse.
function lossAt(points, removed) {
  if (!points) return null;
  const last = points[points.length - 1];
  if (removed >= last.at) return { ...last, beyond: removed > last.at + 1e-9 };
  let index = 1;
  while (points[index].at < removed) index += 1;
  const [a, b] = [points[index - 1], points[index]];
  const share = b.at === a.at ? 1 : (removed - a.at) / (b.at - a.at);
  const between = (name) => a[name] + (b[name] - a[name]) * share;
  return { at: removed, drop: between("drop"), low: between("low"), high: between("high"), beyond: false };
}

// Dense accuracy minus the sum of what each group alone would lose, never under chance. `unknown`: pruned groups that
// have no curve and are left out.
function estimateAccuracy(model, values) {
  if (model.dense == null) return null;
  let lost = 0;
  let unknown = 0;
  for (const row of model.rows) {
    const removed = 1 - values.get(row.id) / row.units;
    if (removed <= 0) continue;
    const loss = lossAt(model.curves.get(row.id), removed);
    if (loss) lost += loss.drop;
    else unknown += 1;
  }
  const raw = model.dense - model.lossScale * lost;
  return { value: Math.min(Math.max(raw, model.chance), 1), atChance: raw <= model.chance, unknown };
}

// sum of coef * f(a) * f(b), where f(r) is row r's kept units and f(-1) = 1.
function evaluateTerms(terms, kept) {
  let total = 0;
  for (const [coef, a, b] of terms) total += coef * (a < 0 ? 1 : kept[a]) * (b < 0 ? 1 : kept[b]);
  return total;
}

function estimateCosts(model, values) {
  const kept = model.rows.map((row) => values.get(row.id));
  const dense = model.rows.map((row) => row.units);
  const found = {};
  for (const name of ["macs", "params", "latency"]) {
    const terms = model.cost[`${name}_terms`];
    if (terms) found[name] = { value: evaluateTerms(terms, kept), dense: evaluateTerms(terms, dense) };
  }
  return found;
}

// Nearest allowed width: a multiple of the snap, at least one step, at most all units.
function allowedKept(row, kept, snap) {
  if (kept >= row.units - snap / 2) return row.units;
  return Math.min(row.units, Math.max(Math.min(snap, row.units), Math.round(kept / snap) * snap));
}

// Part of all unlocked units that stay.
function masterShare(model) {
  return shareOf(model.rows.filter((row) => !model.locked.has(row.id)), model.values);
}

// Runs of neighbours with one stage's name.
function stagesOf(rows) {
  const stages = [];
  for (const row of rows) {
    const last = stages[stages.length - 1];
    if (last && last.name === (row.stage || "")) last.rows.push(row);
    else stages.push({ name: row.stage || "", rows: [row] });
  }
  return stages;
}

function formatPercent(share, digits = 0) {
  return `${(100 * share).toFixed(digits)} %`;
}

function formatCount(value) {
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  for (const [size, letter] of steps) {
    if (value >= size) return `${(value / size).toFixed(value / size >= 100 ? 0 : value / size >= 10 ? 1 : 2)} ${letter}`;
  }
  return String(Math.round(value));
}

function formatPoints(drop) {
  const points = 100 * drop;
  const text = Math.abs(points) < 0.05 ? "0.0" : points.toFixed(1).replace("-", "\u2212");
  return `${text} ${text === "1.0" ? "point" : "points"}`;
}
