// Whether a confidence of 80 % is right in 80 % of the rows.
function showCalibration() {
  const { steps, of } = run().calibration;
  if (!steps.length) return [empty("No calibration has been recorded.", "Watched losses over classes write it at sampled steps, from the rows of the batch.")];
  return [section("Reliability", "Rows are put into bins by the probability that the model gives its prediction. On the diagonal it is right as often as it says.",
    stepSlider("calibration", steps, of, (record) => {
      const rows = record.bins.map(([confidence, accuracy, count]) => ({ confidence, accuracy, count })).filter((one) => one.count > 0);
      const count = rows.reduce((sum, one) => sum + one.count, 0);
      const box = chart("reliability", `accuracy by confidence at step ${record.step}`, 340, () => ({
        datasets: { bins: rows, diagonal: [{ confidence: 0, accuracy: 0 }, { confidence: 1, accuracy: 1 }] },
      }));
      box.id = "chart-reliability";
      box.classList.add("square");
      const made = make("div", { class: "pair" },
        make("figure", {}, make("p", { class: "axis" }, "accuracy ↑, confidence →"), box),
        make("div", {},
          make("dl", { class: "figures small" }, figure("ECE", percent(record.ece, 2)), figure("rows", whole(count))),
          make("p", { class: "caption" }, "ECE, the expected calibration error, is the mean gap between accuracy and confidence, each bin weighted by its rows."),
          table([["confidence", "n"], ["accuracy", "n"], ["gap", "n"], ["rows", "n"]], rows.map((one) => [
            percent(one.confidence), percent(one.accuracy), signed(one.accuracy - one.confidence), whole(one.count)]), { label: "bins", class: "data" })));
      queueMicrotask(() => box.isConnected && draw(box));
      return made;
    }),
    eceSection())];
}

const signed = (value) => {
  const size = (100 * Math.abs(value)).toFixed(1);
  return size === "0.0" ? size : `${value < 0 ? "−" : "+"}${size}`;
};
const figure = (label, value, note = "") => make("div", {}, make("dt", {}, label), make("dd", {}, value, note ? make("span", { class: "note" }, ` ${note}`) : null));

function eceSection() {
  const give = () => ({
    curves: page.runs.map((one, place) => ({
      series: `${place}`, kind: "evaluation", own: place === state.run, text: several() ? one.name : "ECE",
      points: one.calibration.steps.filter((record) => finite(record.ece)).map((record) => ({ step: record.step, value: real(record.ece), low: null, high: null })),
    })).filter((curve) => curve.points.length), fromZero: true, axis: "~%", format: (value) => percent(value, 2),
  });
  if (!give().curves.some((curve) => curve.points.length > 1)) return null;
  return make("div", {}, make("h3", {}, "ECE by step"), curvesChart("ece", "expected calibration error by step", 160, give));
}
