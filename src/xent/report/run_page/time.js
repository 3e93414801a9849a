// Where the time of a step goes.
function showTime() {
  const { time, throughput } = run(), parts = [];
  if (time) {
    const whole_ = time.total.reduce((sum, one) => sum + one, 0) || 1;
    const middle = time.median.reduce((sum, one) => sum + (one ?? 0), 0);
    const bar = make("div", { class: "split", role: "img", "aria-label": time.parts.map((part, place) => `${part} ${percent(time.total[place] / whole_)}`).join(", ") },
      ...time.parts.map((part, place) => make("i", { class: `part${place}`, vars: { "--share": time.total[place] / whole_ } })));
    const rows = time.parts.map((part, place) => [make("span", {}, make("i", { class: `swatch part${place}` }), part), percent(time.total[place] / whole_), seconds(time.median[place]), seconds(time.total[place])]);
    rows.push(["a step", "100.0 %", seconds(middle), seconds(whole_)]);
    parts.push(section("Where the time goes", `Median of ${plural(time.steps, "recorded step")}${time.after ? ` after step ${whole(time.after)}, up to which the doctor looks` : ""}: ${seconds(middle)} a step.`, bar,
      table([["part", "name"], ["share", "n"], ["median", "n"], ["sum", "n"]], rows, { label: "time", class: "data total" })));
    if (time.shares.length > 1) parts.push(section("Over the steps", "", make("figure", {}, timeChart(time))));
  }
  if (page.runs.some((one) => one.throughput.length)) {
    parts.push(section("Throughput, in rows a second", "", curvesChart("throughput", "rows a second by step", 200, () => ({
      curves: runCurves((one) => one.throughput, "rows/s", "train"), fromZero: true, axis: "~s", format: (value) => whole(value),
    }))));
  }
  return parts.length ? parts : [empty("No times have been recorded.", "Watched steps write how long data, forward, loss, backward and step took.")];
}

function timeChart(time) {
  const rows = time.shares.flatMap(([first, last, ...shares]) => {
    let from = 0;
    return shares.map((share, part) => { from += share; return { step: first, part, from: from - share, to: Math.min(1, from) }; });
  });
  const end = time.shares.at(-1)[1];
  const box = chart("stack", "share of each part of a step, by step", 200, () => ({
    datasets: { parts: rows.concat(rows.filter((row) => row.step === time.shares.at(-1)[0]).map((row) => ({ ...row, step: end }))) },
    params: { x0: time.shares[0][0], x1: end, x_ticks: stepTicks(time.shares[0][0], end) },
  }));
  box.id = "chart-time";
  return box;
}
