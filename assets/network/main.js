// Builds the map once, adopts pictures from Streamlit and widths from the plan's own small message.

const maps = new WeakMap();

function createMap(root) {
  const map = {
    root, view: { zoom: 1, dx: 0, dy: 0, fitted: true }, width: 0, height: 0, hover: null, selected: null, widths: null,
    picture: null, layout: null, key: null, request: 0, gliding: 0, scrolled: -1e9, leaving: false, titleDepth: 1,
  };
  const head = make("div", "head", root);
  wireSearch(map, head);
  const tools = make("div", "tools", head);
  const tool = (text, label, className, act) => {
    const button = make("button", className, tools, text);
    Object.assign(button, { type: "button", title: label });
    button.setAttribute("aria-label", label);
    button.addEventListener("click", act);
  };
  tool("−", "Zoom out", "sign", () => zoomAt(map, 1 / ZOOM.key));
  tool("+", "Zoom in", "sign", () => zoomAt(map, ZOOM.key));
  tool("Fit", "Show the whole network", "", () => fit(map));
  if (document.fullscreenEnabled) tool("Full screen", "Full screen, Esc ends it", "", () => (isFull(map) ? document.exitFullscreen() : root.requestFullscreen()));
  pictureButton(tools, "", () => map.layout && takePicture(map));
  map.stage = make("div", "stage", root);
  map.canvas = make("canvas", "map", map.stage);
  map.canvas.tabIndex = 0;
  map.canvas.setAttribute("role", "application");
  map.mini = make("canvas", "mini", map.stage);
  Object.assign(map.mini, { hidden: true });
  map.mini.setAttribute("aria-hidden", "true");
  map.empty = make("div", "empty", map.stage, "This network has no layers to draw.");
  map.empty.hidden = true;
  map.tip = make("div", "tip", root);
  map.tip.setAttribute("role", "tooltip");
  const below = make("div", "below", root);
  map.readout = make("div", "readout", below);
  map.readout.setAttribute("role", "status");
  map.legend = make("div", "legend", below);
  wirePointer(map);
  wireMini(map);
  wireScroll(map);
  map.canvas.addEventListener("keydown", (event) => map.layout && onKey(map, event));
  map.canvas.addEventListener("blur", () => ((map.leaving = false), point(map, null)));
  new ResizeObserver(() => resize(map)).observe(map.stage);
  // A change of theme changes the text's colour, and that is a transition that ends.
  root.addEventListener("transitionend", (event) => event.target === root && (refresh(map), map.picture && drawLegend(map)));
  listen(map);
  return map;
}

// Inside a shadow root the document knows only the host; the root knows its own.
const isFull = (map) => map.root.getRootNode().fullscreenElement === map.root;

function resize(map) {
  if (!map.picture || !map.stage.clientWidth || !map.picture.layers.length) return;
  const width = map.stage.clientWidth;
  const full = isFull(map);
  const room = full ? map.stage.clientHeight : map.room;
  if (width === map.width && room === map.given && map.layout) return;
  map.layout = layOut(map.picture, width, room, full ? 1.6 : 1);
  // A small network needs no tall view.
  const height = full ? room : Math.min(room, Math.max(220, Math.ceil(map.layout.height * leastZoom(map)) + 2));
  Object.assign(map, { width, height, given: room });
  map.stage.style.height = full ? "" : `${height + 2}px`;
  map.root.dataset.lines = String(map.layout.lines.length);
  fit(map);
}

function legendEntries(map, colours) {
  const held = map.picture.groups.filter((group) => group.nodes.length);
  return [
    [held.some((group) => group.hue >= 0 && !group.reason), "one colour: leave together", (c) => HUES.slice(0, 3).forEach((hue, at) => ((c.fillStyle = hue), c.fillRect(7 * at, 0, 6, 14)))],
    [held.some((group) => group.hue < 0 && !group.reason), "grey: on its own", (c) => ((c.fillStyle = colours.alone), c.fillRect(0, 0, 20, 14))],
    [held.some((group) => group.reason), "locked", (c) => ((c.fillStyle = colours.locked), c.fillRect(0, 0, 20, 14), hatch(c, 0, 0, 20, 14, colours.soft))],
    [true, "outline: before, fill: share kept", (c) => ((c.fillStyle = colours.alone), c.fillRect(0, 4, 20, 6), (c.strokeStyle = colours.soft), c.strokeRect(0.5, 0.5, 19, 13))],
  ].filter(([there]) => there);
}

function drawLegend(map) {
  const { legend } = map;
  legend.replaceChildren();
  for (const [, text, paint] of legendEntries(map, coloursOf(map.root))) {
    const entry = make("span", "", legend);
    const swatch = make("canvas", "", entry);
    const ratio = window.devicePixelRatio || 1;
    Object.assign(swatch, { width: 20 * ratio, height: 14 * ratio });
    Object.assign(swatch.style, { width: "20px", height: "14px" });
    const context = swatch.getContext("2d");
    context.scale(ratio, ratio);
    paint(context);
    entry.append(text);
  }
  make("span", "", legend, "height: square root of the channel count");
}

// Titles over the lines: the first parts of names, as many as tell stages apart.
function titleDepth(layers) {
  const paths = layers.map((node) => node.name.split(".").slice(0, -1));
  for (let depth = 1; depth < 4; depth += 1) {
    if (new Set(paths.map((path) => path.slice(0, depth).join("."))).size > 2) return depth;
  }
  return 1;
}

function adopt(map, data) {
  Object.assign(map, { room: data.height, title: data.title, save: data.save });
  if (map.key !== data.key) {
    Object.assign(map, { key: data.key, picture: readPicture(data.picture), layout: null, lit: null, hover: null, selected: null, heard: null, widths: null });
    map.titleDepth = titleDepth(map.picture.layers);
    map.empty.hidden = map.picture.layers.length > 0;
    Object.assign(map.root.dataset, { selected: "", hover: "" });
    resize(map);
    drawLegend(map);
    showTip(map);
    tell(map);
    window.dispatchEvent(new CustomEvent("prunescope-widths-please"));
  }
  const { layers, groups } = map.picture;
  map.canvas.setAttribute("aria-label", `${data.title}: ${plural(layers.length, "layer")} in ${plural(groups.length, "group")}. Arrow keys walk, Tab steps from group to group, Enter selects, plus and minus zoom. The same as a table follows.`);
}

function listen(map) {
  const hear = ({ detail }) => {
    if (!map.root.isConnected) return window.removeEventListener("prunescope-widths", hear);
    if (detail.key !== map.key) return;
    map.widths = detail.widths;
    const group = map.picture.groups.find((one) => one.id === detail.selected) || null;
    // Only what is new there is adopted: a locked group that was clicked is marked here alone.
    if (detail.selected !== map.heard && group !== map.selected) {
      map.selected = group;
      map.root.dataset.selected = group ? group.id : "";
      if (group && map.layout) showGroup(map, group);
    }
    map.heard = detail.selected;
    if (map.hover) showTip(map);
    tell(map);
    refresh(map);
  };
  window.addEventListener("prunescope-widths", hear);
}

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".network");
  if (!root || !data) return;
  let map = maps.get(parentElement);
  if (!map || map.root !== root) {
    map = createMap(root);
    maps.set(parentElement, map);
  }
  map.setTriggerValue = setTriggerValue;
  adopt(map, data);
}
