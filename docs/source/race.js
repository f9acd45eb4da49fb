// The race: one line, seven models that read it and write on.
"use strict";

const DATA = JSON.parse(document.getElementById("live-data").textContent);
Object.assign(WEIGHTS, DATA.weights);
const FIRST = DATA.first; // the line at first, and what step 7 makes of it before it is loaded
const STEPS = DATA.steps; // { name, title, val_loss } of each
const LARGE = STEPS.at(-1).name;
const LONGEST = 64; // characters of the line: what step 7 sees at once
const PACE = 80; // milliseconds a character, when all write
const chars = [...DATA.chars];
const token_of = new Map(chars.map((char, token) => [char, token]));
const still = matchMedia("(prefers-reduced-motion: reduce)");
const field = $("#line"), button = $("#write"), warm = $("#temperature");

/* The line: its characters, those that the models know as tokens, and where each token stands.
   at: the chosen token; preview: the one that is pointed at; off: what is switched off, by step;
   cell: the one that the address asks for. */
const state = { typed: [], tokens: [], spots: [], at: 0, preview: null, open: null, head: {}, off: {}, cell: null };
const idx = () => (state.tokens.length ? state.tokens : [0]); // without a line: a line break
const here = () => Math.min(state.preview ?? state.at, idx().length - 1);
const temperature = () => Number(warm.value);
const shown = (token) => ({ "\n": "↵", " ": "␣" })[chars[token]] ?? chars[token];
const quoted = (token) => `“${shown(token)}”`;

// --- What the models make of the line ---

const models = {};

/* The model of a step with what is switched off, or nothing while its weights are not loaded. */
function model(name) {
  const off = state.off[name] ?? "";
  if (models[name]?.off === off) return models[name];
  if (!WEIGHTS[name]) return undefined;
  const whole = original(name);
  const one = off ? new LanguageModel(name, changed(whole.p, new Set(off.split(".")))) : whole;
  one.off = off;
  one.masked = !off.split(".").includes("mask");
  one.read ??= new Map();
  one.kept ??= { past: LanguageModel.past(), tokens: [], rows: [] };
  return (models[name] = one);
}

const originals = {};
function original(name) {
  originals[name] ??= Object.assign(new LanguageModel(name), { off: "", masked: true, read: new Map() });
  originals[name].kept ??= { past: LanguageModel.past(), tokens: [], rows: [] };
  return originals[name];
}

/* The probabilities (V,) after each position of a line (N,). Each position sees the block_size
   characters up to its own. In pieces: the line is cut into windows, and a window is read at once,
   as in training; without the mask this is the only way, since there the future counts. */
function read(one, line, pieces = !one.masked) {
  const T = one.block_size;
  if (pieces) {
    const rows = [];
    for (let start = 0; start < line.length; start += T) {
      const past = LanguageModel.past(one.masked);
      rows.push(...one.forward(line.slice(start, start + T), past).map(softmax));
    }
    return rows;
  }
  if (line.length <= T && T > 8) return readOn(one, line);
  if (one.read.size > 3000) one.read.clear();
  return line.map((_, i) => {
    const key = line.slice(Math.max(0, i + 1 - T), i + 1).join();
    if (!one.read.has(key)) {
      const end = Math.max(i + 1, Math.min(T, line.length)); // causal: the rows before count, too
      const window = line.slice(Math.max(0, i + 1 - T), end);
      one.forward(window).forEach((logits, t) => {
        one.read.set(window.slice(0, t + 1).join(), softmax(logits));
      });
    }
    return one.read.get(key);
  });
}

/* The large model computes only what is new since the last line. */
function readOn(one, line) {
  const { past, tokens, rows } = one.kept;
  let same = 0;
  while (same < tokens.length && same < line.length && tokens[same] === line[same]) same++;
  for (const { k, v } of past.heads.values()) k.length = v.length = same;
  past.length = rows.length = tokens.length = same;
  if (same < line.length) {
    rows.push(...one.forward(line.slice(same), past).map(softmax));
    tokens.push(...line.slice(same));
  }
  return rows;
}

/* The loss of each token of a line; nothing predicts the first. */
const lossesOf = (rows, line) => line.map((token, i) => (i ? -Math.log(rows[i - 1][token]) : null));
const mean = (losses) => {
  const all = losses.slice(1);
  return all.length ? all.reduce((a, b) => a + b) / all.length : null;
};

/* The n likeliest tokens with their probabilities. */
function likeliest(probs, n) {
  const best = [];
  for (let token = 0; token < probs.length; token++) {
    if (best.length === n && probs[token] <= best[n - 1][1]) continue;
    best.push([token, probs[token]]);
    best.sort((a, b) => b[1] - a[1]);
    if (best.length > n) best.pop();
  }
  return best;
}

/* Probabilities at the chosen temperature: softmax(logits / temperature). */
function heated(probs) {
  if (temperature() === 1) return probs;
  return softmax(probs.map((p) => Math.log(Math.max(p, 1e-300)) / temperature()));
}

/* What a step makes of the line: the loss of each token, and the likeliest after a position. */
function reading(name) {
  const line = idx();
  const one = model(name);
  if (!one) {
    if (line.map((token) => chars[token]).join("") !== FIRST.line) return null;
    return { losses: [null, ...FIRST.losses], top: (at) => FIRST.top[at] ?? [] };
  }
  const rows = read(one, line);
  return { losses: lossesOf(rows, line), top: (at) => likeliest(heated(rows[at]), 3) };
}

// --- The rows ---

const rows = STEPS.map(({ name, val_loss }, n) => {
  const row = $(`#row-${n + 1}`);
  const find = (selector) => row.querySelector(selector);
  const guess = find(".guess");
  for (let i = 0; i < 3; i++) {
    guess.append(make("li", {}, make("code"), make("small"), make("span", { class: "bar" })));
  }
  const ghost = make("span", { class: "ghost", "aria-hidden": "true" });
  const [typed, wrote] = ["typed", "w"].map((name) => make("span", { class: name }));
  find(".line").append(typed, ghost, wrote);
  const head = { row: find(".row"), button: find(".name"), line: find(".line"), guess, typed, ghost };
  const tail = { wrote, output: find("output"), track: find(".track"), aside: find(".aside") };
  return { name, n, val_loss, item: row, inside: find(".inside"), ...head, ...tail };
});
$("#race").addEventListener("pointerleave", () => point(null));

/* A character by itself; a space is drawn, as its glyph differs from font to font. */
function letter(element, token) {
  const space = token !== null && chars[token] === " ";
  element.textContent = token === null ? "" : space ? "space" : shown(token); // read aloud
  element.classList.toggle("sp", space);
  return element;
}

/* The line as a step reads it: the stronger the orange, the less the step expected it. */
function drawLine({ name, n, typed }, reads) {
  while (typed.children.length > state.typed.length) typed.lastChild.remove();
  while (typed.children.length < state.typed.length) typed.append(make("span", { class: "c" }));
  const at = state.tokens.length ? here() : -1;
  const sees = n ? (WEIGHTS[name]?.config.block_size ?? LONGEST) : 1;
  state.typed.forEach((char, place) => {
    const span = typed.children[place];
    const i = state.spots.indexOf(place);
    const glyph = char === "\n" ? "↵" : char;
    if (span.textContent !== glyph) span.textContent = glyph;
    const loss = i > 0 && reads ? reads.losses[i] : 0;
    const shade = Math.min(1, loss / 6).toFixed(3);
    if (span.shade !== shade) span.style.setProperty("--s", (span.shade = shade));
    const kind = i < 0 ? " unknown" : i > at ? " later" : i > at - sees ? " sees" : "";
    const name = `c${kind}${i === at && i >= 0 ? " at" : ""}`;
    if (span.className !== name) span.className = name;
  });
}

function drawGuess(row, reads) {
  const best = reads ? reads.top(here()) : [];
  const next = state.tokens[here() + 1]; // what the line goes on with
  [...row.guess.children].forEach((li, i) => {
    const [token, p] = best[i] ?? [null, 0];
    letter(li.children[0], token);
    li.children[1].textContent = token === null ? "" : `${Math.round(100 * p)} %`;
    li.children[2].style.setProperty("--p", p.toFixed(3));
    li.className = token !== null && token === next ? "true" : "";
  });
  const end = here() === idx().length - 1 && !writing && !row.wrote.textContent;
  letter(row.ghost, end && best[0] ? best[0][0] : null);
}

function drawLoss(row, reads) {
  row.mean = reads ? mean(reads.losses) : null;
  row.output.textContent = row.mean === null ? "–" : row.mean.toFixed(2);
  const loss = reads && state.preview !== null ? reads.losses[here()] : null;
  row.row.classList.toggle("off-part", Boolean(state.off[row.name]));
  let said = "";
  if (loss) said = `${quoted(idx()[here()])} alone ${loss.toFixed(2)}`;
  else if (state.off[row.name]) said = "with a part off";
  else if (!reads) said = loading ? "loading …" : "asleep: 1.9 MB";
  if (failed && !reads) said = "weights not found";
  row.aside.textContent = said;
}

/* One scale for all bars, from 0 to 3, or to the largest where a line is harder than that. */
function rescale() {
  const scale = Math.max(3, ...rows.map((row) => row.mean ?? 0));
  for (const { track, mean, val_loss } of rows) {
    track.style.setProperty("--l", ((mean ?? 0) / scale).toFixed(3));
    track.style.setProperty("--m", `${((100 * val_loss) / scale).toFixed(1)}%`);
  }
}

function drawRow(row) {
  const reads = reading(row.name);
  drawLine(row, reads);
  drawGuess(row, reads);
  drawLoss(row, reads);
}

/* All rows; what takes long, many new characters of step 7 and the open row, after the paint. */
let waiting = 0, panel = 0;
function draw() {
  let late = null;
  for (const row of rows) {
    const one = row.name === LARGE && model(LARGE);
    if (one && one.masked) {
      const { tokens } = one.kept;
      let same = 0;
      while (same < tokens.length && tokens[same] === idx()[same]) same++;
      if (idx().length - same > 4) {
        late = row;
        continue;
      }
    }
    drawRow(row);
  }
  rescale();
  cancelAnimationFrame(waiting);
  if (late) {
    waiting = requestAnimationFrame(() => setTimeout(() => (drawRow(late), rescale())));
  }
  if (state.open && !panel) {
    panel = requestAnimationFrame(() => setTimeout(() => {
      panel = 0;
      if (state.open) drawInside();
    }));
  }
}

// --- Typing, pointing, opening ---

/* The characters of the field; those that no model knows are shown, and struck out. */
function take(text) {
  state.typed = [...text.replace(/\s/g, (char) => (token_of.has(char) && char !== "\n" ? char : " "))];
  state.typed.length = Math.min(state.typed.length, LONGEST);
  state.spots = [...state.typed.keys()].filter((place) => token_of.has(state.typed[place]));
  state.tokens = state.spots.map((place) => token_of.get(state.typed[place]));
  const unknown = [...new Set(state.typed.filter((char) => !token_of.has(char)))];
  let note = unknown.length ? `Not in the text they learnt from: ${unknown.join(" ")}` : "";
  if (!state.tokens.length) note ||= "Nothing yet: they go on from a line break.";
  $("#note").textContent = note;
  state.preview = null;
}

/* The token in front of a place in the field. */
function tokenBefore(place) {
  const before = [...field.value.slice(0, place)].length;
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

/* Whether a key was used last: then what has the focus gets a frame. */
let byKey = false;

function listen() {
  addEventListener("keydown", () => (byKey = true), true);
  addEventListener("pointerdown", () => (byKey = false), true);
  field.addEventListener("input", () => {
    halt(true);
    take(field.value);
    choose(tokenBefore(field.selectionStart));
    draw();
    remember();
    wake();
  });
  document.addEventListener("selectionchange", () => {
    if (document.activeElement !== field) return;
    const at = tokenBefore(field.selectionEnd);
    if (at === state.at) return;
    choose(at);
    draw();
    remember();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    button.form.requestSubmit();
  });
  $("#race").addEventListener("pointermove", ({ pointerType, target }) => {
    if (pointerType === "mouse") point(spotOf(target));
  });
  $("#race").addEventListener("click", ({ target }) => {
    const row = rows.find((one) => one.row.contains(target));
    if (!row) return;
    const at = spotOf(target);
    if (at === null) return unfold(state.open === row.name ? null : row.name);
    choose(at);
    const place = [...state.typed.slice(0, state.spots[at] + 1)].join("").length;
    field.setSelectionRange(place, place);
    if (matchMedia("(hover: hover)").matches) field.focus({ preventScroll: true });
    draw();
    remember();
  });
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
  addEventListener("hashchange", () => {
    if (!restore()) return;
    const open = state.open && rows.find(({ name }) => name === state.open).item;
    const to = (state.off[state.open] && open.querySelector(".switches")) || open || $("#race-title");
    to.scrollIntoView({ block: to === open ? "start" : "center", behavior: "instant" });
  });
}

/* Open a row, and close the one that was open. What was clicked stays where it is. */
function unfold(name) {
  const to = rows.find((one) => one.name === (name ?? state.open));
  const before = to.item.getBoundingClientRect().top;
  state.open = name;
  for (const row of rows) {
    row.button.setAttribute("aria-expanded", String(row.name === name));
    row.inside.hidden = row.name !== name;
    if (row.name !== name) row.inside.replaceChildren();
  }
  if (name === LARGE) wake();
  draw();
  remember();
  if (name) drawInside();
  scrollBy({ top: to.item.getBoundingClientRect().top - before, behavior: "instant" });
  if (name) settle(to);
}

/* Scroll as little as shows all of a row, or its top where it is higher than the window. */
function settle({ item }) {
  const { top, bottom } = item.getBoundingClientRect();
  const over = Math.min(top - 56, bottom - innerHeight + 8);
  if (over > 0) scrollBy({ top: over, behavior: still.matches ? "instant" : "smooth" });
}

/* Step 7 wakes on first use: its weights are a script beside the page, which works from disk. */
let loading = null, failed = false;
function wake() {
  loading ??= new Promise((done) => {
    const script = make("script", { src: DATA.beside });
    script.addEventListener("load", () => {
      setTimeout(() => {
        draw();
        if (state.open === LARGE) drawInside(), settle(rows.at(-1));
        done();
      });
    });
    script.addEventListener("error", () => {
      failed = true;
      draw();
      if (state.open === LARGE) drawInside();
      done();
    });
    document.head.append(script);
  });
  return loading;
}

// --- All write ---

let writing = false, runs = 0, seed = 1337;
const room = () => {
  const { line } = rows[0];
  const width = parseFloat(getComputedStyle(line).fontSize) * 0.603;
  return Math.max(24, Math.floor(line.clientWidth / width) * 2 - state.typed.length - 2);
};

/* Every step goes on from the line, all at one pace, and with the same random numbers. */
async function write() {
  const run = ++runs;
  writing = true;
  button.textContent = "Stop";
  document.body.classList.add("busy");
  state.preview = null;
  await wake();
  if (run !== runs || !writing) return;
  const pens = rows.filter(({ name }) => model(name)).map((row) => {
    row.wrote.textContent = "";
    letter(row.ghost, null);
    row.line.classList.remove("rest");
    const letters = model(row.name).generate([...idx()], temperature, generator(seed));
    return { row, letters };
  });
  seed++;
  state.at = idx().length - 1;
  draw();
  let left = room();
  const lump = still.matches ? 12 : 1; // no character by character where motion is not wanted
  const pause = still.matches ? 300 : PACE;
  let due = performance.now();
  const tick = () => {
    if (run !== runs || !writing) return;
    for (let i = 0; i < lump && left > 0; i++, left--) {
      for (const { row, letters } of pens) {
        row.wrote.textContent += shown(letters.next().value).replace("␣", " ");
      }
    }
    if (left <= 0) return halt();
    due = Math.max(due + pause, performance.now());
    setTimeout(tick, due - performance.now());
  };
  tick();
}

function halt(forget) {
  writing = false;
  document.body.classList.remove("busy");
  for (const row of rows) {
    row.line.classList.add("rest");
    if (forget) row.wrote.textContent = "";
  }
  button.textContent = rows[0].wrote.textContent ? "Write anew" : "Write";
}

// --- The address holds the moment ---

let later;
function remember() {
  clearTimeout(later);
  later = setTimeout(() => {
    const parts = new URLSearchParams();
    if (field.value !== FIRST.line) parts.set("line", field.value);
    if (state.at !== state.tokens.length - 1) parts.set("at", state.at);
    if (temperature() !== 1) parts.set("temperature", warm.value);
    if (state.open) {
      parts.set("step", STEPS.findIndex(({ name }) => name === state.open) + 1);
      if (state.head[state.open] !== undefined) parts.set("head", state.head[state.open] + 1);
      if (state.off[state.open]) parts.set("off", state.off[state.open]);
      if (cell.kept && state.open !== STEPS[0].name) parts.set("cell", `${cell.t}.${cell.s}`);
    }
    const hash = String(parts);
    if (hash !== location.hash.slice(1)) {
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    }
  }, 300);
}

/* What the address asks for; true where it asks for anything. */
function restore() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const step = STEPS[Number(asked.get("step")) - 1];
  if (!location.hash.includes("=")) return false;
  halt(true);
  field.value = asked.get("line") ?? FIRST.line;
  take(field.value);
  choose(Number(asked.get("at") ?? Infinity));
  warm.value = asked.get("temperature") ?? 1;
  warm.nextElementSibling.textContent = temperature().toFixed(1);
  if (field.value !== FIRST.line) wake();
  if (!step) return draw(), true;
  state.head[step.name] = asked.has("head") ? Number(asked.get("head")) - 1 : undefined;
  state.off[step.name] = asked.get("off") ?? "";
  const [t, s] = (asked.get("cell") ?? "").split(".").map(Number);
  state.cell = Number.isInteger(t) && Number.isInteger(s) ? [t, s] : null;
  cell.key = "";
  unfold(step.name);
  return true;
}

function start() {
  listen();
  field.value = FIRST.line;
  field.maxLength = LONGEST;
  take(field.value);
  choose(Infinity);
  if (!restore()) draw();
  if (!location.hash && matchMedia("(hover: hover)").matches) {
    field.focus({ preventScroll: true });
    field.setSelectionRange(field.value.length, field.value.length);
  }
}
