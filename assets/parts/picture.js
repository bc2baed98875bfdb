// A picture to take away of what a component draws: PNG from a canvas of its own, SVG from a pen that writes down what
// a canvas would have painted. Both are painted by the same function.

const PNG_SCALE = 2;
const MOST_PIXELS = 2.4e7; // larger canvases fail silently in some browsers
const tidy = (value) => Number(value.toFixed(2));
const escaped = (text) => String(text).replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const rgbs = new Map();

// Any CSS colour as [rgb, opacity]: other programs know neither color-mix nor variables.
function plainColour(colour) {
  if (!rgbs.has(colour)) {
    const dot = document.createElement("canvas");
    dot.width = dot.height = 1;
    const context = dot.getContext("2d", { willReadFrequently: true });
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data;
    if (rgbs.size > 2000) rgbs.clear();
    rgbs.set(colour, [`rgb(${red},${green},${blue})`, alpha / 255]);
  }
  return rgbs.get(colour);
}

// The part of a canvas's 2D context that our drawings use.
class SvgPen {
  constructor(width, height) {
    Object.assign(this, { width, height, items: [], clips: 0, path: "", stack: [], ruler: document.createElement("canvas").getContext("2d") });
    this.state = { moves: "", clip: "", dash: [] };
    Object.assign(this, { fillStyle: "#000", strokeStyle: "#000", lineWidth: 1, globalAlpha: 1, font: "10px sans-serif", textAlign: "left", textBaseline: "alphabetic", imageSmoothingEnabled: true });
  }

  put(tag, attributes, text = "") {
    const { moves, clip } = this.state;
    const all = { ...attributes, ...(moves ? { transform: moves } : {}) };
    const words = Object.entries(all).map(([name, value]) => `${name}="${escaped(typeof value === "number" ? tidy(value) : value)}"`);
    const item = `<${tag} ${words.join(" ")}${text ? `>${escaped(text)}</${tag}>` : "/>"}`;
    this.items.push(clip ? `<g clip-path="url(#${clip})">${item}</g>` : item);
  }

  paint(kind) {
    const [colour, opacity] = plainColour(kind === "fill" ? this.fillStyle : this.strokeStyle);
    const seen = opacity * this.globalAlpha;
    const common = { [kind]: colour, ...(seen < 1 ? { [`${kind}-opacity`]: seen } : {}) };
    if (kind === "fill") return common;
    const dash = this.state.dash.length ? { "stroke-dasharray": this.state.dash.map(tidy).join(" ") } : {};
    return { ...common, fill: "none", "stroke-width": this.lineWidth, ...dash };
  }

  box(x, y, width, height) {
    return { x: Math.min(x, x + width), y: Math.min(y, y + height), width: Math.abs(width), height: Math.abs(height) };
  }

  clearRect() {}
  fillRect(...box) { this.put("rect", { ...this.box(...box), ...this.paint("fill") }); }
  strokeRect(...box) { this.put("rect", { ...this.box(...box), ...this.paint("stroke") }); }
  beginPath() { this.path = ""; }
  moveTo(x, y) { this.path += `M${tidy(x)} ${tidy(y)}`; }
  lineTo(x, y) { this.path += `L${tidy(x)} ${tidy(y)}`; }
  rect(x, y, width, height) { this.path += `M${tidy(x)} ${tidy(y)}h${tidy(width)}v${tidy(height)}h${tidy(-width)}z`; }
  // Whole circles only.
  arc(x, y, radius) { this.path += `M${tidy(x - radius)} ${tidy(y)}a${tidy(radius)} ${tidy(radius)} 0 1 0 ${tidy(2 * radius)} 0a${tidy(radius)} ${tidy(radius)} 0 1 0 ${tidy(-2 * radius)} 0`; }
  fill() { if (this.path) this.put("path", { d: this.path, ...this.paint("fill") }); }
  // A path of its own says how it runs in `d`.
  stroke(own) {
    const d = own ? own.d : this.path;
    if (d) this.put("path", { d, ...this.paint("stroke") });
  }

  clip() {
    this.clips += 1;
    const name = `clip${this.clips}`;
    const { moves } = this.state;
    this.items.push(`<clipPath id="${name}"><path d="${this.path}"${moves ? ` transform="${moves}"` : ""}/></clipPath>`);
    this.state.clip = name;
  }

  setLineDash(dash) { this.state.dash = dash; }
  save() { this.stack.push([{ ...this.state }, this.fillStyle, this.strokeStyle, this.lineWidth, this.globalAlpha, this.font, this.textAlign]); }
  restore() {
    const before = this.stack.pop();
    if (before) [this.state, this.fillStyle, this.strokeStyle, this.lineWidth, this.globalAlpha, this.font, this.textAlign] = before;
  }

  move(text) { this.state.moves = `${this.state.moves} ${text}`.trim(); }
  transform(...matrix) { this.move(`matrix(${matrix.map((value) => Number(value.toFixed(5))).join(" ")})`); }
  translate(x, y) { this.move(`translate(${tidy(x)} ${tidy(y)})`); }
  rotate(angle) { this.move(`rotate(${tidy((angle * 180) / Math.PI)})`); }
  measureText(text) {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  fillText(text, x, y) {
    const [, weight = "400", size = "10", family = "sans-serif"] = /^(?:(\d+) )?([\d.]+)px (.*)$/.exec(this.font) || [];
    const anchor = { center: "middle", right: "end", end: "end" }[this.textAlign] || "start";
    this.put("text", { x, y, "font-size": Number(size), "font-weight": weight, "font-family": family, "text-anchor": anchor, ...this.paint("fill") }, text);
  }

  drawImage(image, sourceX, sourceY, sourceWidth, sourceHeight, x, y, width, height) {
    const copy = document.createElement("canvas");
    Object.assign(copy, { width: sourceWidth, height: sourceHeight });
    copy.getContext("2d").drawImage(image, -sourceX, -sourceY);
    const crisp = this.imageSmoothingEnabled ? {} : { style: "image-rendering: pixelated" };
    this.put("image", { x, y, width, height, preserveAspectRatio: "none", href: copy.toDataURL(), ...crisp });
  }

  toString() {
    const size = `width="${Math.ceil(this.width)}" height="${Math.ceil(this.height)}" viewBox="0 0 ${Math.ceil(this.width)} ${Math.ceil(this.height)}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>\n${this.items.join("\n")}\n</svg>\n`;
  }
}

function takeAway(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// picture: {format: "png" or "svg", name}. paint(pen) paints width x height CSS pixels.
function savePicture(picture, width, height, paper, paint) {
  const start = (pen) => {
    pen.fillStyle = paper;
    pen.fillRect(0, 0, width, height);
    paint(pen);
  };
  const name = `${picture.name.replace(/[^\w.-]+/g, "-")}.${picture.format}`;
  if (picture.format === "svg") {
    const pen = new SvgPen(width, height);
    start(pen);
    return takeAway(new Blob([pen.toString()], { type: "image/svg+xml" }), name);
  }
  const canvas = document.createElement("canvas");
  const scale = Math.min(PNG_SCALE, Math.sqrt(MOST_PIXELS / (width * height)));
  Object.assign(canvas, { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  start(context);
  return canvas.toBlob((blob) => takeAway(blob, name), "image/png");
}

function pictureButton(parent, className, save) {
  const button = make("button", className, parent, { type: "button", title: "Save as a picture: PNG or SVG, as chosen under Link and file" });
  button.textContent = "Picture";
  button.addEventListener("click", save);
  return button;
}
