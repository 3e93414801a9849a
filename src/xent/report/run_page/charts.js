// Charts: a spec of Altair, the page's data, the colours of the style sheet. Vega runs without eval (`ast`).
const drawnCharts = new Map();  // element → {name, fill, options}, to draw it again in another width or theme

// vega-embed empties its element by innerHTML = "", and by nothing else that we let it do: no other text is trusted.
if (window.trustedTypes) {
  trustedTypes.createPolicy("default", {
    createHTML: (text) => { if (text === "") return ""; throw new TypeError("this page makes no HTML of text"); },
  });
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const found = {};
  for (const name of ["paper", "ink", "dim", "line", "soft", "bar", "pale", "own", "own-soft",
    "part0", "part1", "part2", "part3", "part4", "part5"]) found[`$${name}`] = style.getPropertyValue(`--${name}`).trim();
  return found;
}

function inColours(value, palette) {
  if (typeof value === "string") return palette[value] ?? value;
  if (Array.isArray(value)) return value.map((entry) => inColours(entry, palette));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, inColours(entry, palette)]));
}

function config(palette) {
  const font = getComputedStyle(byId("tabs")).fontFamily;
  const axis = { labelColor: palette.$dim, domainColor: palette.$line, tickColor: palette.$line, gridColor: palette.$line,
    gridOpacity: 0.6, labelFontSize: 12, labelPadding: 6, tickSize: 4 };
  return { background: null, font, view: { stroke: null }, axis };
}

// A place for a chart. `fill()` gives {datasets, params, right}; it is asked again at every drawing.
function chart(name, label, height, fill) {
  const box = make("div", { class: "chart", role: "img", "aria-label": label });
  drawnCharts.set(box, { name, height, fill });
  return box;
}

async function draw(box) {
  const { name, height, fill } = drawnCharts.get(box);
  const { datasets, params = {}, left = 0, right = 0, spec: chosenSpec = name } = fill();
  const palette = colours();
  const spec = inColours(specs[chosenSpec], palette);
  spec.width = Math.max(box.clientWidth, 200);
  spec.height = height;
  spec.autosize = { type: "fit", contains: "padding" };
  spec.padding = { left, right, top: 8, bottom: 4 };
  spec.config = config(palette);
  spec.datasets = { ...spec.datasets, ...datasets };
  spec.params = (spec.params ?? []).map((param) => (param.name in params ? { ...param, value: params[param.name] } : param));
  const place = make("div", {});
  const made = await vegaEmbed(place, spec, {
    ast: true, actions: false, defaultStyle: false, tooltip: false, renderer: "svg", logLevel: 1, mode: "vega-lite",
  });
  const before = drawnCharts.get(box);
  if (!before) { made.finalize(); return; }  // the reader has gone on
  before.made?.finalize();
  before.made = made;
  before.cursor?.(made.view);
  box.querySelector(".drawing")?.remove();
  place.className = "drawing";
  for (const svg of place.querySelectorAll("svg")) svg.setAttribute("aria-hidden", "true");
  box.prepend(place);
}

// What waits to be drawn: one chart after the other, so that the first stands early.
async function drawAll() {
  for (const box of [...drawnCharts.keys()]) {
    if (box.isConnected) await draw(box);
  }
}

function forgetCharts() {
  for (const { made } of drawnCharts.values()) made?.finalize();
  drawnCharts.clear();
}
