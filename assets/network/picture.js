// The whole network as a picture to take away, however much of it is in sight, with title and legend.

const FRAME = { head: 36, foot: 34, edge: 14, entry: 26 };

function takePicture(map) {
  const { layout } = map;
  const before = { view: map.view, width: map.width, height: map.height, hover: map.hover };
  const colours = coloursOf(map.root);
  const width = Math.max(layout.width, 640);
  // Readable also where the view shows it small.
  Object.assign(map, { colours, view: { zoom: 1, dx: 0, dy: 0 }, width, height: layout.height, hover: null });
  try {
    savePicture({ ...map.save, name: map.title }, width, FRAME.head + layout.height + FRAME.foot, colours.paper, (pen) => {
      Object.assign(pen, { font: fontOf(colours, 15, 600), textAlign: "left", fillStyle: colours.ink });
      pen.fillText(map.title, FRAME.edge, 24);
      pen.save();
      pen.translate(0, FRAME.head);
      paintScene(map, pen, 1);
      pen.restore();
      pictureLegend(map, pen, colours, FRAME.head + layout.height + 8);
    });
  } finally {
    Object.assign(map, before);
  }
}

function pictureLegend(map, pen, colours, y) {
  let x = FRAME.edge;
  for (const [, text, paint] of legendEntries(map, colours)) {
    pen.save();
    pen.translate(x, y);
    pen.globalAlpha = 1;
    paint(pen);
    pen.restore();
    Object.assign(pen, { font: fontOf(colours, 12), textAlign: "left", fillStyle: colours.soft, globalAlpha: 1 });
    pen.fillText(text, x + FRAME.entry, y + 11);
    x += FRAME.entry + pen.measureText(text).width + 18;
  }
}
