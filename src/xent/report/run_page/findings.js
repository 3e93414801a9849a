// What the doctor found in the run.
function showFindings() {
  const { findings } = run();
  if (!findings.list.length) return [empty("The doctor found nothing in this run.", "Its rules looked at the losses, gradients and steps that were recorded; xent doctor SCRIPT looks at all of them.")];
  const cards = findings.list.map((one) => make("article", { class: "finding" },
    make("h3", {}, named(one.rule), " ", make("span", { class: `mark ${one.severity === "error" ? "strong" : ""}` }, named(one.severity)), one.certainty ? make("span", { class: "mark" }, named(one.certainty)) : null),
    make("p", {}, named(one.message)),
    one.fix ? make("p", { class: "fix" }, make("span", { class: "note" }, "do "), named(one.fix)) : null,
    one.source ? make("pre", {}, named(one.source)) : null,
    make("p", { class: "note" }, one.file ? named(`${one.file}${one.line ? `:${one.line}` : ""}`) : "",
      one.step !== null ? ` · told at step ${whole(one.step)}` : "", one.times > 1 ? ` · ${whole(one.times)} times` : "")));
  const more = findings.of > findings.list.length ? make("p", { class: "note" }, `${whole(findings.list.length)} of ${whole(findings.of)} findings.`) : null;
  return [section("Findings of the doctor", "", ...cards, more)];
}
