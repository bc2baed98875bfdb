// The small overview in the corner, there as soon as a part of the network is out of sight.

const MINI = { width: 190, height: 110 };

function drawMini(map) {
  const { mini, layout, picture } = map;
  const seen = sight(map);
  const whole = seen.left <= 1 && seen.top <= 1 && seen.right >= layout.width - 1 && seen.bottom >= layout.height - 1;
  mini.hidden = whole || map.width < 300;
  if (mini.hidden) return;
  const scale = Math.min(MINI.width / layout.width, MINI.height / layout.height);
  const ratio = window.devicePixelRatio || 1;
  const [wide, high] = [layout.width * scale, layout.height * scale];
  Object.assign(mini.style, { width: `${wide + 2}px`, height: `${high + 2}px` });
  Object.assign(mini, { width: Math.round(wide * ratio), height: Math.round(high * ratio) });
  map.miniScale = scale;
  const context = mini.getContext("2d");
  context.scale(ratio * scale, ratio * scale);
  for (const node of picture.layers) {
    const place = layout.place[node.index];
    const group = node.parts.length ? picture.groups[node.parts[0][0]] : null;
    const lit = map.hover ? map.hover.group === group : map.selected === group && group;
    context.fillStyle = lit ? map.colours.accent : groupColour(group, map.colours);
    const height = Math.max(node.height, 2 / scale);
    context.fillRect(place.x - SIZE.bar / 2, place.y - height / 2, SIZE.bar, height);
  }
  context.lineWidth = 1.5 / scale;
  context.strokeStyle = map.colours.accent;
  context.fillStyle = `color-mix(in srgb, ${map.colours.accent} 12%, transparent)`;
  const left = Math.max(0, seen.left), top = Math.max(0, seen.top);
  const box = [left, top, Math.min(layout.width, seen.right) - left, Math.min(layout.height, seen.bottom) - top];
  context.fillRect(...box);
  context.strokeRect(...box);
}

function wireMini(map) {
  const go = (event) => {
    const box = map.mini.getBoundingClientRect();
    centreOn(map, (event.clientX - box.left) / map.miniScale, (event.clientY - box.top) / map.miniScale);
  };
  map.mini.addEventListener("pointerdown", (event) => {
    map.mini.setPointerCapture(event.pointerId);
    go(event);
  });
  map.mini.addEventListener("pointermove", (event) => event.buttons && go(event));
}
