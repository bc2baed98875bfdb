// The picture on the canvas: only what is in sight, and no more detail than can be read at this zoom.

// Okabe and Ito (2008), made for colour-blind eyes; groups of several layers take them in turn.
const HUES = ["#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2"];
const NEAR = { numbers: 38, names: 46, marks: 26, above: 9.5, under: 13.5 }; // pixels there must be before these are written
const DIM = 0.26;
const JOINS = { add: "+", concat: "∥", multiply: "×", attention: "·" };

function coloursOf(root) {
  const style = getComputedStyle(root);
  const mix = (share, base = "var(--b)") => `color-mix(in srgb, ${style.color} ${share}%, ${base === "var(--b)" ? style.backgroundColor : base})`;
  return {
    ink: style.color, paper: style.backgroundColor, accent: style.getPropertyValue("--st-primary-color").trim(), family: style.fontFamily,
    soft: mix(70), wire: mix(38), alone: mix(46), locked: mix(20), faint: mix(9), mix,
  };
}

function groupColour(group, colours) {
  if (!group || group.reason) return colours.locked;
  return group.hue >= 0 ? HUES[group.hue % HUES.length] : colours.alone;
}

// World -> screen: x * zoom + dx.
function sight(map) {
  const { zoom, dx, dy } = map.view;
  return { left: -dx / zoom, right: (map.width - dx) / zoom, top: -dy / zoom, bottom: (map.height - dy) / zoom };
}

function draw(map) {
  map.request = 0;
  const { canvas, layout } = map;
  if (!layout || !map.width) return;
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(map.width * ratio), Math.round(map.height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, map.width, map.height);
  map.colours = coloursOf(map.root);
  paintScene(map, context, ratio);
  drawMini(map);
}

// What the view shows, on a canvas or on a pen that writes it down.
function paintScene(map, context, ratio) {
  const { picture, layout } = map;
  const seen = sight(map);
  const scene = { map, context, ratio, seen, colours: map.colours, zoom: map.view.zoom, lit: litUp(map), texts: new Map(), marked: [] };
  const shown = (item) => {
    const line = layout.lines[item.line];
    return line.bottom + SIZE.gap > seen.top && line.top < seen.bottom && item.right > seen.left && item.left < seen.right;
  };
  layout.lines.forEach((line) => line.bottom > seen.top && line.top < seen.bottom && drawTitles(scene, line));
  context.save();
  context.transform(map.view.zoom, 0, 0, map.view.zoom, map.view.dx, map.view.dy);
  for (const piece of layout.wires) if (shown(piece)) drawWire(scene, piece);
  context.restore();
  context.globalAlpha = 1;
  for (const band of layout.bands) if (shown(band)) drawBand(scene, band);
  picture.nodes.forEach((node, index) => {
    const place = layout.place[index];
    const half = picture.columns[node.column].width * layout.stretch;
    if (shown({ line: place.line, left: place.x - half, right: place.x + half })) drawNode(scene, node, place);
  });
  writeTexts(scene);
}

// What the pointer or the keyboard is on: its group's layers, those that read them, and the way from the ones to the
// others, which runs through joins and ends at layers.
function litUp(map) {
  const group = map.hover ? map.hover.group : null;
  if (!group) return null;
  if (!map.lit || map.lit.group !== group.index) {
    const { nodes, wires } = map.picture;
    const ways = new Set();
    const joins = new Set();
    const ahead = [...group.nodes];
    while (ahead.length) {
      for (const index of nodes[ahead.pop()].leaving) {
        ways.add(index);
        const to = wires[index].to;
        if (nodes[to].kind === "join" && !joins.has(to)) joins.add(to), ahead.push(to);
      }
    }
    map.lit = { group: group.index, nodes: new Set(group.nodes), readers: new Set(group.readers), joins, ways };
  }
  return map.lit;
}

function drawTitles(scene, line) {
  const { map, context, colours, zoom } = scene;
  const step = columnRoom(map);
  if (step < 5) return;
  const depth = step >= 30 ? 0 : map.titleDepth;
  const font = fontOf(colours, 11, 600);
  context.font = font;
  context.textBaseline = "alphabetic";
  let [said, room] = [null, -Infinity];
  for (let column = line.start; column < line.stop; column += 1) {
    const top = map.picture.columns[column].top;
    if (!top) continue;
    const title = depth ? top.name.split(".").slice(0, -1).slice(0, depth).join(".") : top.block;
    if (title === said) continue;
    const x = toX(map, map.layout.x[column] - SIZE.bar / 2);
    const width = textWidth(scene, font, title);
    if (x < room || x > map.width) continue; // it may be said a little later
    said = title;
    context.fillStyle = colours.soft;
    context.fillText(title, x, toY(map, line.top) + Math.min(11, SIZE.title * zoom));
    room = x + width + 10;
  }
}

const toX = (map, x) => x * map.view.zoom + map.view.dx;
const toY = (map, y) => y * map.view.zoom + map.view.dy;

function drawWire(scene, piece) {
  const { context, colours, zoom, lit, map } = scene;
  const wire = map.picture.wires[piece.wire];
  const on = !lit || lit.ways.has(piece.wire);
  context.globalAlpha = on ? 1 : DIM;
  context.strokeStyle = lit && on ? colours.soft : colours.wire;
  context.lineWidth = (lit && on ? 1.8 : 1.2) / zoom;
  context.setLineDash(wire.back ? [4 / zoom, 3 / zoom] : []);
  context.stroke(piece.path);
}

function drawBand(scene, band) {
  const { map, context, colours, zoom, lit } = scene;
  const group = map.picture.groups[band.group];
  context.globalAlpha = !lit || lit.group === band.group ? 1 : DIM;
  context.fillStyle = group.reason ? colours.alone : groupColour(group, colours);
  const [left, right, y] = [toX(map, band.left), toX(map, band.right), toY(map, band.y)];
  const thick = Math.max(1.5, Math.min(4, 4 * zoom));
  context.fillRect(left, y, right - left, thick);
  for (const mark of band.marks) context.fillRect(toX(map, mark) - thick / 2, y - 3 * zoom, thick, 3 * zoom);
  if (lit && lit.group === band.group) context.fillRect(left, y - 1, right - left, thick + 2);
  const at = Math.max(left, 0) + 12;
  const crowded = scene.marked.some(([x, height]) => Math.abs(x - at) < 16 && Math.abs(height - y) < 12);
  if (marksShown(map) || right - at < 10 || crowded) return;
  scene.marked.push([at, y]);
  scene.alpha = context.globalAlpha;
  centred(scene, String(group.number), at, y - 3, 10, colours.soft, 40, 600);
}

function drawNode(scene, node, place) {
  const { lit } = scene;
  scene.alpha = !lit || [lit.nodes, lit.readers, lit.joins].some((some) => some.has(node.index)) ? 1 : DIM;
  if (node.kind === "layer") drawLayer(scene, node, place);
  else drawJoin(scene, node, place);
}

function drawJoin(scene, node, place) {
  const { map, context, colours, zoom } = scene;
  const [x, y] = [toX(map, place.x), toY(map, place.y)];
  const radius = Math.max(1.5, 7 * zoom);
  const end = node.kind !== "join";
  context.beginPath();
  context.arc(x, y, end ? radius * 0.7 : radius, 0, 2 * Math.PI);
  context.globalAlpha = end ? scene.alpha : 1; // no wire shows through what is dimmed
  context.fillStyle = end ? colours.soft : colours.paper;
  context.fill();
  context.globalAlpha = scene.alpha;
  context.lineWidth = 1.2;
  context.strokeStyle = colours.soft;
  context.stroke();
  if (end && zoom * SIZE.end > 28) centred(scene, node.name, x, y + radius + 12, 11, colours.soft, 60 * zoom);
  if (!end && radius > 4.5) centred(scene, JOINS[node.name] || "·", x, y + radius * 0.42, radius * 1.5, colours.ink, 99);
}

function drawLayer(scene, node, place) {
  const { map, context, colours, zoom, lit } = scene;
  const kept = map.widths ? map.widths.channels[node.index] : node.channels;
  const x = toX(map, place.x), y = toY(map, place.y);
  const wide = Math.max(2, Math.round(SIZE.bar * zoom)), high = Math.max(3, node.height * zoom);
  const left = Math.round(x - wide / 2), top = y - high / 2;
  context.globalAlpha = 1;
  context.fillStyle = colours.paper;
  context.fillRect(left, top, wide, high);
  context.globalAlpha = scene.alpha;
  segments(map, node).forEach((part, index) => {
    const colour = groupColour(part.group, colours);
    const from = top + high * part.start, tall = high * part.share;
    const full = map.widths && part.group ? map.widths.kept[part.group.index] / part.group.units : 1;
    const rest = tall * full;
    context.fillStyle = `color-mix(in srgb, ${colour} 20%, ${colours.paper})`;
    context.fillRect(left, from, wide, tall);
    context.fillStyle = colour;
    context.fillRect(left, from + (tall - rest) / 2, wide, rest);
    if (!part.group || part.group.reason) hatch(context, left, from, wide, tall, colours.soft);
    if (index) context.fillStyle = colours.paper, context.fillRect(left, from - 0.5, wide, 1);
  });
  if (high > 8 || kept < node.channels) {
    context.lineWidth = 1;
    context.strokeStyle = colours.soft;
    context.strokeRect(left + 0.5, Math.round(top) + 0.5, wide - 1, Math.round(high) - 1);
  }
  rings(scene, node, left, top, wide, high);
  labels(scene, node, kept, x, top, high, lit);
}

// One stack per bar: mostly one group; where a layer feeds several (a split), one part for each.
function segments(map, node) {
  if (!node.segments) {
    const told = node.parts.reduce((sum, [, channels]) => sum + channels, 0);
    const parts = node.parts.map(([group, channels]) => ({ group: map.picture.groups[group], channels }));
    if (told < node.channels) parts.push({ group: null, channels: node.channels - told });
    let start = 0;
    node.segments = parts.map((part) => {
      const share = part.channels / node.channels;
      start += share;
      return { ...part, share, start: start - share };
    });
  }
  return node.segments;
}

function hatch(context, left, top, wide, high, ink) {
  if (wide < 4 || high < 4) return;
  context.save();
  context.beginPath();
  context.rect(left, top, wide, high);
  context.clip();
  context.beginPath();
  for (let x = left - high; x < left + wide; x += 5) context.moveTo(x, top + high), context.lineTo(x + high, top);
  context.strokeStyle = ink;
  context.lineWidth = 0.8;
  context.stroke();
  context.restore();
}

function rings(scene, node, left, top, wide, high) {
  const { map, context, colours, lit } = scene;
  const ring = (colour, width, gap, dash = []) => {
    context.setLineDash(dash);
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(left - gap, top - gap, wide + 2 * gap, high + 2 * gap);
    context.setLineDash([]);
  };
  if (map.selected && map.selected.nodes.includes(node.index)) ring(colours.accent, 2.5, 2.5);
  if (lit && lit.nodes.has(node.index)) ring(colours.ink, 1.8, 2);
  else if (lit && lit.readers.has(node.index)) ring(colours.ink, 1.2, 3, [3, 3]);
  if (map.hover && map.hover.node === node) ring(colours.ink, 3, 2.5);
}

// A group's number stands over its bars; where there is no room, at the start of its band.
const marksShown = (map) => columnRoom(map) >= NEAR.marks && SIZE.mark * map.view.zoom >= NEAR.above;
const columnRoom = (map) => SIZE.layer * map.layout.stretch * map.view.zoom;

function labels(scene, node, kept, x, top, high, lit) {
  const { colours, zoom, map } = scene;
  const room = columnRoom(map);
  const lines = Math.floor((SIZE.label * zoom) / NEAR.under);
  const group = node.parts.length ? map.picture.groups[node.parts[0][0]] : null;
  if (group && group.hue >= 0 && marksShown(map)) centred(scene, String(group.number), x, top - 4, 10.5, colours.soft, room, 600);
  if (lit && !lit.nodes.has(node.index) && !lit.readers.has(node.index)) return;
  const below = top + high + 13;
  if (room >= NEAR.numbers && lines > 0) {
    const both = `${node.channels} → ${kept}`;
    const text = kept === node.channels ? String(kept) : textWidth(scene, fontOf(colours, 11, 600), both) <= room - 4 ? both : `→ ${kept}`;
    centred(scene, text, x, below, 11, colours.ink, room - 4, 600);
  }
  if (room >= NEAR.names && lines > 1) centred(scene, tail(scene, node.name, room - 5), x, below + 14, 11, colours.soft, room);
}
