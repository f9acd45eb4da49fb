// What the seven make of the line: the list of all, and the row that stands in the section of a step.
"use strict";

const still = matchMedia("(prefers-reduced-motion: reduce)");
const button = $("#write"), warm = $("#temperature");
const HIGHEST = 3; // where the scale of all bars ends, whatever the line
const temperature = () => Number(warm.value);

/* A place where a step's reading of the line is shown, and the inside of the step below it. */
function newView(root, n) {
  const find = (selector) => root.querySelector(selector);
  const guess = find(".guess");
  for (let i = 0; i < 3; i++) {
    guess.append(make("li", {}, make("code"), make("small"), make("span", { class: "bar" })));
  }
  const hidden = { "aria-hidden": "true" }; // letter by letter; .least says it in words
  const typed = make("span", { class: "typed", ...hidden }), ghost = make("span", { class: "ghost", ...hidden });
  const [least, wrote] = [make("span", { class: "sr least" }), make("span", { class: "w" })];
  find(".line").append(typed, ghost, least, wrote);
  const { name, val_loss } = STEPS[n];
  find(".track").style.setProperty("--m", `${((100 * val_loss) / HIGHEST).toFixed(1)}%`);
  const cells = { row: find(".row"), button: find(".name"), line: find(".line"), output: find("output"), track: find(".track") };
  const more = { aside: find(".aside"), part: find(".part"), asleep: find(".asleep"), inside: find(".inside") };
  return { name, n, val_loss, item: root, guess, typed, ghost, least, wrote, ...cells, ...more };
}

const rows = STEPS.map((_, n) => newView($(`#row-${n + 1}`), n));
const figures = STEPS.map((_, n) => newView($(`#figure-${n + 1}`), n));
const viewsOf = (name) => [...rows, ...figures].filter((view) => view.name === name);

/* Texts and shapes that stay as they are cost nothing: what is set anew is laid out anew. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function place(element, name, value) {
  if (element.style.getPropertyValue(name) !== value) element.style.setProperty(name, value);
}

/* A character by itself; a space is drawn, as its glyph differs from font to font. */
function letter(element, token) {
  const space = token !== null && chars[token] === " ";
  put(element, token === null ? "" : space ? "space" : shown(token)); // read aloud
  element.classList.toggle("sp", space);
  return element;
}

/* The line as a step reads it: the stronger the orange, the less the step expected it. */
function drawLine({ name, n, typed, least }, reads) {
  while (typed.children.length > state.typed.length) typed.lastChild.remove();
  while (typed.children.length < state.typed.length) typed.append(make("span", { class: "c" }));
  const at = state.tokens.length ? here() : -1;
  const sees = n ? (WEIGHTS[name]?.config.block_size ?? LONGEST) : 1;
  const place_of = new Map(state.spots.map((place, i) => [place, i]));
  state.typed.forEach((char, place) => {
    const span = typed.children[place];
    const i = place_of.get(place) ?? -1;
    put(span, char);
    const loss = i > 0 && reads ? reads.losses[i] : 0;
    const shade = Math.min(1, loss / 6).toFixed(3);
    if (span.shade !== shade) span.style.setProperty("--s", (span.shade = shade));
    const kind = i < 0 ? " unknown" : i <= at && i > at - sees ? " sees" : "";
    const name = `c${kind}${i === at && i >= 0 ? " at" : ""}`;
    if (span.className !== name) span.className = name;
  });
  const worst = reads ? [...reads.losses.keys()].slice(1).sort((a, b) => reads.losses[b] - reads.losses[a]) : [];
  const told = worst.slice(0, 3).map((i) => `${quoted(idx()[i])} ${reads.losses[i].toFixed(1)}`);
  put(least, told.length ? `Least expected: ${told.join(", ")}` : "");
}

function drawGuess(view, reads) {
  const best = reads ? reads.top(here()) : [];
  const next = state.tokens[here() + 1]; // what the line goes on with
  [...view.guess.children].forEach((li, i) => {
    const [token, p] = best[i] ?? [null, 0];
    letter(li.children[0], token);
    put(li.children[1], token === null ? "" : `${Math.round(100 * p)} %`);
    place(li.children[2], "--p", p.toFixed(3));
    li.classList.toggle("true", token !== null && token === next);
  });
  const written = state.written[view.name] ?? "";
  put(view.wrote, written);
  const end = here() === idx().length - 1 && !writing && !written;
  letter(view.ghost, end && best[0] ? best[0][0] : null);
}

function drawLoss(view, reads) {
  const { name, val_loss, output, row, part, asleep, aside, track } = view;
  view.mean = reads ? mean(reads.losses) : null;
  put(output, view.mean === null ? "–" : view.mean.toFixed(2));
  row.classList.toggle("off-part", Boolean(state.off[name]));
  if (part) part.hidden = !state.off[name];
  const silent = model(name) || (reads && !failed && !loading);
  put(asleep, silent ? "" : failed ? "weights not found" : loading ? "loading …" : "asleep: 1.9 MB");
  const loss = reads && state.preview !== null ? reads.losses[here()] : null;
  const [about, value] = [loss ? `${quoted(idx()[here()])} alone ` : "unseen text ", (loss || val_loss).toFixed(2)];
  if (aside.textContent !== about + value) aside.replaceChildren(make("span", {}, about), value);
  place(track, "--l", Math.min(1, (view.mean ?? 0) / HIGHEST).toFixed(3));
  track.classList.toggle("over", view.mean > HIGHEST); // the bar ends in a point: the loss is beyond the scale
}

function drawRow(view) {
  const reads = reading(view.name);
  drawLine(view, reads);
  drawGuess(view, reads);
  drawLoss(view, reads);
}

/* How many characters of the line step 7 has not read yet. */
function unread() {
  const { tokens } = model(LARGE).kept;
  let same = 0;
  while (same < tokens.length && tokens[same] === idx()[same]) same++;
  return idx().length - same;
}

/* All rows that can be seen. What takes long, many new characters of step 7 and the insides, comes
   after the paint. */
let waiting = 0, panels = 0;
function draw() {
  const slow = model(LARGE)?.masked && unread() > 4;
  const seen = [...rows, ...figures.filter((view) => near.has(view))];
  for (const view of figures) view.stale = !near.has(view);
  for (const view of seen) if (!slow || view.name !== LARGE) drawRow(view);
  cancelAnimationFrame(waiting);
  if (slow) {
    waiting = requestAnimationFrame(() => setTimeout(() => steady(() => {
      for (const view of seen) if (view.name === LARGE) drawRow(view);
    })));
  }
  panels ||= requestAnimationFrame(() => setTimeout(() => {
    panels = 0;
    steady(drawInsides);
  }));
  announce();
}

/* What a screen reader says once the reader pauses: one sentence for all seven. */
let saying = 0, touched = false;
function announce(text) {
  clearTimeout(saying);
  if (!touched) return; // an opened page says nothing by itself
  saying = setTimeout(() => {
    const read = rows.map(({ n, mean, guess }) => `step ${n + 1} ${mean === null ? "" : mean.toFixed(2)}, next ${guess.querySelector("code").textContent}`);
    $("#said").textContent = text ?? `Loss and likeliest next letter: ${read.join("; ")}.`;
  }, 900);
}
