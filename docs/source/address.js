// The address holds the moment: the line, the chosen letter, and of each step its head and switches.
"use strict";

let later;
const number = (name) => STEPS.findIndex((step) => step.name === name) + 1;

/* What differs from a page that was just opened. */
function moment() {
  const parts = new URLSearchParams();
  if (field.value !== FIRST.line) parts.set("line", field.value);
  if (state.at !== state.tokens.length - 1) parts.set("at", state.at);
  if (temperature() !== 1) parts.set("temperature", warm.value);
  if (state.open) parts.set("step", number(state.open));
  STEPS.forEach(({ name }, i) => {
    const head = state.head[name], cell = state.cell[name];
    if (head !== undefined && head !== FIRST.heads[name].back) parts.set(`head${i + 1}`, head + 1);
    if (state.off[name]) parts.set(`off${i + 1}`, state.off[name]);
    if (cell?.kept) parts.set(`cell${i + 1}`, `${cell.t}.${cell.s}`);
  });
  return parts;
}

/* Write it into the address; place: the section that the reader went to. */
function keep(place) {
  const parts = moment();
  if (place && String(parts)) parts.set("to", place);
  const hash = String(parts) || place || "";
  if (hash === location.hash.slice(1)) return;
  history.replaceState(history.state, "", hash ? `#${hash}` : location.pathname + location.search);
}

function remember() {
  clearTimeout(later);
  later = setTimeout(keep, 300);
}

/* What the address asks for; true where it asks for anything. What it does not name is as on a page
   that was just opened. head, off and cell without a number are those of the step that it opens. */
function restore() {
  if (!location.hash.includes("=")) return false;
  const asked = new URLSearchParams(location.hash.slice(1));
  const step = STEPS[Number(asked.get("step")) - 1];
  const { open } = state;
  halt(true);
  setLine(asked.get("line") ?? FIRST.line);
  choose(asked.has("at") ? Number(asked.get("at")) : Infinity);
  warm.value = asked.get("temperature") ?? 1;
  warm.nextElementSibling.textContent = temperature().toFixed(1);
  Object.assign(state, { head: {}, off: {}, cell: {} });
  STEPS.forEach(({ name }, i) => {
    const get = (key) => asked.get(`${key}${i + 1}`) ?? (name === step?.name ? asked.get(key) : null);
    if (get("head")) state.head[name] = Number(get("head")) - 1;
    state.off[name] = get("off") ?? "";
    const [t, s] = (get("cell") ?? "").split(".").map(Number);
    if (get("cell") && Number.isInteger(t) && Number.isInteger(s)) state.cell[name] = { asked: [t, s] };
  });
  if (field.value !== FIRST.line || state.off[LARGE]) wake();
  if (step || open) unfold(step?.name ?? null);
  else draw();
  drawFigures();
  return true;
}

/* The address has changed: a moment that is shown, or a section, which keeps the moment. On the way
   back in the history a reader comes to where they were. */
function arrive() {
  const asked = new URLSearchParams(location.hash.slice(1)).get("to");
  const moves = restore();
  if (!moves) keep(location.hash.slice(1));
  if (comeTo(history.state) || !moves) return;
  const open = state.open && rows.find(({ name }) => name === state.open).item;
  const to = (asked && document.getElementById(asked)) || open || $("#race-title");
  to.scrollIntoView({ block: "start", behavior: "instant" });
}

// --- The way back in the history ---

const sections = all("main section:not(.paper)");

/* Where the reader is: in which section, and where it begins. A browser remembers the pixels of the
   page, which are others when a row is opened or a line wraps. */
function whereabouts() {
  const tops = sections.map((section) => section.getBoundingClientRect().top);
  const section = Math.max(0, tops.findLastIndex((top) => top < innerHeight / 3));
  return { section, top: tops[section] };
}

/* To such a place; false where there is none. */
function comeTo(place) {
  if (!sections[place?.section]) return false;
  for (const view of figures) if (view.stale) drawFigure(view);
  scrollBy({ top: sections[place.section].getBoundingClientRect().top - place.top, behavior: "instant" });
  return true;
}

function rememberPlaces() {
  let soon;
  const mark = () => history.replaceState(whereabouts(), "");
  history.scrollRestoration = "manual";
  addEventListener("popstate", () => {
    clearTimeout(soon); // it would mark the other moment
    arrive();
  });
  addEventListener("scroll", () => {
    clearTimeout(soon);
    soon = setTimeout(mark, 400); // Safari allows 100 in 30 seconds
  });
  addEventListener("click", ({ target }) => target.closest?.("a") && mark(), true);
}

/* Put the address into the clipboard; where that is not allowed, show it. */
async function copyLink({ target }) {
  keep();
  try {
    await navigator.clipboard.writeText(location.href);
    target.textContent = "The link is copied";
  } catch {
    target.textContent = location.href;
  }
}

function start() {
  listen();
  $("#copy").addEventListener("click", copyLink);
  setLine(FIRST.line);
  $("#note").textContent = "";
  choose(Infinity);
  watchFigures();
  rememberPlaces();
  if (location.hash.includes("=")) arrive();
  else {
    draw();
    drawFigures();
    if (!comeTo(history.state)) document.getElementById(location.hash.slice(1))?.scrollIntoView({ behavior: "instant" });
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawInsides);
}
