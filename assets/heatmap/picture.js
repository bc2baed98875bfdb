// The map as a picture to take away: title, names, strips, notes and the legend.

const ROOM = { head: 34, foot: 40, edge: 12, ramp: 160 };

function widest(pen, texts) {
  return Math.ceil(Math.max(0, ...texts.map((text) => pen.measureText(text).width)));
}

function takePicture(map) {
  if (!map.layout) return;
  const { background, ink } = coloursOf(map);
  const style = getComputedStyle(map.root);
  const font = (size, weight = 400) => `${weight} ${size}px ${style.fontFamily}`;
  const ruler = map.canvas.getContext("2d");
  const before = ruler.font;
  ruler.font = font(12);
  const names = widest(ruler, map.rows.map((row) => row.name)) + 10;
  const notes = map.data.notes ? widest(ruler, map.rows.map((row) => row.note || "")) + 10 : 0;
  ruler.font = before;
  const left = ROOM.edge + names;
  const width = left + map.layout.width + notes + ROOM.edge;
  const height = ROOM.head + map.layout.height + ROOM.foot;
  savePicture({ ...map.data.picture, name: map.data.title }, width, height, `rgb(${background.join(",")})`, (pen) => {
    const write = (text, x, y, align = "left", face = font(12)) => {
      Object.assign(pen, { font: face, textAlign: align, fillStyle: ink });
      pen.fillText(text, x, y);
    };
    write(map.data.unit ? `${map.data.title}, ${map.data.unit}` : map.data.title, ROOM.edge, 22, "left", font(15, 600));
    map.rows.forEach((row, index) => {
      const y = ROOM.head + index * map.layout.pitch + (map.layout.pitch - GAP) / 2 + 4;
      write(row.name, left - 10, y, "right");
      if (notes) write(row.note || "", width - ROOM.edge, y, "right");
    });
    pen.save();
    pen.translate(left, ROOM.head);
    drawStrips(map, pen, coloursOf(map), 1);
    pen.restore();
    pictureLegend(map, pen, left, ROOM.head + map.layout.height + 22, write);
  });
}

function pictureLegend(map, pen, left, y, write) {
  const [low, high] = map.shared ? map.span.map((value) => formatScore(value)) : ["lowest in its group", "highest in its group"];
  write(low, left, y);
  const from = left + pen.measureText(low).width + 8;
  for (let step = 0; step < 64; step += 1) {
    pen.fillStyle = `rgb(${TABLE[Math.round((step * 254) / 63)].join(",")})`;
    pen.fillRect(from + (step * ROOM.ramp) / 64, y - 9, ROOM.ramp / 64 + 0.5, 9);
  }
  const gone = map.rows.some((row) => row.gone.size) ? ". Faded and hatched: pruned in this plan" : "";
  write(`${high}${gone}`, from + ROOM.ramp + 8, y);
}
