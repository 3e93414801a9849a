// A page that a server sent asks it for newer data; the tab, the run, the step and the place on the page stay.
let tag = null, failures = 0;

async function refresh() {
  try {
    const answer = await fetch("data.json", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      const [next, place] = [await answer.json(), window.scrollY];
      tag = answer.headers.get("ETag");
      page = next;
      if (state.run >= page.runs.length) state.run = 0;
      showAgain();
      window.scrollTo(0, place);
    }
    failures = 0;
    byId("live").textContent = page.runs.some((one) => one.status.word === "no end") ? "live" : "ended";
  } catch {
    failures += 1;
    byId("live").textContent = "the server is gone; this is its last word";
  }
  if (failures < 30) setTimeout(refresh, Math.min(2000 * (1 + failures), 20000));
}
