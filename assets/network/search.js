// The field that jumps to a layer by name.

const FOUND = 12;

function wireSearch(map, parent) {
  const box = make("div", "search", parent);
  const input = make("input", "", box);
  Object.assign(input, { type: "text", placeholder: "Find a layer", autocomplete: "off", spellcheck: false });
  const list = make("ul", "found", box);
  Object.assign(list, { hidden: true, id: "network-found" });
  map.found = list;
  const attributes = { role: "combobox", "aria-label": "Find a layer by name", "aria-controls": list.id, "aria-expanded": "false", "aria-autocomplete": "list" };
  for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);
  list.setAttribute("role", "listbox");
  let [hits, at] = [[], 0];

  const mark = (next) => {
    at = Math.max(0, Math.min(hits.length - 1, next));
    [...list.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === at && hits.length > 0)));
    if (hits.length) list.children[at].scrollIntoView({ block: "nearest" });
    if (hits.length) input.setAttribute("aria-activedescendant", list.children[at].id);
  };
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const jump = (node) => {
    close();
    input.value = node.name;
    const { x, y } = map.layout.place[node.index];
    point(map, node);
    glideTo(map, x, y, Math.max(map.view.zoom, ZOOM.jump));
  };
  const look = () => {
    hits = input.value.trim() ? searchLayers(map.picture.layers, input.value) : map.picture.layers.slice(0, FOUND);
    list.replaceChildren();
    hits.forEach((node, index) => {
      const item = make("li", "", list, node.name);
      item.id = `network-found-${index}`;
      item.setAttribute("role", "option");
      make("small", "", item, `${node.what}, ${plain(node.channels)} channels`);
      // pointerdown, not click: the field keeps the focus and the list stays until the choice is made.
      item.addEventListener("pointerdown", (event) => (event.preventDefault(), jump(node)));
    });
    if (!hits.length) make("li", "none", list, "No layer has this in its name.");
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark(0);
  };
  input.addEventListener("input", look);
  input.addEventListener("focus", () => (input.select(), look()));
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "ArrowDown") mark(at + 1);
    else if (event.key === "ArrowUp") mark(at - 1);
    else if (event.key === "Enter" && hits.length) jump(hits[at]);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
  });
}

// Names that begin so come first, then parts of names that begin so, then all that hold it.
function searchLayers(layers, text) {
  const wanted = text.trim().toLowerCase();
  const rank = (name) => (name.startsWith(wanted) ? 0 : name.includes(`.${wanted}`) ? 1 : name.includes(wanted) ? 2 : 3);
  const ranked = layers.map((node) => [rank(node.name.toLowerCase()), node]).filter(([place]) => place < 3);
  return ranked.sort((a, b) => a[0] - b[0]).slice(0, FOUND).map(([, node]) => node);
}
