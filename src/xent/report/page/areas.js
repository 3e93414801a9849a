// All rows as bars: height is what a row costs, width is its weight, so that the area is what it adds to the value.

const HEIGHT = 240;
const MARGIN = { top: 16, bottom: 34, left: 44, right: 4 };

function bars(all) {
  const own = term().rows.map((one, number) => ({
    number, width: one.width, adds: all.adds[number], first: start().adds[number], words: rowWords(one), label: one.position,
  }));
  const others = term().others.groups.map((group, number) => ({
    number: -1, width: group.width, adds: all.groups[number], first: start().groups[number], words: "other rows", label: "",
  }));
  const found = [...own, ...others].filter((bar) => bar.width > 0);
  return found.sort((one, other) => heightOf(other.first, other) - heightOf(one.first, one));
}

function heightOf(adds, bar) {
  return Number.isNaN(adds) ? Infinity : adds / bar.width;
}

function drawAreas(all) {
  const figure = byId("areas");
  const drawn = bars(all);
  const width = sum(drawn.map((bar) => bar.width));
  const level = all.total / width;
  const scale = scaleOf(drawn, level, width, figure.clientWidth || 600);
  const shapes = drawn.length ? [...axis(scale, level), ...rectangles(drawn, scale), ...levelLine(level, scale)] : [];
  figure.setAttribute("viewBox", `0 0 ${scale.total} ${HEIGHT}`);
  figure.replaceChildren(...shapes);
  byId("areas-words").textContent = areaWords(all, level, width);
}

function scaleOf(drawn, level, width, total) {
  const finite = drawn.flatMap((bar) => [bar.adds, bar.first].map((adds) => heightOf(adds, bar))).filter(Number.isFinite);
  const most = Math.max(0, ...finite, term().guessing ?? 0, Number.isFinite(level) ? level : 0) * 1.05 || 1;
  const least = Math.min(0, ...finite);
  const room = HEIGHT - MARGIN.top - MARGIN.bottom;
  return {
    total, most, least,
    x: (at) => MARGIN.left + (at / width) * (total - MARGIN.left - MARGIN.right),
    y: (nats) => MARGIN.top + ((most - Math.min(nats, most)) / (most - least)) * room,
  };
}

function rectangles(drawn, scale) {
  let at = 0;
  const labelled = drawn.every((bar) => scale.x(bar.width) - scale.x(0) > 9 * bar.label.length + 2);
  return drawn.flatMap((bar) => {
    const [left, right] = [scale.x(at), scale.x(at + bar.width)];
    at += bar.width;
    const gap = right - left > 4 ? 1 : 0;
    const ends = [scale.y(heightOf(bar.adds, bar)), scale.y(0)].sort((one, other) => one - other);
    const chosen = bar.number === state.row;
    const kind = chosen ? "chosen" : bar.number < 0 ? "other" : "row";
    const box = { x: left, y: ends[0], width: Math.max(right - left - gap, 0.2), height: Math.max(ends[1] - ends[0], 0.5) };
    const shape = svg("rect", { ...box, class: kind });
    shape.append(svg("title", {}, `${bar.words}: adds ${fmt(bar.adds)}`));
    if (bar.number >= 0) shape.addEventListener("click", () => chooseRow(bar.number));
    return [shape, ...(labelled || chosen ? underneath(bar, (left + right) / 2, chosen, labelled) : [])];
  });
}

function underneath(bar, middle, chosen, labelled) {
  const base = HEIGHT - MARGIN.bottom;
  const label = svg("text", { x: Math.max(middle, 40), y: HEIGHT - (labelled ? 16 : 6), class: chosen ? "label chosen" : "label" }, bar.label);
  return labelled ? [label] : [svg("path", { d: `M${middle} ${base + 3}l-5 8h10z`, class: "chosen" }), label];
}

function axis(scale, level) {
  const line = (nats, kind) => svg("line", { x1: MARGIN.left, x2: scale.total, y1: scale.y(nats), y2: scale.y(nats), class: kind });
  const words = (nats, text) => svg("text", { x: MARGIN.left - 6, y: scale.y(nats) + 4, class: "tick" }, text);
  const found = [line(0, "axis"), ...(scale.y(0) - scale.y(level) < 14 ? [] : [words(0, "0")])];
  if (term().guessing === null) return found;
  const at = scale.y(term().guessing);
  const gap = at - scale.y(level); // of the lines, in pixels: their words keep out of each other's way
  const label = svg("text", { x: scale.total - 4, y: gap > 0 && gap < 20 ? at + 14 : at - 5, class: "end" }, `guessing: ln ${term().numClasses.toLocaleString("en")}`);
  const tick = Math.abs(gap) < 14 ? [] : [words(term().guessing, fmt(term().guessing, 2))];
  return [...found, line(term().guessing, "guessing"), ...tick, label];
}

function levelLine(level, scale) {
  if (!Number.isFinite(level)) return [];
  const y = scale.y(level);
  const label = svg("text", { x: MARGIN.left - 6, y: y + 4, class: "tick level" }, fmt(level, Math.abs(level) < 0.1 ? 4 : 2));
  return [svg("line", { x1: MARGIN.left, x2: scale.total, y1: y, y2: y, class: "level" }), label];
}

function areaWords(all, level, width) {
  if (!width) return "No row has a weight, so that there is no area.";
  const others = term().others.count;
  const held = term().others.moves ? "they follow the temperature" : "they stay as they are, at T = 1";
  const off = others ? ` The ${others.toLocaleString("en")} paler rows are not on this page to be moved: ${held}.` : "";
  const area = page.perRow ? "the sum of all rows" : page.several ? "what this loss adds" : "the loss";
  const one = Math.abs(width - 1) < 1e-9 ? "" : ` over a width of ${fmt(width)}`;
  return `The bars together have the area ${fmt(all.total)}: ${area}. The line at ${fmt(level)}${one} bounds the same area.${off}`;
}
