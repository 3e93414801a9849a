// Head, tabs, theme; what is shown is made anew from page and state.
const SHOW = {
  loss: showLoss, where: showWhere, calibration: showCalibration, gradients: showGradients,
  steps: showSteps, findings: showFindings, time: showTime, setup: showSetup,
};

function show() {
  const focus = focusKey();
  forgetCharts();
  sliders.length = 0;
  const parts = SHOW[state.tab]().filter(Boolean);
  byId("panel").replaceChildren(...parts);
  byId("panel").setAttribute("aria-labelledby", `tab-${state.tab}`);
  if (focus) document.querySelector(focus)?.focus({ preventScroll: true });
  drawAll();
}

function showAgain() {
  showHead();
  showTabs();
  show();
}

// Where the focus was, so that a new making of the same thing has it again.
function focusKey() {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  if (element.dataset?.key) return `[data-key="${element.dataset.key}"]`;
  return element.id ? `#${CSS.escape(element.id)}` : null;
}

function statusWords(one) {
  const { word, seconds: took, error, changed } = one.status;
  const words = { done: "done", interrupted: "interrupted", failed: "failed" }[word] ?? `no end is recorded; last written ${changed.replace("T", " ").replace("+00:00", " UTC")}`;
  return `${words}${finite(took) ? ` after ${seconds(took)}` : ""} · ${plural(one.steps, "step")}` +
    `${one.parameters !== null ? ` · ${plural(one.parameters, "parameter")}` : ""}${one.started ? ` · started ${one.started.replace("T", " ").replace("+00:00", " UTC")}` : ""}${error ? ` · ${error}` : ""}`;
}

// The last recorded batch may be long ago: a later measurement of the training rows says more.
function lastOfTraining(one) {
  if (one.lost) return [`train, since step ${whole(one.lost.since)}`, fixed(one.lost.value)];
  const batch = lastOf(one.loss), measured = one.evaluations.find(({ split }) => split === "train")?.points.at(-1);
  if (measured && finite(measured.loss) && measured.step >= (batch?.[1] ?? 0)) return ["train set", fixed(measured.loss)];
  return ["train", fixed(batch?.[2])];
}

function showHead() {
  const one = run();
  byId("name").textContent = one.name;
  byId("status").textContent = statusWords(one);
  const last = validation(one);
  const unit = one.in_nats ? "nats" : "";
  const figures = one.turns.length && !one.lost
    ? one.turns.map((turn) => [`train, ${turnName(turn.optimizer)}`, fixed(lastOf(turn.loss)?.[2]), unit])
    : [[...lastOfTraining(one), unit]];
  if (last) figures.push([one.evaluations.some(({ split }) => split === "validation") ? "validation" : one.evaluations[0].split, fixed(last.loss), unit]);
  const accuracy = last?.accuracy ?? (one.turns.length ? null : lastOf(one.accuracy)?.[2]);
  if (finite(accuracy)) figures.push(["accuracy", percent(accuracy, 2), ""]);
  if (finite(one.ruler.uniform)) figures.push(["guessing", fixed(one.ruler.uniform), "nats"]);
  const rate = median(one.throughput.map((point) => point[2]).filter(finite));
  if (finite(rate)) figures.push(["throughput", whole(rate), "rows/s"]);
  byId("figures").replaceChildren(...figures.map(([label, value, unit]) => figure(label, value, unit)));
  byId("notes").replaceChildren(...page.runs.flatMap((each) => each.notes.map((note) => make("li", {}, several() ? named(`${each.name}: `) : "", named(note)))));
  byId("runs").hidden = !several();
  byId("runs").replaceChildren(...page.runs.map((each, place) => make("button", {
    type: "button", role: "radio", "aria-checked": String(place === state.run), tabindex: place === state.run ? 0 : -1, "data-key": `run-${place}`,
    onclick: () => chooseRun(place), onkeydown: (event) => arrows(event, page.runs.length, place, chooseRun, "run-"),
  }, named(each.name))));
}

function chooseRun(place) {
  state.run = place;
  writeAddress();
  showAgain();
}

function showTabs() {
  const focus = focusKey();
  const count = run().findings.of;
  byId("tabs").replaceChildren(...TABS.map(([id, title], place) => make("button", {
    type: "button", role: "tab", id: `tab-${id}`, "aria-selected": String(id === state.tab), "aria-controls": "panel",
    tabindex: id === state.tab ? 0 : -1, "data-key": `tab-${place}`, onclick: () => chooseTab(place),
    onkeydown: (event) => arrows(event, TABS.length, place, chooseTab, "tab-"),
  }, title, id === "findings" && count ? make("span", { class: "count" }, String(count)) : null)));
  byId("tabs").querySelector("[aria-selected=true]").scrollIntoView({ block: "nearest", inline: "center" });
  if (focus?.includes("tab-")) document.querySelector(focus)?.focus({ preventScroll: true });
}

function chooseTab(place) {
  state.tab = TABS[place][0];
  writeAddress();
  showTabs();
  show();
}

// Left, right, Home and End choose among what stands side by side.
function arrows(event, count, place, choose, key) {
  const next = { ArrowRight: (place + 1) % count, ArrowLeft: (place + count - 1) % count, Home: 0, End: count - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  choose(next);
  document.querySelector(`[data-key="${key}${next}"]`).focus();
}

function isDark() {
  return document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function showTheme() {
  byId("theme").textContent = isDark() ? "light" : "dark";
  byId("theme").setAttribute("aria-label", `switch to the ${isDark() ? "light" : "dark"} page`);
}

byId("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { showTheme(); drawAll(); });
let width = window.innerWidth, waiting = null;
window.addEventListener("resize", () => {
  if (window.innerWidth === width) return;
  width = window.innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(drawAll, 150);
});
window.addEventListener("hashchange", () => { readAddress(); showAgain(); });
readAddress();
showTheme();
showAgain();
if (page.live) refresh();
