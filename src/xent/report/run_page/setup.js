// What ran, on what, with which options; of several runs what differs.
function showSetup() {
  const parts = [];
  if (several()) {
    const rows = page.differences.map(({ group, name, values }) => [named(group === "config" ? name : `${group}: ${name}`), ...values.map((value) => named(value ?? "–"))]);
    const columns = [["setting", "name"], ...page.runs.map((one, place) => [one.name, place === state.run ? "own" : ""])];
    parts.push(section("What differs", rows.length ? "" : "Configuration, versions and machine are the same in all runs.", rows.length ? table(columns, rows, { label: "differences", class: "data" }) : null));
    parts.push(section("How they ended", "", table(
      [["run", "name"], ["last batch", "n"], ["validation", "n"], ["accuracy", "n"], ["steps", "n"], ["time", "n"]],
      page.runs.map((one) => { const last = validation(one); return [named(one.name), fixed(one.lost ? one.lost.value : lastOf(one.loss)?.[2]), fixed(last?.loss), percent(last?.accuracy, 2), whole(one.steps), seconds(one.status.seconds)]; }),
      { label: "ends", class: "data" })));
  }
  const { setup, parameters, path, started } = run();
  const settings = Object.entries(setup.config);
  parts.push(section(several() ? `Configuration of ${run().name}` : "Configuration", "", settings.length ? pairs(settings, "configuration") : empty("The run recorded no configuration.", "")));
  parts.push(section("Machine", "", pairs(Object.entries(setup.machine), "machine")));
  parts.push(section("Versions", "", pairs(Object.entries(setup.versions), "versions")));
  parts.push(section("Run", "", pairs([["directory", path], ["started", started || "–"], ["command", setup.command || "–"], ["parameters", parameters === null ? "–" : whole(parameters)]], "run")));
  return parts;
}

const validation = (one) => (one.evaluations.find(({ split }) => split === "validation") ?? one.evaluations[0])?.points.at(-1);

function pairs(entries, label) {
  if (!entries.length) return make("p", { class: "note" }, "not recorded");
  return make("dl", { class: "pairs", "aria-label": label }, ...entries.map(([name, value]) => make("div", {}, make("dt", {}, named(name)), make("dd", {}, named(value)))));
}
