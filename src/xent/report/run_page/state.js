// What the reader chose. It outlives a refresh of the data, and stands in the address, so that a reload keeps it.
const TABS = [
  ["loss", "Loss"], ["where", "Where the loss is"], ["calibration", "Calibration"], ["gradients", "Gradients"],
  ["steps", "Steps"], ["findings", "Findings"], ["time", "Time"], ["setup", "Setup"],
];
const read = (id) => JSON.parse(byId(id).textContent);
let page = read("data");
const specs = read("specs");
const state = { tab: "loss", run: 0, step: null, scale: "linear", measure: "gradient_norm", layer: null };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  if (TABS.some(([id]) => id === given.get("tab"))) state.tab = given.get("tab");
  const run = Number(given.get("run"));
  if (Number.isInteger(run) && run > 0 && run < page.runs.length) state.run = run;
  const step = given.get("step");
  if (step !== null && Number.isFinite(Number(step))) state.step = Number(step);
  if (given.get("scale") === "log") state.scale = "log";
}

function writeAddress() {
  const given = new URLSearchParams({ tab: state.tab });
  if (state.run) given.set("run", state.run);
  if (state.step !== null) given.set("step", state.step);
  if (state.scale !== "linear") given.set("scale", state.scale);
  history.replaceState(null, "", `#${given}`);
}

const run = () => page.runs[state.run];
const several = () => page.runs.length > 1;

// Of records by step, the newest that is not beyond the chosen step; null follows the newest.
function chosen(records) {
  if (!records.length) return null;
  if (state.step === null) return records.length - 1;
  let place = 0;
  records.forEach((record, number) => { if (record.step <= state.step) place = number; });
  return place;
}

const sliders = [];  // of what is shown; they move together

// A slider through the recorded steps of one kind; `draw` is called with the record that it stands on.
function stepSlider(kind, records, of, draw) {
  const at = chosen(records);
  const body = make("div", {});
  const output = make("output", { for: `slider-${kind}` });
  const slider = make("input", {
    type: "range", id: `slider-${kind}`, min: 0, max: records.length - 1, step: 1, value: at, "aria-label": "recorded step",
  });
  const previous = make("button", { type: "button", "aria-label": "earlier step", onclick: () => go(Number(slider.value) - 1) }, "←");
  const next = make("button", { type: "button", "aria-label": "later step", onclick: () => go(Number(slider.value) + 1) }, "→");
  function go(place) {
    place = Math.max(0, Math.min(records.length - 1, place));
    slider.value = place;
    state.step = place === records.length - 1 ? null : records[place].step;
    writeAddress();
    for (const follow of sliders) follow();
  }
  function show(place) {
    slider.value = place;
    output.textContent = `step ${whole(records[place].step)}`;
    slider.setAttribute("aria-valuetext", output.textContent);
    previous.disabled = place === 0;
    next.disabled = place === records.length - 1;
    body.replaceChildren(...[draw(records[place], place)].flat().filter((part) => part !== null));
  }
  slider.addEventListener("input", () => go(Number(slider.value)));
  show(at);
  sliders.push(() => show(chosen(records)));
  const words = of > records.length ? `${whole(records.length)} of ${whole(of)} recorded steps are on this page` : `${plural(of, "recorded step")}`;
  const bar = make("div", { class: "stepper" }, previous, slider, next, output, make("span", { class: "note" }, words));
  if (records.length === 1) bar.replaceChildren(output);
  return make("div", {}, bar, body);
}
