// Where everything stands. The picture comes as columns and lanes; like a text it is broken into lines, as many as make
// the whole network largest in the view at hand. World units are CSS pixels at zoom 1.

const SIZE = { layer: 62, join: 26, end: 34, bar: 24, tallest: 62, least: 6, thin: 14, track: 12, band: 9, label: 36, mark: 17, title: 25, gap: 16, edge: 14 };

function readPicture(data) {
  const nodes = data.nodes.map(([kind, name, what, column, lane, channels, parts, reads, macs, gather], index) => (
    { index, kind, name, what, column, lane, channels, parts, reads, macs, gather: Boolean(gather), entering: 0, leaving: [] }));
  const groups = data.groups.map(([id, number, name, units, reason, members, readers, hue, level], index) => (
    { index, id, number, name, units, reason, nodes: members, readers, hue, level }));
  const wires = data.wires.map(([from, to, route]) => ({ from, to, route, back: nodes[from].column >= nodes[to].column }));
  wires.forEach(({ from, to }, index) => (nodes[from].leaving.push(index), (nodes[to].entering += 1)));
  const layers = nodes.filter((node) => node.kind === "layer").sort((a, b) => a.column - b.column || a.lane - b.lane);
  nameBlocks(layers);
  const widest = Math.max(1, ...layers.map((node) => node.channels));
  for (const node of nodes) node.height = node.kind === "layer" ? barHeight(node.channels, widest) : 14;
  const count = 1 + Math.max(0, ...nodes.map((node) => node.column));
  const columns = Array.from({ length: count }, () => ({ width: SIZE.join, top: null }));
  for (const node of nodes) {
    const column = columns[node.column];
    column.width = Math.max(column.width, SIZE[node.kind] || SIZE.end);
    if (node.kind === "layer" && (!column.top || node.lane < column.top.lane)) column.top = node;
  }
  return { nodes, groups, wires, layers, columns, widest };
}

// A layer's block: the nearest module around it that holds another layer too. "Mixed_5b.branch1x1.conv" -> "Mixed_5b".
function nameBlocks(layers) {
  const held = new Map();
  const around = (name) => name.split(".").slice(0, -1).map((_, at, path) => path.slice(0, at + 1).join("."));
  for (const { name } of layers) for (const path of around(name)) held.set(path, (held.get(path) || 0) + 1);
  for (const layer of layers) layer.block = around(layer.name).findLast((path) => held.get(path) > 1) || layer.name;
}

// Heights go with the square root: 64 and 2,048 channels still compare, and both can be seen.
function barHeight(channels, widest) {
  return Math.max(SIZE.least, SIZE.tallest * Math.sqrt(channels / widest));
}

// Greedy lines of at most `room`; a line breaks where a layer begins, not before a join.
function breakLines(columns, room) {
  const lines = [{ start: 0, stop: 0, width: 0 }];
  columns.forEach((column, index) => {
    let line = lines[lines.length - 1];
    if (line.width && line.width + column.width > room && column.top) lines.push((line = { start: index, stop: index, width: 0 }));
    line.stop = index + 1;
    line.width += column.width;
  });
  return lines;
}

function linesFor(picture, room) {
  const lines = breakLines(picture.columns, room);
  const lineOf = picture.columns.map(() => 0);
  lines.forEach((line, number) => {
    lineOf.fill(number, line.start, line.stop);
    Object.assign(line, { lanes: new Map(), tracks: 0, bands: 0 });
  });
  const widen = (line, lane, up, down) => {
    const [a, b] = line.lanes.get(lane) || [0, 0];
    line.lanes.set(lane, [Math.max(a, up), Math.max(b, down)]);
  };
  for (const node of picture.nodes) {
    const half = node.height / 2;
    widen(lines[lineOf[node.column]], node.lane, half + SIZE.mark, node.kind === "layer" ? half + SIZE.label : half + 6);
  }
  for (const { from, to, route } of picture.wires) {
    const ends = [picture.nodes[from].column, picture.nodes[to].column].sort((a, b) => a - b);
    for (let number = lineOf[ends[0]]; number <= lineOf[ends[1]]; number += 1) {
      if (route < 0) lines[number].tracks = Math.max(lines[number].tracks, -route);
      else widen(lines[number], route, SIZE.thin / 2, SIZE.thin / 2);
    }
  }
  for (const group of picture.groups) {
    if (group.level < 0) continue;
    const at = group.nodes.map((index) => picture.nodes[index].column);
    for (let number = lineOf[Math.min(...at)]; number <= lineOf[Math.max(...at)]; number += 1) lines[number].bands = Math.max(lines[number].bands, group.level + 1);
  }
  let y = SIZE.edge;
  for (const line of lines) {
    line.top = y;
    y += SIZE.title + line.tracks * SIZE.track;
    line.laneY = new Map();
    for (const lane of [...line.lanes.keys()].sort((a, b) => a - b)) {
      const [up, down] = line.lanes.get(lane);
      line.laneY.set(lane, y + up);
      y += up + down;
    }
    line.bandY = y + 4;
    y += line.bands * SIZE.band + (line.bands ? 4 : 0);
    line.bottom = y;
    y += SIZE.gap;
  }
  return { lines, lineOf, width: Math.max(...lines.map((line) => line.width)) + 2 * SIZE.edge, height: y - SIZE.gap + SIZE.edge };
}

// `fitted`: the zoom that shows all of it, `most` at the highest.
function layOut(picture, width, height, most) {
  const total = picture.columns.reduce((sum, column) => sum + column.width, 0);
  let best = null;
  for (let count = 1; count <= Math.min(60, picture.columns.length); count += 1) {
    const tried = linesFor(picture, total / count + SIZE.layer / 2);
    const scale = Math.min(width / tried.width, height / tried.height);
    if (!best || scale > best.scale) best = { ...tried, scale };
    else if (scale < 0.6 * best.scale) break;
  }
  // Where lines end early the columns move apart: room for names.
  const natural = best.width - 2 * SIZE.edge;
  best.fitted = Math.min(most, best.scale);
  best.stretch = Math.max(1, Math.min(1.7, (width / best.fitted - 2 * SIZE.edge) / natural));
  best.width = natural * best.stretch + 2 * SIZE.edge;
  best.x = [];
  for (const line of best.lines) {
    let x = SIZE.edge;
    for (let column = line.start; column < line.stop; column += 1) {
      best.x[column] = x + (picture.columns[column].width / 2) * best.stretch;
      x += picture.columns[column].width * best.stretch;
    }
    line.right = x;
  }
  best.place = picture.nodes.map((node) => {
    const line = best.lineOf[node.column];
    return { x: best.x[node.column], y: best.lines[line].laneY.get(node.lane), line };
  });
  best.wires = picture.wires.flatMap((wire, index) => pieces(picture, best, wire).map((piece) => ({ ...piece, wire: index })));
  best.bands = picture.groups.filter((group) => group.level >= 0).flatMap((group) => bandPieces(picture, best, group));
  return best;
}

function routeY(line, route) {
  if (route >= 0) return line.laneY.get(route);
  return line.top + SIZE.title + (line.tracks + route + 0.5) * SIZE.track;
}

// One wire, one piece per line it passes: a path with round corners from its start (or the line's edge) to its end.
function pieces(picture, layout, { from, to, route, back }) {
  const [a, b] = back ? [to, from] : [from, to];
  const [start, stop] = [layout.place[a], layout.place[b]];
  const result = [];
  for (let number = start.line; number <= stop.line; number += 1) {
    const line = layout.lines[number];
    const y = routeY(line, route);
    const points = [];
    const step = (node, sign) => layout.x[picture.nodes[node].column] + sign * (picture.columns[picture.nodes[node].column].width / 2) * layout.stretch;
    if (number === start.line) {
      points.push([start.x, start.y]);
      if (y !== start.y) points.push([step(a, 1) - 3, start.y], [step(a, 1) - 3, y]);
    } else points.push([SIZE.edge - 8, y]);
    if (number === stop.line) {
      if (y !== stop.y) points.push([step(b, -1) + 3, y], [step(b, -1) + 3, stop.y]);
      points.push([stop.x, stop.y]);
    } else points.push([line.right + 8, y]);
    result.push({ line: number, path: roundPath(points), left: Math.min(points[0][0], points.at(-1)[0]), right: Math.max(points[0][0], points.at(-1)[0]) });
  }
  return result;
}

// `d` says the same in SVG, for pictures to take away.
function roundPath(points) {
  const text = ([x, y]) => `${Number(x.toFixed(2))} ${Number(y.toFixed(2))}`;
  const towards = ([x, y], [u, v], step) => {
    const length = Math.hypot(u - x, v - y) || 1;
    const share = Math.min(0.5, step / length);
    return [x + (u - x) * share, y + (v - y) * share];
  };
  let d = `M${text(points[0])}`;
  for (let at = 1; at < points.length - 1; at += 1) {
    const corner = points[at];
    d += `L${text(towards(corner, points[at - 1], 6))}Q${text(corner)} ${text(towards(corner, points[at + 1], 6))}`;
  }
  return Object.assign(new Path2D(`${d}L${text(points.at(-1))}`), { d: `${d}L${text(points.at(-1))}` });
}

// The band under a group's layers; it runs to the line's edge where the group goes on in the next line.
function bandPieces(picture, layout, group) {
  const places = group.nodes.map((index) => layout.place[index]);
  const [first, last] = [Math.min(...places.map((place) => place.line)), Math.max(...places.map((place) => place.line))];
  const result = [];
  for (let number = first; number <= last; number += 1) {
    const line = layout.lines[number];
    const marks = places.filter((place) => place.line === number).map((place) => place.x);
    const left = number === first ? Math.min(...marks) - SIZE.bar / 2 : SIZE.edge - 8;
    const right = number === last ? Math.max(...marks) + SIZE.bar / 2 : line.right + 8;
    result.push({ group: group.index, line: number, left, right, marks, y: line.bandY + group.level * SIZE.band });
  }
  return result;
}
