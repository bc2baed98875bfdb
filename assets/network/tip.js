// What pointing at a layer tells, in the tooltip and, shorter, in the line below.

const STEPS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];

function formatCount(value) {
  for (const [size, letter] of STEPS) {
    if (value >= 0.9995 * size && value >= 1e4) return `${Number((value / size).toPrecision(3))} ${letter}`;
  }
  return value.toLocaleString("en");
}

function change(before, after, write = formatCount) {
  if (before === after) return write(before);
  return `${write(before)} → ${write(after)}`;
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
const plain = (value) => value.toLocaleString("en");

// What leaves one by one: a channel; or several at once, such as an attention head.
function unitWord(map, group) {
  const held = map.picture.nodes[group.nodes[0]].parts.find(([index]) => index === group.index);
  return !held || held[1] === group.units ? "channels" : "units";
}

function fillTip(map) {
  const { tip, hover } = map;
  tip.replaceChildren();
  make("b", "", tip, hover.node.name);
  if (hover.node.kind !== "layer") {
    const said = { add: "Here outputs are added: channels that meet leave together.", concat: "Here outputs are put side by side." };
    const told = { input: "The images come in here.", output: "The result comes out here." };
    make("p", "", tip, told[hover.node.kind] || said[hover.node.name] || `Here outputs meet: ${hover.node.name}.`);
    return;
  }
  layerLines(map, tip, hover.node);
  for (const part of segments(map, hover.node)) groupLines(map, tip, part, hover.node);
  if (hover.node.gather) make("p", "more", tip, "May read fewer channels alone: gather.");
}

function layerLines(map, tip, node) {
  make("div", "kind", tip, node.what);
  const now = (name) => (map.widths ? map.widths[name][node.index] : node[name]);
  const list = make("dl", "", tip);
  const row = (name, text) => (make("dt", "", list, name), make("dd", "", list, text));
  row("Makes", `${change(node.channels, now("channels"), plain)} channels`);
  if (node.reads) row("Reads", change(node.reads, now("reads"), plain));
  if (node.macs) row("MACs", change(node.macs, now("macs")));
}

function groupLines(map, tip, { group }, node) {
  const line = make("p", "", tip);
  if (!group) {
    line.textContent = "Channels that no group holds: they stay.";
    return;
  }
  const mark = make("span", "mark", line, String(group.number));
  const colour = group.reason || group.hue < 0 ? "#9aa5a9" : HUES[group.hue % HUES.length];
  mark.style.background = colour;
  mark.style.color = colour === "#0072b2" ? "#fff" : "#10181b";
  const kept = map.widths ? map.widths.kept[group.index] : group.units;
  if (group.reason) line.append(`Locked: ${group.reason}.`);
  else line.append(`${unitWord(map, group) === "channels" ? "Channels" : "Units"} kept: ${kept.toLocaleString("en")} of ${group.units.toLocaleString("en")}`);
  const others = group.nodes.filter((index) => index !== node.index).map((index) => map.picture.nodes[index].name);
  const shown = others.slice(0, 6).join(", ") + (others.length > 6 ? ` and ${others.length - 6} more` : "");
  if (others.length) make("div", "more", tip, `Moves with ${shown}`);
  else if (!group.reason) make("div", "more", tip, "Moves alone.");
  if (group.readers.length && !group.reason) make("div", "more", tip, `Read by ${plural(group.readers.length, "layer")}`);
}

function placeTip(map) {
  const { tip, hover } = map;
  const place = map.layout.place[hover.node.index];
  const half = (SIZE.bar / 2) * map.view.zoom + 14;
  const x = toX(map, place.x), y = toY(map, place.y);
  const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
  let left = x + half;
  if (left + wide > map.width - 6) left = x - half - wide;
  const head = map.stage.offsetTop;
  if (left < 6) {
    // No room beside it: under it, or above.
    left = Math.max(6, Math.min(x - wide / 2, map.width - wide - 6));
    const under = y + (hover.node.height / 2) * map.view.zoom + 34;
    tip.style.top = `${head + (under + high < map.height || y < map.height / 2 ? under : y - high - hover.node.height * map.view.zoom)}px`;
  } else tip.style.top = `${head + Math.max(4, Math.min(y - high / 2, map.height - high - 4))}px`;
  tip.style.left = `${left}px`;
}

function showTip(map) {
  map.tip.classList.toggle("shown", Boolean(map.hover));
  if (!map.hover) return;
  fillTip(map);
  placeTip(map);
}

function tell(map) {
  const { readout, hover } = map;
  readout.replaceChildren();
  const node = hover && hover.node;
  const group = hover ? hover.group : map.selected;
  if (node && node.kind !== "layer") readout.textContent = `${node.name} of ${plural(node.entering, "input")}`;
  else if (group) {
    make("b", "", readout, node ? node.name : `Selected: ${group.name}`);
    const kept = map.widths ? map.widths.kept[group.index] : group.units;
    const rest = group.reason ? `locked: ${group.reason}` : `${change(group.units, kept, plain)} ${unitWord(map, group)}`;
    readout.append(`, group ${group.number} (${plural(group.nodes.length, "layer")}), ${rest}`);
  } else readout.textContent = HINT;
}
