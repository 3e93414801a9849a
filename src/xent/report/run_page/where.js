// Where the loss is: classes, the worst rows, one text by surprisal.
function showWhere() {
  const { classes, worst, tokens } = run();
  const parts = [];
  if (worst.steps.length) parts.push(section("Worst rows", "The rows that cost the most, of those measured at this step.", stepSlider("worst", worst.steps, worst.of, worstRows)));
  if (tokens.steps.length) {
    parts.push(section("One text of the batch, by surprisal", "The more colour a token has, the more nats it cost. Point at one, or tab to it, to read it.",
      stepSlider("tokens", tokens.steps, tokens.of, tokenText)));
  }
  if (classes.steps.length) {
    parts.push(section("Classes", "", stepSlider("classes", classes.steps, classes.of, classTable)));
    if (classes.steps.length > 1) parts.push(classHeat());
  }
  if (!parts.length) return [empty("Where the loss is has not been recorded.", "Watched losses over classes write their classes, worst rows and texts at sampled steps.")];
  return parts;
}

function classTable({ classes, of }) {
  const sorted = [...classes].sort((one, other) => (real(other.loss) || 0) - (real(one.loss) || 0));
  const most = Math.max(...sorted.map((one) => (finite(one.loss) ? real(one.loss) : 0)), 1e-12);
  const total = sorted.reduce((sum, one) => sum + (finite(one.loss) ? real(one.loss) * (one.count ?? 0) : 0), 0) || 1;
  const rows = sorted.map((one) => [
    named(one.name), make("span", { class: "meter" }, make("i", { vars: { "--share": finite(one.loss) ? real(one.loss) / most : 0 } })), fixed(one.loss),
    whole(one.count), finite(one.loss) && one.count ? percent((real(one.loss) * one.count) / total) : "–", percent(one.accuracy),
  ]);
  const made = table([["class", "name"], ["", "wide-cell"], ["nats a row", "n"], ["rows", "n"], ["of the loss", "n"], ["accuracy", "n"]], rows, { label: "loss by class", class: "data stretch" });
  return of > classes.length ? [made, make("p", { class: "note" }, `${whole(classes.length)} of ${whole(of)} classes: the most frequent and the worst.`)] : [made];
}

function classHeat() {
  const { steps } = run().classes;
  const names = [...new Set(steps.flatMap((record) => record.classes.map((one) => one.name)))].slice(0, 40);
  const cells = steps.flatMap((record, place) => record.classes.filter((one) => names.includes(one.name)).map((one) => ({
    from: record.step, to: steps[place + 1]?.step ?? record.step + Math.max(1, Math.round((record.step - steps[0].step) / 60)),
    name: one.name, value: finite(one.loss) ? real(one.loss) : null, words: `${fixed(one.loss)} nats`,
  })));
  return heatSection("Classes over the steps", "class-heat", "loss of each class by step", names, cells, (value) => fixed(value, 2), "nats");
}

function worstRows({ rows }) {
  return make("ol", { class: "cards" }, ...rows.map((row) => make("li", {},
    row.picture ? picture(row) : null,
    row.text ? make("p", { class: "excerpt" }, named(row.text)) : null,
    make("p", { class: "big" }, `${fixed(row.loss, 2)} `, make("small", {}, "nats")),
    make("p", {}, "is ", named(row.target), ...(row.target === row.prediction ? [", predicted so"] : [", taken for ", named(row.prediction)])),
    make("p", { class: "note" }, `p(target) = ${fixed(row.probability)} · row `, named(row.row)))));
}

function picture({ picture: { width, height, hex }, target }) {
  const canvas = make("canvas", { width, height, role: "img", "aria-label": `picture of the row, target ${target}` });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let place = 0; place < width * height; place++) {
    const grey = 255 - parseInt(hex.slice(2 * place, 2 * place + 2), 16);
    image.data.set([grey, grey, grey, 255], 4 * place);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function tokenText({ pieces, of }) {
  const top = Math.max(...pieces.map(([, nats]) => (finite(nats) ? real(nats) : 0)), 1e-9);
  const readout = make("p", { class: "readout", role: "status" }, make("span", {}, `mean ${fixed(pieces.reduce((sum, [, nats]) => sum + (finite(nats) ? real(nats) : 0), 0) / pieces.length)} nats`));
  const say = (event) => {
    const piece = event.target.closest("[data-place]");
    if (!piece) return;
    const [text, nats] = pieces[piece.dataset.place];
    readout.replaceChildren(make("span", {}, named(text)), make("span", { class: "own" }, `${fixed(nats)} nats`), make("span", {}, `p = ${fixed(Math.exp(-real(nats)))}`));
  };
  const text = make("p", { class: "tokens", onpointerover: say, onfocusin: say, dir: "auto" }, ...pieces.map(([piece, nats], place) => make("bdi", {
    "data-place": place, tabindex: place === 0 ? 0 : -1, vars: { "--heat": `${finite(nats) ? Math.round((55 * real(nats)) / top) : 0}%` },
  }, piece)));
  text.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = by && text.children[Number(event.target.dataset.place) + by];
    if (next) { event.preventDefault(); next.focus(); }
  });
  return [text, make("p", { class: "scale" }, make("span", {}, "0"), make("i", { class: "ramp text" }), make("span", {}, `${fixed(top, 2)} nats`)), readout,
    of > pieces.length ? make("p", { class: "note" }, `The first ${whole(pieces.length)} of ${whole(of)} tokens.`) : null];
}
