// What is chosen and what was moved. Everything drawn follows from here.

// Numbers that JSON does not have come as {"number": "NaN"}, so that no text of the caller is taken for one.
const page = JSON.parse(byId("data").textContent, (_, value) => (typeof value?.number === "string" ? Number(value.number) : value));
const MIDDLE = (page.temperatures.length - 1) / 2; // T = 1
const state = { term: 0, row: 0, step: MIDDLE, moved: page.terms.map(() => new Map()) };

function term() {
  return page.terms[state.term];
}

function row() {
  return term().rows[state.row];
}

function logits(number = state.row) {
  return state.moved[state.term].get(number) ?? term().rows[number].x;
}

function isMoved() {
  return state.moved[state.term].size > 0 || state.step !== MIDDLE;
}

function moveLogit(place, value) {
  const x = [...logits()];
  x[place] = value;
  state.moved[state.term].set(state.row, x);
}

function resetAll() {
  state.moved[state.term].clear();
  state.step = MIDDLE;
}

// Every row of the page with its logits as they are now, and what all rows add to the value.
function now() {
  const rows = term().rows.map((one, number) => solved(term(), one, logits(number), state.step));
  const groups = term().others.groups.map((group) => groupAdds(group));
  const adds = term().rows.map((one, number) => (one.counted ? one.upstream * rows[number].cost : 0));
  const total = sum(adds) + sum(groups);
  return { rows, adds, groups, total, value: isMoved() ? whole(total) : page.value };
}

// The caller's value and the difference: it was rounded as torch rounds it; from the page's own numbers where it is ∞.
function whole(total) {
  return Number.isFinite(start().total) ? page.value + (total - start().total) : term().held + total;
}

function groupAdds(group) {
  return group.adds[group.adds.length > 1 ? state.step : 0];
}

const starts = new Map();

// The same before anything was moved: what the caller's own value is compared with.
function start() {
  if (!starts.has(state.term)) {
    const rows = term().rows.map((one) => solved(term(), one, one.x, MIDDLE));
    const adds = term().rows.map((one, number) => (one.counted ? one.upstream * rows[number].cost : 0));
    const groups = term().others.groups.map((group) => group.adds[group.adds.length > 1 ? MIDDLE : 0]);
    starts.set(state.term, { rows, adds, groups, total: sum(adds) + sum(groups) });
  }
  return starts.get(state.term);
}

function nameOf(place, of = row()) {
  return term().names[of.classes[place]];
}
