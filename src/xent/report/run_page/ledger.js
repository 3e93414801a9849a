// What a step did to every parameter, and why: the ledger of the recorded steps.
function showSteps() {
  const { ledgers } = run();
  if (!ledgers.steps.length) return [empty("No step has been kept as a ledger.", "Watching keeps the ledger of some steps of models that are not large; xent.step(model, optimizer) makes one of any step.")];
  return [section("What a step did", "Every parameter before the step, its gradient, and the update; the update is made again by the optimizer's formula and compared.",
    stepSlider("ledgers", ledgers.steps, ledgers.of, ledgerOf))];
}

const openParameters = new Set();  // stay open through a refresh and from step to step

function ledgerOf(record) {
  if (!openParameters.size) openParameters.add(record.parameters[0].name);
  const optimizers = record.optimizers.map((one) => make("p", {}, make("b", {}, named(one.name)), " ",
    one.formula ? make("code", {}, named(one.formula)) : named(one.unknown), one.change ? make("span", { class: "note" }, " · ", named(one.change)) : null));
  const { predicted, measured, ratio, before } = record.promise;
  const figures = [record.equality ? figure("formula and torch", named(record.equality.words)) : null, finite(before) ? figure("loss before", fixed(before)) : null,
    finite(predicted) ? figure("change promised, g·Δθ", fixed(predicted)) : null,
    finite(measured) ? figure("change measured", fixed(measured), finite(ratio) ? `${fixed(ratio, 2)} of it` : "") : null].filter(Boolean);
  const rows = record.parameters.map((one) => [
    parameterName(one), shape(one.shape), size(one.before), size(one.gradient), size(one.update),
    finite(one.ratio) ? short(one.ratio) : "–", one.equality ? make("span", { class: one.equality.holds ? "nowrap" : "nowrap bad" }, named(one.equality.words)) : named(one.unknown || "–"),
  ]);
  const most = table([["parameter", "name"], ["shape", ""], ["‖before‖", "n"], ["‖gradient‖", "n"], ["‖update‖", "n"], ["÷ weight", "n"], ["made again", ""]], rows, { label: "ledger", class: "data stretch" });
  return [...optimizers, make("dl", { class: "figures small" }, ...figures), most,
    record.of > record.parameters.length ? make("p", { class: "note" }, `${whole(record.parameters.length)} of ${plural(record.of, "parameter")}: those that moved most.`) : null,
    ...record.differences.map((words) => make("p", { class: "note" }, named(words))),
    make("h3", {}, "Why they moved"), ...record.parameters.slice(0, 60).map(reasons)].filter(Boolean);
}

const shape = (text) => make("span", { class: "nowrap" }, named(text));
const parameterName = (one) => named(one.name);
const size = (summary) => (summary ? make("span", { class: "nowrap" }, spark(summary[2]), short(summary[0])) : "–");

// The histogram from −end to end.
function spark(histogram) {
  const most = Math.max(...histogram, 1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", `0 0 ${histogram.length * 3} 12`);
  svg.setAttribute("aria-hidden", "true");
  histogram.forEach((count, place) => {
    const bar = document.createElementNS(SVG, "rect");
    const height = count ? Math.max(1, (12 * count) / most) : 0;
    for (const [name, value] of Object.entries({ x: place * 3, y: 12 - height, width: 2, height })) bar.setAttribute(name, value);
    svg.append(bar);
  });
  return svg;
}

function reasons(one) {
  const details = make("details", { open: openParameters.has(one.name), ontoggle: () => (details.open ? openParameters.add(one.name) : openParameters.delete(one.name)) },
    make("summary", {}, named(one.name), " ", make("span", { class: "note" }, named(one.because || one.unknown))));
  const parts = one.parts.map(([cause, share, norm]) => [named(cause), make("span", { class: "meter" }, make("i", { vars: { "--share": Math.min(1, Math.abs(share ?? 0)) } })), percent(share), short(norm)]);
  if (parts.length) details.append(table([["cause", "name"], ["", "wide-cell"], ["of the update", "n"], ["norm", "n"]], parts, { label: `causes, ${one.name}`, class: "data" }));
  const stages = one.stages.map(([name, formula, summary]) => [named(name), make("code", {}, named(formula)), size(summary)]);
  if (stages.length) details.append(table([["stage", "name"], ["formula", ""], ["norm", "n"]], stages, { label: `stages, ${one.name}`, class: "data" }));
  const entries = one.entries.map(([index, ...values]) => [named(index), ...values.map((value) => fixed(value, 6))]);
  if (entries.length) details.append(table([["entry", "name"], ["before", "n"], ["gradient", "n"], ["update", "n"], ["after", "n"]], entries, { label: `entries, ${one.name}`, class: "data" }));
  for (const note of one.notes) details.append(make("p", { class: "note" }, named(note)));
  return details;
}
