// Pages are whole without this file. It keeps them fresh, and makes some ways shorter.

const body = document.body;
const each = (selector, act, within = document) => within.querySelectorAll(selector).forEach(act);

// ---------------------------------------------------------------- freshness

const fresh = document.querySelector("[data-fresh]");
const shown = new Map();
const wanted = new Map();
let stream = null;

// A block that somebody is at is left as it is: nothing moves under a finger.
const busy = (block) =>
  block.querySelector("input:checked") !== null || (block.contains(document.activeElement) && document.activeElement.matches("input, select, textarea")) ||
  (document.getSelection()?.type === "Range" && block.contains(document.getSelection().anchorNode));

function put(name) {
  const block = document.querySelector(`[data-block="${CSS.escape(name)}"]`);
  const html = wanted.get(name);
  if (!block || html === undefined) return;
  if (busy(block)) return void setTimeout(put, 1000, name);
  wanted.delete(name);
  if (shown.get(name) === html) return;
  const open = [...block.querySelectorAll("details")].map((one) => one.open);
  const places = [...block.querySelectorAll("a, button, summary")];
  const place = places.indexOf(document.activeElement);
  block.innerHTML = html;
  shown.set(name, html);
  block.querySelectorAll("details").forEach((one, at) => (one.open = open[at] ?? one.open));
  if (place >= 0) block.querySelectorAll("a, button, summary")[place]?.focus({ preventScroll: true });
  dress(block);
}

function say(words, away) {
  if (!fresh) return;
  fresh.hidden = false;
  fresh.textContent = words;
  fresh.classList.toggle("away", away);
}

function listen() {
  if (!body.dataset.live || stream) return;
  stream = new EventSource(`${body.dataset.live}?at=${encodeURIComponent(body.dataset.here)}`);
  stream.addEventListener("open", () => say("Live", false));
  stream.addEventListener("error", () => say("Not live; trying again", true));
  stream.addEventListener("blocks", (event) => {
    for (const [name, html] of Object.entries(JSON.parse(event.data))) {
      wanted.set(name, html);
      put(name);
    }
  });
}

function rest() {
  stream?.close();
  stream = null;
}

// A tab that nobody sees asks nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? rest() : listen()));
addEventListener("pagehide", rest);
addEventListener("pageshow", () => document.hidden || listen());

// ---------------------------------------------------------------- times

const units = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];

function span(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [size, unit, part, less] = units.find(([most]) => seconds >= most);
  const rest = Math.floor((seconds % size) / part);
  return `${Math.floor(seconds / size)} ${unit}` + (rest ? ` ${rest} ${less}` : "");
}

function tick() {
  if (document.hidden) return;
  each("time", (time) => {
    const away = (Date.now() - Date.parse(time.dateTime)) / 1000;
    time.textContent = Math.abs(away) < 1 ? "now" : away < 0 ? `in ${span(-away)}` : `${span(away)} ago`;
  });
}
setInterval(tick, 1000);

// ---------------------------------------------------------------- shorter ways

// One cursor for all charts: what the pointer is at in one is read out under each.
function point(event) {
  const slot = event.target.closest?.(".slot");
  each(".slot.at", (one) => one.classList.remove("at"));
  each("[data-readout]", (one) => (one.textContent = "\u00a0"));
  if (!slot) return;
  each(`.slot[data-at="${slot.dataset.at}"]`, (one) => {
    one.classList.add("at");
    const readout = one.closest("figure")?.querySelector("[data-readout]");
    if (readout) readout.textContent = one.querySelector("title").textContent;
  });
}
each("[data-cursor]", (charts) => {
  charts.addEventListener("pointermove", point);
  charts.addEventListener("pointerleave", point);
});

// Completion of a query's last term: every offer, behind what stands before it.
each("[data-query]", (input) => {
  const list = input.list;
  const offers = [...list.options].map((option) => option.value);
  input.addEventListener("input", () => {
    const before = input.value.replace(/(?:[^\s"]|"(?:[^"\\]|\\.)*(?:"|$))+$/, "");
    const begun = input.value.slice(before.length);
    const fit = begun ? offers.filter((offer) => offer.startsWith(begun)) : [];
    list.replaceChildren(...fit.slice(0, 30).map((offer) => Object.assign(document.createElement("option"), { value: before + offer })));
  });
});

function dress(within) {
  each("[data-copy]", (button) => {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  }, within);
  each("[data-all]", (all) => {
    all.hidden = false;
    all.addEventListener("change", () => each('input[name="id"]', (one) => (one.checked = all.checked), all.closest("table")));
  }, within);
  each("[data-submit]", (select) => select.addEventListener("change", () => select.form.requestSubmit()), within);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  const found = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (found) {
    event.preventDefault();
    found.focus();
  }
});

dress(document);
if (!document.hidden) listen();
