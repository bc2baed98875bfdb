// All bars as a picture to take away, in sight or not.

const SHEET = { left: 58, head: 62, bar: 220, column: 46, edge: 16, count: 34, foot: 40, gap: 10 };

function takePicture(desk) {
  const { view, model } = desk;
  const style = getComputedStyle(view.root);
  const colours = { ink: style.color, paper: getComputedStyle(view.probe).color, family: style.fontFamily };
  colours.soft = `color-mix(in srgb, ${colours.ink} 72%, ${colours.paper})`;
  colours.slot = `color-mix(in srgb, ${colours.ink} 8%, ${colours.paper})`;
  colours.idle = `color-mix(in srgb, ${colours.ink} 24%, ${colours.paper})`;
  const font = (size, weight = 400) => `${weight} ${size}px ${colours.family}`;
  const ruler = view.overview.canvas.getContext("2d");
  ruler.font = font(12);
  const names = Math.ceil(Math.max(40, ...model.rows.map((row) => ruler.measureText(row.name).width))) + 12;
  const width = Math.max(480, SHEET.left + model.rows.length * SHEET.column + (model.stages.length - 1) * SHEET.gap + SHEET.edge);
  const height = SHEET.head + SHEET.bar + SHEET.count + names + SHEET.foot;
  savePicture({ ...model.picture, name: "equaliser" }, width, height, colours.paper, (pen) => {
    const write = (text, x, y, align = "left", colour = colours.ink, face = font(12)) => {
      Object.assign(pen, { font: face, textAlign: align, fillStyle: colour });
      pen.fillText(text, x, y);
    };
    write(`Kept channels: ${Math.round(100 * shareOf(model.rows, model.values))} % of all`, SHEET.edge, 22, "left", colours.ink, font(15, 600));
    for (const share of [0, 25, 50, 75, 100]) {
      const y = SHEET.head + SHEET.bar * (1 - share / 100);
      write(`${share} %`, SHEET.left - 12, y + 4, "right", colours.soft);
      pen.fillStyle = colours.slot;
      pen.fillRect(SHEET.left - 6, y - 0.5, width - SHEET.left - SHEET.edge + 6, 1);
    }
    let x = SHEET.left;
    for (const stage of model.stages) {
      if (stage.name) write(stage.name, x + 2, SHEET.head - 12, "left", colours.soft, font(11.5));
      for (const row of stage.rows) {
        pictureBar(model, row, pen, x, colours, view.theme, write, font);
        x += SHEET.column;
      }
      x += SHEET.gap;
    }
    pictureScale(pen, height - 16, view.theme, write, model);
  });
}

function pictureBar(model, row, pen, x, colours, theme, write, font) {
  const kept = model.values.get(row.id);
  const share = kept / row.units;
  const loss = lossAt(model.curves.get(row.id), 1 - share);
  const locked = model.locked.has(row.id);
  const middle = x + SHEET.column / 2;
  pen.fillStyle = colours.slot;
  pen.fillRect(middle - 13, SHEET.head, 26, SHEET.bar);
  pen.fillStyle = loss ? heatColour(heat(100 * loss.drop), theme) : colours.idle;
  pen.fillRect(middle - 13, SHEET.head + SHEET.bar * (1 - share), 26, SHEET.bar * share);
  pen.fillStyle = colours.ink;
  if (!locked) pen.fillRect(middle - 17, SHEET.head + SHEET.bar * (1 - share) - 1.5, 34, 3);
  const below = SHEET.head + SHEET.bar;
  write(String(kept), middle, below + 15, "center", colours.ink, font(12, 600));
  write(locked ? "locked" : `of ${row.units}`, middle, below + 28, "center", colours.soft, font(10.5));
  pen.save();
  pen.translate(middle + 4, below + SHEET.count + 4);
  pen.rotate(Math.PI / 2);
  write(row.name, 0, 4, "left", colours.ink);
  pen.restore();
}

function pictureScale(pen, y, theme, write, model) {
  if (!model.rows.some((row) => model.curves.get(row.id))) return;
  write("Points of accuracy lost as cut, each group alone: 0", SHEET.edge, y);
  const from = SHEET.edge + pen.measureText("Points of accuracy lost as cut, each group alone: 0").width + 8;
  for (let step = 0; step < 48; step += 1) {
    pen.fillStyle = heatColour(step / 47, theme);
    pen.fillRect(from + step * 3, y - 9, 3.5, 9);
  }
  write(`${HOTTEST_POINTS}+`, from + 152, y);
}
