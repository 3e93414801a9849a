// The loss of a row as a function of its logits x and a temperature T, in float64 (see inspection/_page_rows.py).

// softcap · tanh(scale · x / softcap)
function scaled(term, x) {
  const z = x * term.scale;
  return term.softcap === null ? z : term.softcap * Math.tanh(z / term.softcap);
}

function slope(term, z) {
  return term.softcap === null ? term.scale : term.scale * (1 - (z / term.softcap) ** 2);
}

// Log-sum-exp as the pair (m, ln s): the largest is taken out of the sum, so that ln p keeps its digits near p = 1.
function logSumExp(scores) {
  const m = Math.max(...scores);
  const largest = scores.indexOf(m);
  let others = 0;
  scores.forEach((score, place) => {
    if (place !== largest) others += Math.exp(score - m);
  });
  return { m, lnS: Number.isNaN(m) ? NaN : Math.log1p(others) + 0 * m };
}

function solved(term, row, x, step) {
  const T = page.temperatures[step];
  const z = x.map((value) => scaled(term, value));
  const scores = z.map((value) => value / T);
  const rest = row.rest ? row.rest.lse[step] : -Infinity;
  const { m, lnS } = logSumExp([...scores, rest]);
  const logP = scores.map((score) => score - m - lnS);
  const found = { T, z, scores, rest, m, lse: m + lnS, logP, p: logP.map(Math.exp), restP: Math.exp(rest - m - lnS) };
  found.parts = logP.map((value, c) => (row.t[c] === 0 ? 0 : -row.t[c] * floored(term, value)));
  found.cost = sum(found.parts) + restCost(row, found) + (row.zeta ? row.zeta * found.lse ** 2 : 0);
  return withGradient(term, row, found);
}

// torch's binary_cross_entropy ends ln p at −100.
function floored(term, logP) {
  return term.clamp === null ? logP : Math.max(logP, term.clamp);
}

function restCost(row, found) {
  if (!row.rest) return 0;
  return (row.rest.mass ? row.rest.mass * found.lse : 0) - row.rest.mz / found.T;
}

// d cost / d x = (a·p − t + 2ζ·lse·p) · dz/dx / T, with a = Σ t.
function withGradient(term, row, found) {
  const restMass = row.rest ? row.rest.mass : 0;
  const pull = sum(row.t) + restMass + (row.zeta ? 2 * row.zeta * found.lse : 0);
  found.gradient = found.p.map((p, c) => ((pull * p - row.t[c]) * slope(term, found.z[c])) / found.T);
  found.restGradient = ((pull * found.restP - restMass) * term.scale) / found.T;
  return found;
}

// exp, sum and quotient as float32 makes them, with the largest score subtracted first or not.
function inFloat32(scores, subtracted) {
  const float32 = Math.fround;
  const m = subtracted ? Math.max(...scores) : 0;
  const exps = scores.map((score) => float32(Math.exp(float32(score - m))));
  const total = exps.reduce((all, one) => float32(all + one), 0);
  return { m, exps, total, p: exps.map((one) => float32(one / total)) };
}

function sum(values) {
  return values.reduce((all, one) => all + one, 0);
}
