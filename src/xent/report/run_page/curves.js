// Curves by step with names at their ends, and a cursor that reads them, by pointer or by arrow keys.

// A curve: {series, kind: train|evaluation, own, text, points: [{step, value, low, high, first, last}]}
function pointsOf(buckets) {
  return buckets.map(([first, last, mean, low, high]) => ({
    first, last, step: Math.round((first + last) / 2), value: real(mean), low: low === undefined ? null : low, high: high === undefined ? null : high,
  }));
}

function extent(curves, levels, log) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of [...curves.flatMap((curve) => curve.points.flatMap((point) => [point.value, point.low, point.high])), ...levels.map((level) => level.value)]) {
    if (value !== null && Number.isFinite(value) && (!log || value > 0)) { low = Math.min(low, value); high = Math.max(high, value); }
  }
  return low > high ? [log ? 0.1 : 0, 1] : [low, high];
}

// Names must not lie on each other: pushed apart in pixels, in their order.
function apart(names, [low, high], height, log) {
  const to = log ? Math.log : (value) => value;
  const span = to(high) - to(low) || 1;
  const placed = names.map((name) => ({ ...name, y: height * (to(high) - to(Math.min(Math.max(name.value, low), high))) / span }));
  placed.sort((one, other) => one.y - other.y);
  const gap = 15;
  placed.forEach((name, place) => { if (place) name.y = Math.max(name.y, placed[place - 1].y + gap); });
  for (let place = placed.length - 1; place >= 0; place--) {
    const limit = place === placed.length - 1 ? height : placed[place + 1].y - gap;
    placed[place].y = Math.min(placed[place].y, limit);
  }
  const from = log ? Math.exp : (value) => value;
  return placed.map((name) => ({ ...name, value: from(to(high) - (name.y / height) * span) }));
}

function curvesChart(id, label, height, give) {
  const readout = make("p", { class: "readout", role: "status" });
  const box = chart("lines", label, height, () => filled(give(), height));
  const rule = make("i", { class: "cursor", hidden: true });
  box.append(rule);
  box.id = `chart-${id}`;
  box.tabIndex = 0;
  let at = null;
  let view = null;
  drawnCharts.get(box).cursor = (made) => { view = made; if (at !== null) move(at); };
  function steps() {
    return [...new Set(give().curves.flatMap((curve) => curve.points.map((point) => point.step)))].sort((a, b) => a - b);
  }
  function move(step) {
    at = step;
    const { curves, format } = give();
    const some = nearest(curves.flatMap((curve) => curve.points), step);
    const said = curves.filter((curve) => curve.points.length && !curve.silent).map((curve) => {
      const point = nearest(curve.points, step);
      const own = make("span", { class: curve.own ? "own" : null }, named(curve.said ?? curve.text), ` ${format(point.value, point)}`);
      if (!together(point, some)) own.append(` (${stepsOf(point)})`);
      return own;
    });
    readout.replaceChildren(make("span", {}, stepsOf(some)), ...said);
    if (!view) return;
    rule.hidden = false;
    rule.style.setProperty("--x", `${view.origin()[0] + view.scale("x")(some.step)}px`);
  }
  box.addEventListener("pointermove", (event) => {
    if (view) move(view.scale("x").invert(event.clientX - box.getBoundingClientRect().left - view.origin()[0]));
  });
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: 10, PageDown: -10, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const all = steps();
    const here = at === null ? all.length - 1 : all.indexOf(nearest(all.map((step) => ({ step })), at).step);
    move(all[Math.max(0, Math.min(all.length - 1, here + by))]);
  });
  box.setAttribute("aria-description", "left and right arrow keys read it step by step");
  move(give().curves.flatMap((curve) => curve.points).reduce((last, point) => Math.max(last, point.step), 0));
  at = null;
  return make("figure", {}, box, readout);
}

const endsOf = ({ step, first = step, last = step }) => [first, last];

function stepsOf(point) {
  const [first, last] = endsOf(point);
  return first === last ? `step ${whole(first)}` : `steps ${whole(first)}–${whole(last)}`;
}

// Whether two points are of the same step; of two buckets, whether they share one.
function together(point, other) {
  const [[first, last], [from, to]] = [endsOf(point), endsOf(other)];
  if (first === last || from === to) return first === from && last === to;
  return first <= to && from <= last;
}

function nearest(points, step) {
  return points.reduce((best, point) => (Math.abs(point.step - step) < Math.abs(best.step - step) ? point : best));
}

// Datasets and ends of the axes for the spec "lines".
function filled({ curves, levels = [], log = false, fromZero = false, top = null, axis = "~g" }, height) {
  const lines = [], points = [];
  for (const { series, kind, own, points: all, dots } of curves) {
    for (const point of all) {
      const usable = point.value !== null && Number.isFinite(point.value) && (!log || point.value > 0);
      const row = { series, kind, role: own ? "own" : "other", ...point, value: usable ? point.value : null };
      if (!(point.low !== null && point.high !== null && (!log || point.low > 0))) row.low = row.high = null;
      lines.push(row);
      if (usable && (all.length === 1 || (dots ?? (kind === "evaluation" && all.length <= 40)))) points.push(row);
    }
  }
  for (const rows of [lines, points]) rows.sort((one, other) => (one.role === other.role ? 0 : one.role === "own" ? 1 : -1));
  let [low, high] = extent(curves, levels, log);
  if (fromZero && !log) low = Math.min(0, low);
  if (top !== null) high = Math.max(high, top);
  if (low === high) { high += Math.abs(high) || 1; }
  if (log) { low /= 1.25; high *= 1.15; } else if (!fromZero) { const pad = 0.05 * (high - low); low -= pad; high += pad; } else high += 0.03 * (high - low);
  const steps = curves.flatMap((curve) => curve.points.map((point) => point.step));
  const ends = { x0: steps.reduce((a, b) => Math.min(a, b), Infinity), x1: steps.reduce((a, b) => Math.max(a, b), 0) };
  if (ends.x0 === ends.x1) { ends.x0 -= 0.5; ends.x1 += 0.5; }
  const used = levels.filter((level) => !log || level.value > 0);
  const names = apart([
    ...used.map((level) => ({ text: level.text, value: level.value, role: "level" })),
    ...curves.filter((curve) => !curve.unnamed && curve.points.some((point) => Number.isFinite(point.value) && (!log || point.value > 0))).map((curve) => ({
      text: curve.text, role: curve.own ? "own" : "other",
      value: curve.points.findLast((point) => Number.isFinite(point.value) && point.value !== null && (!log || point.value > 0)).value,
    })),
  ], [low, high], height - 40, log).map((name) => ({ ...name, step: ends.x1, text: cut(name.text, 22) }));
  return {
    datasets: { lines, points, levels: used, names },
    params: { ...ends, x_ticks: stepTicks(ends.x0, ends.x1), y0: low, y1: high, y_format: axis, y_ticks: log ? logTicks(low, high) : [] }, spec: log ? "lines_log" : "lines",
  };
}

// At most seven, each a whole step: left to itself Vega puts one at 1.5 where there are steps 1 and 2.
function stepTicks(from, to) {
  const least = Math.max(1, (to - from) / 6), decade = 10 ** Math.floor(Math.log10(least));
  const every = decade * [1, 2, 5, 10].find((factor) => factor * decade >= least);
  const first = Math.ceil(from / every);
  return Array.from({ length: Math.max(0, Math.floor(to / every) - first + 1) }, (_, place) => (first + place) * every);
}

// 1, 2, 5 of every decade; of many decades only their beginnings.
function logTicks(low, high) {
  const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high));
  const every = Math.ceil((to - from) / 8);
  const factors = to - from <= 3 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let decade = from; decade <= to; decade += every) for (const factor of factors) ticks.push(factor * 10 ** decade);
  return ticks.filter((tick) => tick >= low && tick <= high);
}

const cut = (text, most) => ([...text].length > most ? `${[...text].slice(0, most - 1).join("")}…` : text);
