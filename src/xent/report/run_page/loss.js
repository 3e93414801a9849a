// The loss on its ruler, its curve, the accuracy, and the true mean beside the mean of means.
const lastOf = (points) => points.findLast((point) => finite(point[2]));

// An evaluation on the training rows is not the loss of the batches that it was trained on.
const splitName = (split) => (split === "train" ? "train set" : split);

// Of several runs each has its name once, at the end of its thick curve; the line below the chart says both values.
function lossNames(one) {
  return several() ? { train: one.name, evaluation: () => one.name } : { train: "train", evaluation: splitName };
}

// Optimizers that step in turn on losses of their own have a curve each; else there is one of all steps.
const turnsOf = (one) => (one.turns.length ? one.turns : [one]);
const turnName = (optimizer, alone) => (optimizer === undefined ? alone : `optimizer ${optimizer ?? "–"}`);

function lossCurves(of, evaluationOf) {
  return page.runs.flatMap((one, place) => {
    const own = place === state.run, names = lossNames(one);
    return [
      ...turnsOf(one).map((turn, number) => [of(turn), number, turn.optimizer]).filter(([train]) => train.length).map(([train, number, optimizer]) => ({
        series: `${place} ${number}`, kind: "train", own: own && !number, text: several() ? names.train : turnName(optimizer, names.train),
        said: several() ? `${names.train}, ${turnName(optimizer, "train")}` : turnName(optimizer, names.train),
        unnamed: several() && one.evaluations.some(({ split, points }) => split !== "train" && points.some((point) => evaluationOf(point) !== null)), points: pointsOf(train),
      })),
      // Of several runs the validation says enough; of one, its training rows stand beside it in grey.
      ...one.evaluations.filter(({ split }) => !several() || split !== "train").map(({ split, points }) => ({
        series: `${place} ${split}`, kind: "evaluation", own: own && split !== "train", text: names.evaluation(split), said: several() ? `${one.name}, ${splitName(split)}` : splitName(split),
        points: points.filter((point) => evaluationOf(point) !== null).map((point) => ({ step: point.step, value: real(evaluationOf(point)), low: null, high: null })),
      })).filter((curve) => curve.points.length),
    ];
  });
}

// Level lines of the chosen run. ln C and the prior are often one line: then one name says both.
function levels() {
  const { floor, prior, uniform, classes } = run().ruler;
  const found = [];
  if (uniform !== null) found.push({ value: uniform, text: `ln ${classes ?? "C"} = ${fixed(uniform)}` });
  if (prior !== null) found.push({ value: prior, text: `prior ${fixed(prior)}` });
  if (floor !== null && floor > 0) found.push({ value: floor, text: `floor ${fixed(floor)}` });
  return found;
}

function showLoss() {
  const parts = [];
  const curves = lossCurves((one) => one.loss, (point) => point.loss);
  if (!curves.length) return [empty("No loss has been recorded yet.", "The first step of a watched run writes one.")];
  const buttons = ["linear", "log"].map((scale) => make("button", {
    type: "button", "aria-pressed": String(state.scale === scale), "data-key": `scale-${scale}`,
    onclick: () => { state.scale = scale; writeAddress(); show(); },
  }, scale));
  const uniform = run().ruler.uniform;
  parts.push(make("section", {},
    make("div", { class: "head" }, make("h2", {}, run().in_nats ? "Loss, in nats" : "Loss"), make("span", { class: "buttons", role: "group", "aria-label": "axis" }, ...buttons)),
    ruler(),
    curvesChart("loss", "loss by step", 320, () => ({
      curves: lossCurves((one) => one.loss, (point) => point.loss), levels: levels(), log: state.scale === "log", fromZero: true, format: (value) => fixed(value),
    })),
    make("p", { class: "caption" }, [several() ? "Thin: training, thick: validation; the chosen run is blue." : "", uniform === null ? "" : rulerWords(), ...whatIsMissing()].filter(Boolean).join(" ")),
  ));
  const accuracy = lossCurves((one) => one.accuracy, (point) => point.accuracy);
  if (accuracy.length) {
    parts.push(section("Accuracy", "", curvesChart("accuracy", "accuracy by step", 220, () => ({
      curves: lossCurves((one) => one.accuracy, (point) => point.accuracy), fromZero: true, top: 1, axis: ".0%", format: (value) => percent(value, 2),
    }))));
  }
  parts.push(...meansSection());
  const rates = page.runs.filter((one) => one.rates.length);
  if (rates.length) {
    parts.push(section("Learning rate", "of the first parameter group", curvesChart("rate", "learning rate by step", 140, () => ({
      curves: runCurves((one) => one.rates, "lr", "evaluation", turnsOf), fromZero: true, format: short,
    }))));
  }
  return parts;
}

// One curve for each run.
function runCurves(of, alone, kind = "evaluation", parts = (one) => [one]) {
  return page.runs.flatMap((one, place) => parts(one).map((turn, number) => ({
    series: `${place} ${number}`, kind, own: place === state.run && !number, text: several() ? one.name : turnName(turn.optimizer, alone), points: pointsOf(of(turn)), dots: false,
  }))).filter((curve) => curve.points.length);
}

function rulerWords() {
  const { floor, prior, uniform, classes } = run().ruler;
  const words = [`ln ${classes ?? "C"} is the loss of guessing every class alike`];
  if (prior !== null) words.push("the prior is that of knowing only how frequent each class is");
  if (floor !== null && floor > 0) words.push("the floor is what no model gets below with these targets");
  return `${words.join("; ")}.`;
}

function whatIsMissing() {
  const { lost, in_nats } = run();
  return [
    lost ? `From step ${whole(lost.since)} on no loss is finite.` : "",
    in_nats ? "" : "No loss that xent knows was called: this is the value that backward() began at, in whatever unit that has.",
  ];
}

const isOfTraining = (words) => words === "batch" || words === "train set" || words.startsWith("optimizer ");
const batchesOf = (one) => turnsOf(one).map((turn) => [turnName(turn.optimizer, "batch"), real(lastOf(turn.loss)?.[2])]).filter(([, value]) => finite(value));

function ruler() {
  const one = run(), { floor, prior, uniform } = one.ruler;
  const lost = one.lost, train = lost ? real(lost.value) : lastOf(one.loss)?.[2];
  if (uniform === null || !(lost || finite(train))) return null;
  const last = one.evaluations.map(({ split, points }) => [splitName(split), real(points.at(-1).loss)]).filter(([, value]) => finite(value));
  const end = Math.max(uniform, ...(lost ? [] : batchesOf(one).map(([, value]) => value)), ...last.map(([, value]) => value));
  const at = (value) => `${(100 * Math.max(0, value)) / end}%`;
  const mark = (value, words, kind) => make("span", { class: `tick ${kind}`, vars: { "--at": at(value) } }, make("b", {}, words));
  const marks = [["floor", floor], ["prior", prior], ["ln C", uniform]].filter(([, value]) => value !== null && value > 0);
  const dots = last.some(([words]) => words === "train set") || lost ? last : [...batchesOf(one), ...last];
  return make("div", { class: "ruler", role: "img", "aria-label": dots.concat(marks).map(([words, value]) => `${words} ${fixed(value)}`).join(", ") },
    make("i", { class: "bar" }),
    ...marks.map(([, value]) => mark(value, "", "")),
    ...dots.map(([words, value]) => make("i", { class: isOfTraining(words) ? "dot" : "dot open", vars: { "--at": at(value) } })),
    make("p", { class: "ends" }, make("span", {}, "0, certain"), make("span", {}, lost ? `batch ${fixed(train)} since step ${whole(lost.since)}  ` : "", ...dots.flatMap(([words, value]) => [
      make("span", { class: isOfTraining(words) ? "key" : "key open" }), `${words} ${fixed(value)}  `])),
    make("span", {}, end === uniform ? `ln ${one.ruler.classes ?? "C"} = ${fixed(uniform)}, guessing` : fixed(end))));
}

function meansSection() {
  const means = run().means;
  if (!means) return [];
  const { apart: differing, steps, worst } = means;
  const words = differing
    ? `In ${whole(differing)} of ${plural(steps, "step")} with several micro-batches or ranks the mean of their means is not the mean over all tokens: ` +
      `at step ${whole(worst.step)} it is ${fixed(worst.mean)} where Σ nll ÷ Σ count = ${fixed(worst.true)}. The loss above is the latter.`
    : `In all ${plural(steps, "step")} with several micro-batches or ranks their mean of means equals Σ nll ÷ Σ count.`;
  if (!differing) return [section("True mean and mean of means", words)];
  return [section("True mean and mean of means", words, make("p", { class: "axis" }, "mean of means − Σ nll ÷ Σ count, in nats"),
    curvesChart("means", "mean of means minus true mean by step", 160, () => ({
      curves: [{ series: "difference", kind: "train", own: true, text: "difference", points: meansPoints(run().means), dots: false }],
      levels: [{ value: 0, text: "" }],
      format: (value, point) => `${fixed(value)}: mean of means ${fixed(point.mean)}, Σ nll ÷ Σ count ${fixed(point.true)}`,
    })))];
}

function meansPoints(means) {
  const of = pointsOf(means.mean);
  return pointsOf(means.true).map((point, place) => ({ ...point, low: null, high: null, true: point.value, mean: of[place].value, value: of[place].value - point.value }));
}
