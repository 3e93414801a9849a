// Numbers as text, and elements whose text is only ever text.

function fmt(value, decimals = 4) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  const tiny = size !== 0 && (size < 10 ** (1 - decimals) || size >= 1e7);
  const text = tiny ? size.toExponential(Math.max(decimals - 2, 1)) : size.toFixed(decimals);
  return (value < 0 ? "−" : "") + text.replace("e-", "e−").replace("e+", "e");
}

function parsed(text) {
  const plain = text.trim().replace("−", "-").replace("∞", "Infinity").replace(",", ".");
  return plain === "" ? NaN : Number(plain);
}

function percent(value) {
  return `${(100 * value).toFixed(1)} %`;
}

function el(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

function svg(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text) element.textContent = text;
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

// A number for the reader, and beside it the whole of it.
function show(output, value, text = fmt(value)) {
  output.textContent = text;
  output.dataset.value = String(value);
}

function fillSelect(select, entries) {
  select.replaceChildren(
    ...entries.map(([value, text]) => {
      const option = el("option", "", text);
      option.value = value;
      return option;
    }),
  );
}

function rowWords(row) {
  const name = row.name ? ` · ${row.name}` : "";
  return `${row.position} · ${row.counted ? row.target : "ignored"}${name}`;
}
