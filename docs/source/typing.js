// Typing, pointing at a letter, opening a step.
"use strict";

const field = $("#line"), fields = all(".mine");

const SHORT = "A short line is a small sample: here the seven may stand in another order than on the unseen text.";

/* A new line, in all fields. What a reader has to be told of it stands at the top, and below the
   field in use. */
function setLine(text, { told, used } = {}) {
  for (const one of fields) if (one.value !== text) one.value = text;
  const note = take(text);
  put($("#note"), told ?? (note || (state.tokens.length < 12 ? SHORT : "")));
  for (const one of all(".told")) put(one, used && one.parentNode.contains(used) ? note : "");
}

/* Draw, and keep the field in use where it is (before), if it is that of a section: what is above it may
   grow. */
function steady(change, before) {
  const one = document.activeElement;
  if (one === field || !fields.includes(one)) return change();
  before ??= one.getBoundingClientRect().top;
  change();
  const { top, bottom } = one.getBoundingClientRect(), by = top - before;
  if (by && bottom - by < innerHeight) scrollBy({ top: by, behavior: "instant" });
}

/* The token in front of a place in a field. */
function tokenBefore({ value }, place) {
  const before = [...value.slice(0, place)].length;
  return Math.max(0, state.spots.filter((spot) => spot < before).length - 1);
}

/* Choose a token of the line. */
function choose(at) {
  state.at = Math.max(0, Math.min(at, state.tokens.length - 1));
  state.preview = null;
}

/* Show a token for as long as it is pointed at. */
let moved = 0;
function point(at) {
  if (at === state.preview || writing) return;
  state.preview = at;
  cancelAnimationFrame(moved);
  moved = requestAnimationFrame(draw);
}

function spotOf(target) {
  if (!target.classList?.contains("c")) return null;
  const i = state.spots.indexOf([...target.parentNode.children].indexOf(target));
  return i < 0 ? null : i;
}

/* Whether a reader has just selected text, to copy it. */
const selecting = () => !getSelection().isCollapsed && !fields.includes(document.activeElement);

/* What is copied of a line: its characters, as they are. */
function copyLine(event) {
  const selection = getSelection();
  if (selection.isCollapsed || !selection.anchorNode.parentElement?.closest(".line")) return;
  event.clipboardData.setData("text/plain", String(selection).replaceAll("↵", "\n"));
  event.preventDefault();
}

function chooseLetter(view, at) {
  choose(at);
  const own = view.item.querySelector(".mine") ?? field;
  const place = [...own.value].slice(0, state.spots[at] + 1).join("").length;
  own.setSelectionRange(place, place);
  if (matchMedia("(hover: hover)").matches) own.focus({ preventScroll: true });
  draw();
  remember();
}

function listenToField(one) {
  let top; // before a browser scrolls, as it does when a field grows
  one.addEventListener("beforeinput", () => (top = one.getBoundingClientRect().top));
  one.addEventListener("input", () => {
    const before = [...state.typed, state.at].join(), wrote = writing || Object.keys(state.written).length;
    steady(() => {
      halt(true);
      setLine(one.value, { used: one });
      choose(tokenBefore(one, one.selectionStart));
      if (wrote || [...state.typed, state.at].join() !== before) draw(); // what comes after LONGEST changes nothing
    }, top);
    remember();
    wake();
  });
  one.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    button.form.requestSubmit();
  });
}

function listen() {
  // A frame around what has the focus, where a key was used last and not the pointer.
  const use = (keyboard) => () => {
    document.body.classList.toggle("by-keyboard", keyboard);
    touched = true;
  };
  addEventListener("keydown", use(true), true);
  addEventListener("pointerdown", use(false), true);
  addEventListener("input", () => (touched = true), true); // also of what is dictated
  fields.forEach(listenToField);
  document.addEventListener("copy", copyLine);
  document.addEventListener("selectionchange", () => {
    const one = document.activeElement;
    if (!fields.includes(one)) return;
    const at = tokenBefore(one, one.selectionEnd);
    if (at === state.at) return;
    choose(at);
    draw();
    remember();
  });
  for (const view of [...rows, ...figures]) {
    view.item.addEventListener("pointermove", ({ pointerType, target }) => {
      if (pointerType === "mouse") point(spotOf(target));
    });
    view.item.addEventListener("pointerleave", () => point(null));
    view.row.addEventListener("click", ({ target }) => {
      if (selecting()) return;
      const at = spotOf(target);
      if (at !== null) chooseLetter(view, at);
      else if (view.button) unfold(state.open === view.name ? null : view.name);
    });
  }
  for (const example of all("[data-line]")) {
    example.addEventListener("click", () => {
      halt(true);
      setLine(example.dataset.line, { told: example.dataset.why });
      choose(Infinity);
      draw();
      remember();
      wake();
    });
  }
  warm.addEventListener("input", () => {
    warm.nextElementSibling.textContent = temperature().toFixed(1);
    draw();
    remember();
    wake();
  });
  button.form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (writing) halt();
    else write();
  });
}

/* Open a row, and close the one that was open. What was clicked stays where it is. */
function unfold(name) {
  const to = rows.find((one) => one.name === (name ?? state.open));
  const before = to.item.getBoundingClientRect().top;
  state.open = name;
  for (const { button, inside, name: own } of rows) {
    button.setAttribute("aria-expanded", String(own === name));
    inside.hidden = own !== name;
    if (own !== name) inside.replaceChildren();
  }
  if (name === LARGE) wake(true);
  draw();
  remember();
  if (name) drawInside(to);
  scrollBy({ top: to.item.getBoundingClientRect().top - before, behavior: "instant" });
  if (name) settle(to);
}

const SHOWN = 300; // pixels of an inside that are in view when it opens, or all of it

/* Scroll as little as shows a row's own line and the beginning of its inside. */
function settle({ row, inside }) {
  const { top } = row.getBoundingClientRect(), { top: start, height } = inside.getBoundingClientRect();
  const above = top - $("nav.steps").offsetHeight - 4;
  const below = start + Math.min(height, SHOWN) - innerHeight;
  const by = Math.min(above, Math.max(0, below));
  if (by) scrollBy({ top: by, behavior: still.matches ? "instant" : "smooth" });
}
