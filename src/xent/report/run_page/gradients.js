// Gradient flow: a layer is a row of the heat-map and one of the curves below it.
const MEASURES = {
  gradient_norm: ["gradient norm", true, "Norm of each layer's gradient, before the step."],
  update_ratio: ["update ÷ weight", true, "How far a step moves a layer, beside how large it is: ‖update‖ ÷ ‖weight‖."],
  update_norm: ["update norm", true, "Norm of what the step added to each layer."],
  weight_norm: ["weight norm", true, "Norm of each layer's parameters."],
  dead_fraction: ["dead units", false, "Share of a layer's units whose weights and bias all got a gradient of exactly 0."],
};

function showGradients() {
  const { layers } = run();
  if (!layers || !Object.keys(layers.cells).length) return [empty("No layers have been recorded.", "Watch a model, xent.watch(model, optimizer), and every sampled step writes the norms of its layers.")];
  if (!(state.measure in layers.cells)) state.measure = Object.keys(layers.cells)[0];
  const [title, log, lead] = MEASURES[state.measure];
  const buttons = Object.keys(MEASURES).filter((name) => name in layers.cells).map((name) => make("button", {
    type: "button", "aria-pressed": String(state.measure === name), "data-key": `measure-${name}`, onclick: () => { state.measure = name; show(); },
  }, MEASURES[name][0]));
  if (!layers.names.includes(state.layer)) state.layer = layers.names.at(-1);
  const format = log ? short : (value) => percent(value);
  const cells = layers.columns.flatMap(([from], column) => layers.names.map((name, row) => {
    const value = layers.cells[state.measure][row][column];
    return { from, to: layers.columns[column + 1]?.[0] ?? layers.columns[column][1] + Math.max(1, Math.round((layers.columns[column][1] - layers.columns[0][0]) / layers.columns.length)),
      name, value: log ? (value > 0 ? Math.log10(value) : null) : value, words: value === null ? "not finite, or not recorded" : format(value) };
  }));
  const select = make("select", { id: "layer", onchange: (event) => { state.layer = event.target.value; show(); } },
    ...layers.names.map((name) => make("option", { value: name, selected: name === state.layer }, name)));
  const notes = [layers.of > layers.names.length ? `${layers.names.length} of ${whole(layers.of)} layers, evenly over the depth.` : "",
    layers.records > layers.columns.length ? `A column is the median of up to ${Math.ceil(layers.records / layers.columns.length)} recorded steps.` : ""].filter(Boolean).join(" ");
  return [
    make("div", { class: "head" }, make("span", { class: "buttons", role: "group", "aria-label": "measure" }, ...buttons)),
    heatSection(title, "layer-heat", `${title} of each layer by step`, layers.names, cells, (value) => (log ? short(10 ** value) : percent(value)), "", `${lead} ${notes}`),
    make("section", {},
      make("div", { class: "head" }, make("h3", {}, "The same as curves"), make("label", {}, "layer ", select)),
      curvesChart("layer-lines", `${title} by step, a curve for each layer`, 260, () => ({ ...layerCurves(layers, log), format }))),
    several() ? make("p", { class: "note" }, `These are the layers of ${run().name}; choose another run above.`) : null,
  ];
}

function layerCurves(layers, log) {
  const curves = layers.names.map((name, row) => ({
    series: name, kind: name === state.layer ? "evaluation" : "train", own: name === state.layer, text: ending(name), said: name, dots: false,
    points: layers.columns.map(([from, to], column) => ({ step: Math.round((from + to) / 2), first: from, last: to, value: layers.cells[state.measure][row][column], low: null, high: null })),
  })).filter((curve) => curve.points.some((point) => point.value !== null));
  const usable = log && curves.some((curve) => curve.points.some((point) => point.value > 0));
  // Of many layers only the first, the chosen and the last have a name: the names would hide each other.
  const many = curves.length > 8;
  return {
    curves: curves.map((curve, place) => {
      const passed = many && !curve.own && place !== 0 && place !== curves.length - 1;
      return { ...curve, unnamed: passed, silent: passed };
    }),
    log: usable, fromZero: !usable, axis: log ? "~g" : ".0%",
  };
}

// Names of one model begin alike; what tells them apart is their end.
const ending = (name) => ([...name].length > 22 && name.includes(".") ? `…${[...name].slice(-21).join("")}` : name);

// A heat-map with its scale in words, and a line that reads the cell under the pointer.
function heatSection(title, id, label, names, cells, format, unit, lead = "") {
  const values = cells.map((cell) => cell.value).filter((value) => value !== null);
  let [low, high] = values.length ? [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))] : [0, 1];
  if (low === high) high = low + 1;
  const readout = make("p", { class: "readout", role: "status" }, make("span", {}, "point at a cell to read it"));
  const [x0, x1] = [cells[0].from, cells.reduce((end, cell) => Math.max(end, cell.to), 0)];
  const box = chart("heat", label, Math.max(60, names.length * (names.length > 24 ? 12 : 20) + 34), () => ({
    datasets: { cells }, params: { x0, x1, x_ticks: stepTicks(x0, cells.reduce((last, cell) => Math.max(last, cell.from), x0)), c0: low, c1: high },
  }));
  box.id = `chart-${id}`;
  drawnCharts.get(box).cursor = (view) => view.addEventListener("pointermove", (event, item) => {
    if (!item?.datum?.words) return;
    readout.replaceChildren(make("span", {}, `step ${whole(item.datum.from)}`), make("span", {}, named(item.datum.name)), make("span", { class: "own" }, item.datum.words));
  });
  return section(title, lead, make("figure", {}, box,
    make("p", { class: "scale" }, make("span", {}, `${format(low)}`), make("i", { class: "ramp" }), make("span", {}, `${format(high)} ${unit}`)), readout));
}
