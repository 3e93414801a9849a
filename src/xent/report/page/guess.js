// Predict, then reveal: the reader says p or −ln p before the page does.

const guess = { on: false, open: false };

function toggleGuess() {
  guess.on = !guess.on;
  byId("guess-toggle").setAttribute("aria-pressed", String(guess.on));
  hideAgain();
  if (guess.on) byId("guess-p").focus();
}

function hideAgain() {
  guess.open = false;
  for (const field of ["guess-p", "guess-nats"]) byId(field).value = "";
  byId("guess-words").textContent = "";
  drawGuess();
}

function drawGuess() {
  byId("guess").hidden = !guess.on;
  byId("guess-again").hidden = !guess.open;
  document.body.classList.toggle("guessing", guess.on && !guess.open);
  byId("receipt").hidden = guess.on && !guess.open;
}

function reveal(event) {
  event.preventDefault();
  if (row().own < 0) return said("This row is ignored: it has no p to guess. Choose another.");
  const found = now().rows[state.row];
  const nats = -found.logP[row().own];
  const [p, surprise] = [parsed(byId("guess-p").value), parsed(byId("guess-nats").value)];
  if (Number.isNaN(p) && Number.isNaN(surprise)) return said("Type a guess for one of the two first.");
  guess.open = true;
  drawGuess();
  const words = [];
  if (!Number.isNaN(p)) words.push(`p: you said ${fmt(p)}, it is ${fmt(found.p[row().own])}${off(p - found.p[row().own])}.`);
  if (!Number.isNaN(surprise)) words.push(`−ln p: you said ${fmt(surprise)}, it is ${fmt(nats)}${off(surprise - nats)}.`);
  said(words.join(" "));
}

function off(difference) {
  if (!Number.isFinite(difference)) return "";
  return Math.abs(difference) < 0.005 ? ": right to two digits" : `: ${fmt(Math.abs(difference), 3)} too ${difference > 0 ? "high" : "low"}`;
}

function said(words) {
  byId("guess-words").textContent = words;
}

function bindGuess() {
  byId("guess-toggle").addEventListener("click", toggleGuess);
  byId("guess").addEventListener("submit", reveal);
  byId("guess-again").addEventListener("click", () => {
    hideAgain();
    byId("guess-p").focus();
  });
}
