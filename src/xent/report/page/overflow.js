// ln Σ exp of the chosen row in float32, with the maximum taken out first, and without.

function drawOverflow(all) {
  const found = all.rows[state.row];
  const shift = Number(byId("shift").value);
  const subtracted = byId("subtract").checked;
  const scores = [...found.scores, ...(row().rest ? [found.rest] : [])].map((score) => score + shift);
  const made = inFloat32(scores, subtracted);
  const names = scores.map((_, place) => (place < row().x.length ? nameOf(place) : `${row().rest.count.toLocaleString("en")} others`));
  byId("exps").replaceChildren(...scores.map((score, place) => expLine(names[place], score, made, place)));
  byId("exp-head").textContent = subtracted ? "exp(z − m)" : "exp(z)";
  show(byId("shift-words"), shift, `${shift < 0 ? "−" : "+"}${Math.abs(shift)}`);
  show(byId("total"), made.total, fmt32(made.total));
  drawNaive(made, subtracted, all);
}

function expLine(name, score, made, place) {
  const line = el("tr", place === row().own ? "own" : "");
  const head = el("th");
  head.scope = "row";
  head.append(el("bdi", "", name));
  const cells = [fmt(score), fmt32(made.exps[place]), fmt32(made.p[place])].map((text) => el("td", broken(text) ? "broken" : "", text));
  line.append(head, ...cells);
  return line;
}

function broken(text) {
  return text.includes("∞") || text === "NaN";
}

function fmt32(value) {
  if (!Number.isFinite(value)) return fmt(value);
  const size = Math.abs(value);
  if (size === 0) return "0";
  return size >= 1e-4 && size < 1e5 ? value.toPrecision(4) : value.toExponential(3).replace("e-", "e−").replace("e+", "e");
}

function drawNaive(made, subtracted, all) {
  const own = row().own;
  const p = own < 0 ? NaN : made.p[own];
  const loss = own < 0 ? NaN : subtracted ? -all.rows[state.row].logP[own] : -Math.log(p);
  show(byId("naive"), loss, own < 0 ? "·" : fmt(loss));
  byId("naive").classList.toggle("broken", own >= 0 && !Number.isFinite(loss));
  byId("overflow-words").textContent = overflowWords(made, subtracted, loss);
}

function overflowWords(made, subtracted, loss) {
  const bound = "float32 ends at 3.4028e38 = exp(88.72)";
  if (subtracted) return `m = ${fmt(made.m)} is taken out first: the largest term is exp(0) = 1, and adding to every logit changes nothing.`;
  if (made.total === Infinity || Number.isNaN(made.total)) {
    const how = Number.isNaN(loss) ? "∞ ÷ ∞ is no number" : "a finite exp over it is 0, and −ln 0 is ∞";
    const whole = page.perRow ? "" : ` One such row makes the whole loss ${Number.isNaN(loss) ? "NaN" : "∞"}.`;
    return `${bound}: the sum is ∞, and ${how}.${whole}`;
  }
  if (made.total === 0) return "Every exp is below 1.4e−45, the least that float32 holds: 0 ÷ 0 is no number.";
  if (loss === Infinity) return "The exp of the target is rounded to 0, and −ln 0 is ∞.";
  return `Without it the same p comes out here, as long as no exp leaves float32. ${bound}: add more to every logit.`;
}
