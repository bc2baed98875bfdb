// Words on the canvas.

// Setting a canvas's font is slow: widths are remembered, and texts wait until all of their font are written at once.
const measured = new Map();
const fontOf = (colours, size, weight = 400) => `${weight} ${size}px ${colours.family}`;

function textWidth({ context }, font, text) {
  const key = `${font}|${text}`;
  if (!measured.has(key)) {
    if (measured.size > 6000) measured.clear();
    context.font = font;
    measured.set(key, context.measureText(text).width);
  }
  return measured.get(key);
}

function centred(scene, text, x, y, size, colour, room, weight = 400) {
  const font = fontOf(scene.colours, size, weight);
  if (!text || textWidth(scene, font, text) > room) return;
  if (!scene.texts.has(font)) scene.texts.set(font, []);
  scene.texts.get(font).push([text, x, y, colour, scene.alpha]);
}

function writeTexts({ context, texts }) {
  context.textAlign = "center";
  for (const [font, all] of texts) {
    context.font = font;
    for (const [text, x, y, colour, alpha] of all) {
      context.globalAlpha = alpha;
      context.fillStyle = colour;
      context.fillText(text, x, y);
    }
  }
  context.textAlign = "left";
  context.globalAlpha = 1;
}

// The end of a layer's name says most: "layer3.5.conv2" -> "…5.conv2"; a bare number says nothing.
function tail(scene, name, room) {
  const font = fontOf(scene.colours, 11);
  const good = (text) => textWidth(scene, font, text) <= room;
  if (good(name)) return name;
  const parts = name.split(".");
  for (let at = 1; at < parts.length; at += 1) {
    const rest = parts.slice(at).join(".");
    if (/[a-z]/i.test(rest) && good(`…${rest}`)) return `…${rest}`;
  }
  for (let length = name.length - 1; length > 6; length -= 1) {
    if (good(`…${name.slice(-length)}`)) return `…${name.slice(-length)}`;
  }
  return "";
}
