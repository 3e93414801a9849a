// Numbers as a reader takes them in, and elements that are made of text only.
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, at] of Object.entries(value)) element.style.setProperty(key, at);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// JSON has no NaN and no infinity; they come as {number: "NaN"}.
const real = (value) => (value !== null && typeof value === "object" ? Number(value.number) : value);
const finite = (value) => Number.isFinite(real(value));

function fixed(value, decimals = 4) {
  value = real(value);
  if (value === null || value === undefined) return "–";
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 10 ** (1 - decimals) || size >= 1e7) ? power(size) : size.toFixed(decimals);
  return (value < 0 ? "−" : "") + text;
}

function power(size) {
  const [digits, exponent] = size.toExponential(2).split("e");
  return `${digits}e${exponent.replace("-", "−").replace("+", "")}`;
}

// Of numbers; undefined of none. What single steps of a busy machine take says little.
function median(values) {
  const sorted = values.map(real).sort((a, b) => a - b), half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : sorted.length ? (sorted[half - 1] + sorted[half]) / 2 : undefined;
}

const whole = (value) => (finite(value) ? Math.round(real(value)).toLocaleString("en") : "–");
const percent = (value, decimals = 1) => (finite(value) ? `${(100 * real(value)).toFixed(decimals)} %` : "–");
const short = (value) => (finite(value) ? (value === 0 ? "0" : Number(real(value).toPrecision(3)).toLocaleString("en", { maximumFractionDigits: 8 })) : "–");

function seconds(value) {
  if (!finite(value)) return "–";
  if (value < 1e-3) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toPrecision(3)} ms`;
  if (value < 120) return `${value.toPrecision(3)} s`;
  const minutes = Math.round(value / 60);
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const plural = (count, word) => `${whole(count)} ${word}${count === 1 ? "" : "s"}`;
const named = (text) => make("bdi", {}, text);

// A table: columns are [header, class]; rows hold texts or elements; the first cell of a row is its header.
function table(columns, rows, options = {}) {
  const head = make("thead", {}, make("tr", {}, ...columns.map(([text, kind]) => make("th", { scope: "col", class: kind }, text))));
  const body = make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell, place) =>
    place ? make("td", { class: columns[place][1] }, cell) : make("th", { scope: "row", class: columns[0][1] }, cell)))));
  const made = make("table", { class: options.class }, options.caption ? make("caption", {}, options.caption) : null, head, body);
  return make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": options.label ?? "table" }, made);
}

const empty = (what, how) => make("div", { class: "empty" }, make("p", {}, what), make("p", { class: "note" }, how));

function section(title, lead, ...children) {
  return make("section", {}, make("h2", {}, title), lead ? make("p", { class: "caption lead" }, lead) : null, ...children);
}
