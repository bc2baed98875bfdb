// Which bars a handle moves, and how a move is shared out among them. A handle: null is the master, a number a stage,
// a text one bar (and with it all that are marked).

const SPREADS = { mix: "keeping their mix", loss: "losing equally", time: "saving equal time" };

function movedBy(desk, id) {
  const { model } = desk;
  const free = (rows) => rows.filter((row) => !model.locked.has(row.id));
  if (id === null) return free(model.rows);
  if (typeof id === "number") return free(model.stages[id].rows);
  return desk.marked.has(id) && desk.marked.size > 1 ? free(model.rows.filter((row) => desk.marked.has(row.id))) : [model.byId.get(id)];
}

function shareOf(rows, values) {
  const units = rows.reduce((sum, row) => sum + row.units, 0);
  return units ? rows.reduce((sum, row) => sum + values.get(row.id), 0) / units : 1;
}

// The mix is kept: going down every group keeps the same part of what it had, going up every group gives back the same
// part of what it had lost. `before` becomes `share`.
function scaleFrom(rows, start, before, share, snap) {
  const moved = new Map();
  for (const row of rows) {
    const kept = start.get(row.id);
    const target = share <= before ? kept * (share / before) : row.units - (row.units - kept) * ((1 - share) / (1 - before));
    moved.set(row.id, allowedKept(row, target, snap));
  }
  return moved;
}

// What a group pays for every number of removed units, rising: points of accuracy as scanned, or time saved.
function pricesOf(model, mode) {
  if (mode === "time") return timePrices(model);
  const prices = new Map();
  for (const row of model.rows) {
    const curve = model.curves.get(row.id);
    const price = new Float64Array(row.units);
    let worst = 0;
    for (let removed = 1; removed < row.units; removed += 1) {
      const share = removed / row.units;
      worst = Math.max(worst, curve ? lossAt(curve, share).drop : 0.2 * share);
      // Where a curve is flat, its images are too few to tell: the last channels still count for something.
      price[removed] = worst - 0.005 * Math.log1p(-share);
    }
    prices.set(row.id, price);
  }
  return prices;
}

function timePrices(model) {
  const slopes = model.rows.map(() => 0);
  for (const [coef, a, b] of model.cost.latency_terms || model.cost.macs_terms || []) {
    if (a >= 0) slopes[a] += coef * (b < 0 ? 1 : model.rows[b].units);
    if (b >= 0 && b !== a) slopes[b] += coef * (a < 0 ? 1 : model.rows[a].units);
  }
  const prices = new Map();
  model.rows.forEach((row, index) => {
    const slope = slopes[index] > 0 ? slopes[index] : Infinity; // what saves nothing loses nothing
    prices.set(row.id, Float64Array.from({ length: row.units }, (_, removed) => (removed ? slope * removed : 0)));
  });
  return prices;
}

// How many units may leave for at most `limit`.
function affordable(price, limit) {
  let [low, high] = [0, price.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (price[middle] <= limit) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Every group pays the same, as far as it can, so that `share` of all units stay.
function spreadEqually(rows, prices, share, snap) {
  const units = rows.reduce((sum, row) => sum + row.units, 0);
  const finite = rows.map((row) => prices.get(row.id)).map((price) => price[affordable(price, Number.MAX_VALUE)]);
  let [low, high] = [0, Math.max(...finite)];
  for (let turn = 0; turn < 40; turn += 1) {
    const limit = (low + high) / 2;
    const left = rows.reduce((sum, row) => sum + row.units - affordable(prices.get(row.id), limit), 0);
    if (left > share * units) low = limit;
    else high = limit;
  }
  return new Map(rows.map((row) => [row.id, allowedKept(row, row.units - affordable(prices.get(row.id), high), snap)]));
}

function spread(desk, rows, share) {
  const { model, gesture } = desk;
  if (desk.spread === "mix" || share >= 1) return scaleFrom(rows, gesture.start, shareOf(rows, gesture.start), share, model.snap);
  if (!gesture.prices) gesture.prices = pricesOf(model, desk.spread);
  return spreadEqually(rows, gesture.prices, share, model.snap);
}
