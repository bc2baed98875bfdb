// Hands: pan, zoom, pinch, point, pick, keys, search.

const ZOOM = { most: 3, key: 1.3, wheel: 0.0016, jump: 1.7 };
const HINT = "Point at a layer to see what moves with it; click to select. Wheel or + and − zoom, drag pans, arrow keys walk, Tab steps from group to group (Esc, then Tab, leaves).";

function refresh(map) {
  if (!map.request) map.request = requestAnimationFrame(() => draw(map));
}

function leastZoom(map) {
  return map.layout.fitted;
}

function setView(map, zoom, dx, dy) {
  const { layout, view } = map;
  if (!layout) return;
  view.zoom = Math.min(ZOOM.most, Math.max(leastZoom(map), zoom));
  // What is smaller than the view stands in its middle; what is larger never leaves it.
  const hold = (size, room, at) => (size * view.zoom <= room ? (room - size * view.zoom) / 2 : Math.min(0, Math.max(room - size * view.zoom, at)));
  view.dx = hold(layout.width, map.width, dx);
  view.dy = hold(layout.height, map.height, dy);
  view.fitted = view.zoom <= leastZoom(map) * 1.001;
  map.canvas.style.touchAction = view.fitted ? "pan-y" : "none";
  map.root.dataset.zoom = view.zoom.toFixed(3);
  if (map.hover) placeTip(map);
  refresh(map);
}

function zoomAt(map, factor, x = map.width / 2, y = map.height / 2) {
  stopGlide(map);
  if (!map.layout) return;
  const { view } = map;
  const zoom = Math.min(ZOOM.most, Math.max(leastZoom(map), view.zoom * factor));
  setView(map, zoom, x - ((x - view.dx) / view.zoom) * zoom, y - ((y - view.dy) / view.zoom) * zoom);
}

function centreOn(map, x, y, zoom = map.view.zoom) {
  stopGlide(map);
  setView(map, zoom, map.width / 2 - x * zoom, map.height / 2 - y * zoom);
}

function fit(map) {
  stopGlide(map);
  if (map.layout) setView(map, leastZoom(map), 0, 0);
}

function stopGlide(map) {
  cancelAnimationFrame(map.gliding);
}

function glideTo(map, x, y, zoom) {
  stopGlide(map);
  const { view } = map;
  const from = { x: (map.width / 2 - view.dx) / view.zoom, y: (map.height / 2 - view.dy) / view.zoom, zoom: view.zoom };
  const began = performance.now();
  const time = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1 : 260;
  const step = (now) => {
    const share = Math.min(1, Math.max(0, (now - began) / time));
    const eased = 1 - (1 - share) ** 3;
    const at = (a, b) => a + (b - a) * eased;
    const next = at(from.zoom, zoom);
    setView(map, next, map.width / 2 - at(from.x, x) * next, map.height / 2 - at(from.y, y) * next);
    if (share < 1) map.gliding = requestAnimationFrame(step);
  };
  map.gliding = requestAnimationFrame(step);
}

function inSight(map, index) {
  const place = map.layout.place[index];
  const x = toX(map, place.x), y = toY(map, place.y);
  return x > 20 && x < map.width - 20 && y > 20 && y < map.height - 20;
}

// The whole group when it fits at this zoom, else the first of its layers.
function showGroup(map, group) {
  if (!group.nodes.length || group.nodes.every((index) => inSight(map, index))) return refresh(map);
  const places = group.nodes.map((index) => map.layout.place[index]);
  const xs = places.map((place) => place.x), ys = places.map((place) => place.y);
  const [left, right, top, bottom] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const fitting = (right - left + 80) * map.view.zoom < map.width && (bottom - top + 80) * map.view.zoom < map.height;
  glideTo(map, fitting ? (left + right) / 2 : places[0].x, fitting ? (top + bottom) / 2 : places[0].y, map.view.zoom);
}

function point(map, node, group = node ? mainGroup(map, node) : null) {
  if (map.hover ? map.hover.node === node && map.hover.group === group : !node) return;
  map.hover = node ? { node, group } : null;
  map.root.dataset.hover = node ? node.name : "";
  map.canvas.classList.toggle("over", Boolean(group));
  showTip(map);
  tell(map);
  refresh(map);
}

function mainGroup(map, node) {
  const most = [...node.parts].sort((a, b) => b[1] - a[1])[0];
  return most ? map.picture.groups[most[0]] : null;
}

function nodeAt(map, x, y, slack = 6) {
  let [best, nearest] = [null, Infinity];
  for (const node of map.layout ? map.picture.nodes : []) {
    const place = map.layout.place[node.index];
    const wide = node.kind === "layer" ? columnRoom(map) / 2 : (SIZE.join / 2) * map.view.zoom;
    const away = Math.abs(toX(map, place.x) - x);
    const high = (node.height / 2) * map.view.zoom;
    const under = node.kind === "layer" && columnRoom(map) > NEAR.numbers ? 0.7 * SIZE.label * map.view.zoom : 0;
    const from = y - toY(map, place.y);
    if (away <= wide && from >= -high - slack && from <= high + slack + under && away < nearest) [best, nearest] = [node, away];
  }
  return best;
}

function choose(map, group) {
  if (!group) return;
  map.selected = group;
  map.root.dataset.selected = group.id;
  tell(map);
  showGroup(map, group);
  map.setTriggerValue("pick", { id: group.id });
}

function walk(map, key) {
  const { layers } = map.picture;
  const at = map.hover && map.hover.node.kind === "layer" ? layers.indexOf(map.hover.node) : -1;
  if (at < 0) return layers[key === "End" ? layers.length - 1 : 0];
  if (key === "Home" || key === "End") return layers[key === "Home" ? 0 : layers.length - 1];
  if (key === "ArrowRight" || key === "ArrowLeft") return layers[Math.min(layers.length - 1, Math.max(0, at + (key === "ArrowRight" ? 1 : -1)))];
  const here = map.layout.place[layers[at].index];
  const sign = key === "ArrowDown" ? 1 : -1;
  const far = (node) => {
    const place = map.layout.place[node.index];
    const down = sign * (place.y - here.y);
    return down > 8 ? down + 2 * Math.abs(place.x - here.x) : Infinity;
  };
  const best = layers.reduce((a, b) => (far(b) < far(a) ? b : a));
  return far(best) < Infinity ? best : layers[at];
}

function stepGroup(map, by) {
  const withNodes = map.picture.groups.filter((group) => group.nodes.length);
  const now = map.hover && map.hover.group ? withNodes.indexOf(map.hover.group) : by > 0 ? -1 : withNodes.length;
  return withNodes[now + by] || null;
}

function goTo(map, node, group) {
  point(map, node, group);
  if (!inSight(map, node.index)) glideTo(map, map.layout.place[node.index].x, map.layout.place[node.index].y, map.view.zoom);
}

function onKey(map, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key } = event;
  if (key === "Tab") {
    const group = map.leaving ? null : stepGroup(map, event.shiftKey ? -1 : 1);
    map.leaving = false;
    if (!group) return; // the browser moves on to the next control
    goTo(map, map.picture.nodes[group.nodes[0]], group);
  } else if (key === "+" || key === "=") zoomAt(map, ZOOM.key);
  else if (key === "-" || key === "_") zoomAt(map, 1 / ZOOM.key);
  else if (key === "0") fit(map);
  else if (key === "Escape") {
    if (isFull(map)) return;
    map.leaving = true;
    point(map, null);
  } else if (key === "Enter" || key === " ") choose(map, map.hover && map.hover.group);
  else if (key.startsWith("Arrow") || key === "Home" || key === "End") goTo(map, walk(map, key));
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function wirePointer(map) {
  const { canvas } = map;
  const down = new Map();
  let moved = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const spread = () => {
    const [a, b] = [...down.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, far: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    if (!down.size) moved = 0;
    down.set(event.pointerId, at(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = at(event);
    const before = down.get(event.pointerId);
    if (!before) return point(map, nodeAt(map, now.x, now.y));
    if (down.size === 2) {
      const then = spread();
      down.set(event.pointerId, now);
      const next = spread();
      zoomAt(map, next.far / then.far, next.x, next.y);
      setView(map, map.view.zoom, map.view.dx + next.x - then.x, map.view.dy + next.y - then.y);
      moved = 99;
      return;
    }
    moved += Math.abs(now.x - before.x) + Math.abs(now.y - before.y);
    down.set(event.pointerId, now);
    if (moved < 5) return;
    canvas.classList.add("panning");
    stopGlide(map);
    point(map, null);
    setView(map, map.view.zoom, map.view.dx + now.x - before.x, map.view.dy + now.y - before.y);
  });
  const lift = (event) => {
    if (!down.delete(event.pointerId)) return;
    canvas.classList.remove("panning");
    if (moved >= 5 || event.type !== "pointerup") return;
    const { x, y } = at(event);
    const node = nodeAt(map, x, y, event.pointerType === "touch" ? 14 : 6);
    point(map, node);
    choose(map, node && mainGroup(map, node));
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && !down.size && point(map, null));
  canvas.addEventListener("wheel", (event) => onWheel(map, event, at(event)), { passive: false });
}

// A page that is being scrolled goes on scrolling when the map comes under the pointer; at the whole view, zooming out
// scrolls too.
function onWheel(map, event, { x, y }) {
  const pinch = event.ctrlKey;
  const since = event.timeStamp - map.scrolled;
  if (!pinch && (since < 250 || (map.view.fitted && event.deltaY > 0))) {
    map.scrolled = event.timeStamp;
    return;
  }
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  zoomAt(map, Math.exp(-event.deltaY * lines * ZOOM.wheel * (pinch ? 5 : 1)), x, y);
}

function wireScroll(map) {
  const onScroll = (event) => {
    if (!map.root.isConnected) document.removeEventListener("scroll", onScroll, true);
    else if (event.target !== map.found) map.scrolled = performance.now();
  };
  document.addEventListener("scroll", onScroll, true);
}
