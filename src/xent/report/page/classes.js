// The chosen row: a line for each class with its logit to drag, its p, and how hard the row pushes the logit.

let lines = [];

function buildClasses() {
  const { low, high } = range();
  lines = row().x.map((_, place) => classLine(place, low, high));
  if (row().rest) lines.push(restLine());
  byId("classes").replaceChildren(...lines.map((line) => line.element));
}

// Room around the logits of the row; torch's binary_cross_entropy rounds p to 0 or 1 not far beyond ±25.
function range() {
  const finite = row().x.filter(Number.isFinite);
  const [least, most] = finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 0];
  const [low, high] = [Math.floor(Math.min(least - 3, -6)), Math.ceil(Math.max(most + 3, 6))];
  return term().clamp === null ? { low, high } : { low: Math.max(low, -25), high: Math.min(high, 25) };
}

function classLine(place, low, high) {
  const own = place === row().own;
  const line = emptyLine(nameOf(place), own ? (term().hard ? "target" : "most likely target") : "");
  line.element.classList.toggle("own", own);
  const fixed = term().binary && place === 0;
  if (fixed) line.logit.append(el("span", "dim", "0, by definition"));
  else Object.assign(line, sliderOf(place, low, high));
  if (!fixed) line.logit.append(line.track, line.typed);
  line.update = (found) => updateClass(line, place, found);
  return line;
}

function emptyLine(name, mark) {
  const element = el("tr");
  const head = el("th", "name");
  head.scope = "row";
  head.append(el("bdi", "", name));
  if (mark) head.append(el("span", "mark", mark));
  const [logit, p, gradient] = ["logit", "p secret", "gradient secret"].map((kind) => el("td", kind));
  const [pBar, gradientBar] = [el("span", "bar"), el("span", "bar signed")];
  const [pText, gradientText, shareText] = [el("output"), el("output"), el("output", "share")];
  for (const bar of [pBar, gradientBar]) bar.append(el("i"));
  p.append(pBar, pText);
  gradient.append(gradientBar, gradientText, shareText);
  element.append(head, logit, p, gradient);
  return { element, logit, pBar, gradientBar, pText, gradientText, shareText };
}

function sliderOf(place, low, high) {
  const slider = el("input");
  Object.assign(slider, { type: "range", min: low, max: high, step: "any" });
  slider.setAttribute("aria-label", `logit of ${nameOf(place)}`);
  slider.addEventListener("input", () => moveTo(place, Number(slider.value)));
  slider.addEventListener("keydown", (event) => stepKey(event, place, low, high));
  const typed = el("input", "typed");
  Object.assign(typed, { type: "text", inputMode: "decimal", autocomplete: "off" });
  typed.setAttribute("aria-label", `logit of ${nameOf(place)}, as a number`);
  typed.addEventListener("change", () => moveTo(place, parsed(typed.value)));
  const track = el("span", "track");
  const ghost = el("span", "ghost");
  const at = Math.min(Math.max((row().x[place] - low) / (high - low), 0), 1);
  ghost.style.setProperty("--at", String(at));
  track.append(slider, ghost);
  return { slider, typed, track };
}

// Arrows by 0.1 and pages by 1, whatever the range; Home and End to its ends.
function stepKey(event, place, low, high) {
  const steps = { ArrowLeft: -0.1, ArrowDown: -0.1, ArrowRight: 0.1, ArrowUp: 0.1, PageDown: -1, PageUp: 1 };
  const at = Number.isFinite(logits()[place]) ? logits()[place] : low;
  const ends = { Home: low, End: high };
  const to = event.key in steps ? at + steps[event.key] : ends[event.key];
  if (to === undefined) return;
  event.preventDefault();
  moveTo(place, Math.min(Math.max(to, Math.min(low, at)), Math.max(high, at)));
}

function moveTo(place, value) {
  if (!Number.isNaN(value)) moveLogit(place, value);
  changed();
}

function updateClass(line, place, found) {
  const x = logits()[place];
  if (line.slider) {
    line.slider.value = String(Number.isFinite(x) ? x : x > 0 ? line.slider.max : line.slider.min);
    line.slider.setAttribute("aria-valuetext", fmt(x));
    line.typed.value = fmt(x);
    line.typed.dataset.value = String(x);
    line.track.classList.toggle("moved", x !== row().x[place]);
  }
  updateBars(line, found.p[place], found.gradient[place]);
}

function updateBars(line, p, gradient) {
  show(line.pText, p);
  line.pBar.firstChild.style.setProperty("--share", String(Number.isFinite(p) ? p : 0));
  const share = row().counted ? row().upstream * gradient : 0;
  show(line.gradientText, gradient);
  show(line.shareText, share, `${fmt(share)}`);
  const most = Math.max(1, ...row().t.map(Math.abs));
  const size = Number.isFinite(gradient) ? Math.min(Math.abs(gradient) / most, 1) : 0;
  line.gradientBar.firstChild.style.setProperty("--share", String(size));
  line.gradientBar.classList.toggle("down", gradient < 0);
}

function restLine() {
  const count = row().rest.count.toLocaleString("en");
  const line = emptyLine(`${count} others`, "");
  line.element.classList.add("rest");
  line.logit.append(el("span", "dim", "held, as one log-sum-exp"));
  line.update = (found) => {
    updateBars(line, found.restP, found.restGradient);
    if (term().softcap !== null) for (const text of [line.gradientText, line.shareText]) show(text, NaN, "·");
  };
  return line;
}

function drawClasses(all) {
  const found = all.rows[state.row];
  for (const line of lines) line.update(found);
  drawSummary(all, found);
  drawLength(found);
}

function drawSummary(all, found) {
  const own = row().own;
  const nats = own < 0 ? NaN : -found.logP[own];
  byId("p-label").textContent = own < 0 ? "p" : `p of ${nameOf(own)}`;
  show(byId("p"), own < 0 ? NaN : found.p[own], own < 0 ? "·" : undefined);
  show(byId("nats"), nats, own < 0 ? "·" : undefined);
  show(byId("bits"), nats / Math.LN2, own < 0 ? "ignored" : `nats = ${fmt(nats / Math.LN2, 3)} bits`);
  show(byId("adds"), all.adds[state.row]);
  show(byId("cost"), row().counted ? found.cost : 0);
  show(byId("value"), all.value);
  byId("was").textContent = isMoved() ? `yours: ${fmt(page.value)}` : "your own value";
  byId("sentence").textContent = sentence(all, found, nats);
}

function sentence(all, found, nats) {
  if (!row().counted) return "This row is ignored: whatever its logits are, it adds nothing.";
  const cost = fmt(found.cost);
  const how = term().plain
    ? `−ln ${fmt(found.p[row().own])} = ${cost} nats`
    : `With the weights, smoothing and other terms of this loss the row costs ${cost} nats`;
  if (page.perRow) return `${how}.`;
  return `${how}; times ${fmt(row().upstream)} it adds ${fmt(all.adds[state.row])} to the loss.`;
}

// The cost of the row as a length, a tick for every bit: every halving of p is one tick more.
function drawLength(found) {
  const longest = Math.max(...start().rows.map((one) => (Number.isFinite(one.cost) ? one.cost : 0)), 1);
  const most = Math.max(longest, Number.isFinite(found.cost) ? found.cost : 0) * 1.02;
  const lengths = [...found.parts, found.cost - sum(found.parts)];
  const pieces = lengths.map((nats, place) => {
    const piece = el("i", place === row().own ? "own" : "");
    piece.style.setProperty("--share", String(Number.isFinite(nats) ? Math.max(nats, 0) / most : 1));
    return piece;
  });
  const every = Math.max(1, Math.ceil(most / Math.LN2 / 12));
  const ticks = [];
  for (let bits = every; bits * Math.LN2 <= most; bits += every) {
    const tick = el("b", "", String(bits));
    tick.style.setProperty("--at", String((bits * Math.LN2) / most));
    ticks.push(tick);
  }
  byId("length").replaceChildren(...pieces, ...ticks);
}
