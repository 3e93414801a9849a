// Pickers, buttons, and the order in which things are drawn.

function changed() {
  const all = now();
  const T = page.temperatures[state.step];
  byId("temperature").value = String(state.step);
  byId("temperature").setAttribute("aria-valuetext", fmt(T, 3));
  show(byId("temperature-words"), T, fmt(T, 3));
  byId("reset").disabled = !isMoved();
  drawClasses(all);
  drawAreas(all);
  drawOverflow(all);
}

function chooseTerm(number) {
  state.term = number;
  resetAll();
  const fixed = term().why !== null || !term().rows.length;
  byId("moving").hidden = fixed;
  byId("fixed").hidden = !fixed;
  byId("fixed").textContent = fixed ? `No sliders here: ${term().why ?? "there are no rows"}. The receipt below has its numbers.` : "";
  if (fixed) return;
  const words = { worst: "worst first", first: "as they come", best: "best first", random: "some at random" };
  fillSelect(byId("order"), Object.keys(words).filter((order) => term().orders[order]).map((order) => [order, words[order]]));
  byId("order").value = "worst";
  chooseOrder();
}

function chooseOrder() {
  const places = term().orders[byId("order").value];
  fillSelect(byId("row"), places.map((place) => [String(place), rowWords(term().rows[place])]));
  chooseRow(places[0]);
}

function chooseRow(number) {
  const places = term().orders[byId("order").value];
  if (!places.includes(number)) {
    byId("order").value = Object.keys(term().orders).find((order) => term().orders[order].includes(number));
    fillSelect(byId("row"), term().orders[byId("order").value].map((place) => [String(place), rowWords(term().rows[place])]));
  }
  state.row = number;
  byId("row").value = String(number);
  byId("context").textContent = row().name ?? "";
  byId("context-target").textContent = row().counted ? row().target : "ignored";
  byId("text").hidden = !row().name;
  byId("unknown").hidden = row().known;
  describe();
  drawImage();
  buildClasses();
  hideAgain();
  changed();
}

function stepRow(by) {
  const places = term().orders[byId("order").value];
  const at = places.indexOf(state.row);
  chooseRow(places[(at + by + places.length) % places.length]);
}

function drawImage() {
  const canvas = byId("image");
  canvas.hidden = !row().image;
  if (!row().image) return;
  const { side, hex } = row().image;
  canvas.width = canvas.height = side;
  canvas.setAttribute("aria-label", `the image of row ${row().position}`);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(side, side);
  for (let at = 0; at < side * side; at += 1) pixels.data[4 * at + 3] = parseInt(hex.slice(2 * at, 2 * at + 2), 16);
  const [red, green, blue] = getComputedStyle(canvas).color.match(/\d+/g).map(Number);
  for (let at = 0; at < side * side; at += 1) pixels.data.set([red, green, blue], 4 * at);
  context.putImageData(pixels, 0, 0);
}

function describe() {
  const one = term();
  byId("cost-part").hidden = one.plain;
  const rounded = Math.abs(start().total - one.value) > 1e-4 * Math.abs(one.value);
  byId("rounded").hidden = !rounded;
  byId("rounded").textContent = rounded ? `Rows are computed here in float64 and make ${fmt(start().total)}; as the loss's dtype rounded them they made ${fmt(one.value)}.` : "";
  byId("held").hidden = !page.several;
  byId("gradient-head").textContent = one.plain && one.scale === 1 && one.softcap === null ? "p − y" : "∂ row/∂ logit";
  byId("share-head").textContent = page.perRow || !row().upstream ? "" : one.reduction === "mean" && one.plain ? `÷ ${(1 / row().upstream).toLocaleString("en", { maximumFractionDigits: 4 })}` : "∂ loss/∂ logit";
  byId("factored").hidden = !one.factored;
  byId("some").hidden = !one.others.count;
  byId("some").textContent = `${one.rows.length} of ${one.numRows.toLocaleString("en")} rows can be moved here: the worst, the first, the best and some at random.`;
}

function bindTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const words = () => (byId("theme").textContent = isDark() ? "light" : "dark");
  const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    repaint();
  });
  const repaint = () => {
    words();
    if (!byId("moving").hidden && page.terms.length) drawImage();
  };
  dark.addEventListener("change", repaint);
  words();
}

function bind() {
  byId("order").addEventListener("change", chooseOrder);
  byId("row").addEventListener("change", () => chooseRow(Number(byId("row").value)));
  byId("previous").addEventListener("click", () => stepRow(-1));
  byId("next").addEventListener("click", () => stepRow(1));
  byId("term").addEventListener("change", () => chooseTerm(Number(byId("term").value)));
  byId("temperature").addEventListener("input", () => {
    state.step = Number(byId("temperature").value);
    changed();
  });
  byId("reset").addEventListener("click", () => {
    resetAll();
    changed();
    byId("row").focus();
  });
  for (const id of ["shift", "subtract"]) byId(id).addEventListener("input", changed);
  addEventListener("resize", () => byId("moving").hidden || drawAreas(now()));
  bindGuess();
}

function begin() {
  bindTheme();
  if (!page.terms.length) return;
  byId("play").hidden = false;
  byId("temperature").max = String(page.temperatures.length - 1);
  fillSelect(byId("term"), page.terms.map((one, number) => [String(number), `${number + 1}: ${one.heading}`]));
  byId("terms").hidden = page.terms.length < 2;
  bind();
  chooseTerm(0);
}

begin();
