// What the page does with the models of model.js: every part of it that a reader can touch.
"use strict";

/* The characters that the models know, and a text as tokens: those they do not know stand aside. */
class Vocabulary {
  constructor(chars) {
    this.chars = [...chars];
    this.token_of = new Map(this.chars.map((char, token) => [char, token]));
  }

  encode(text) {
    const all = [...text];
    const known = all.filter((char) => this.token_of.has(char));
    const unknown = [...new Set(all)].filter((char) => !this.token_of.has(char));
    return { tokens: known.map((char) => this.token_of.get(char)), unknown };
  }

  decode(tokens) {
    return tokens.map((token) => this.chars[token]).join("");
  }
}

const DATA = JSON.parse(document.getElementById("live-data").textContent);
Object.assign(WEIGHTS, DATA.weights);
const vocabulary = new Vocabulary(DATA.chars);
const SHOWN = 64; // characters of the line that are read: what step 7 sees at once
const AT_ONCE = 300; // characters that a step writes before it waits
const still = matchMedia("(prefers-reduced-motion: reduce)");
// the line; the position that is shown, and the chosen one to which it returns; the chosen heads
const state = { tokens: [], at: 0, chosen: 0, head: {} };
const models = {};

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const percent = (share) =>
  share < 0.0005 ? "<0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
const visible = (char) => ({ "\n": "↵", " ": "␣" })[char] ?? char;
const shown = (token) => visible(vocabulary.chars[token]);
const spoken = (char) => ({ "\n": "line break", " ": "space", "\t": "tab" })[char] ?? char;
const nats = (loss) => `${loss.toFixed(2)} nats`;

/* An element with these attributes and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// --- What the models make of the line ---

/* The model of a step, or nothing while its weights are not loaded. */
function model(name) {
  if (!models[name] && WEIGHTS[name]) {
    models[name] = new LanguageModel(name);
    models[name].read = new Map();
  }
  return models[name];
}

/* The context of position i of idx: it and those before, at most block_size of them. */
const context = (one, idx, i) => idx.slice(Math.max(0, i + 1 - one.block_size), i + 1);

/* At each position of idx: the probabilities (V,) of what follows, and what each head looks at, as
   weights of the position's context. A position's context moves along with it. */
function read(name, idx) {
  const one = model(name);
  if (one.read.size > 2000) one.read.clear();
  return idx.map((_, i) => {
    const key = context(one, idx, i).join();
    if (!one.read.has(key)) {
      // causal: a row is what its position would have been given if the line ended there
      const window = context(one, idx, Math.max(i, Math.min(one.block_size, idx.length) - 1));
      const past = LanguageModel.past();
      one.forward(window, past).forEach((logits, t) => {
        const weights = past.weights.map((rows) => rows[t]);
        one.read.set(window.slice(0, t + 1).join(), { logits, probs: softmax(logits), weights });
      });
    }
    return one.read.get(key);
  });
}

/* The loss of each character of idx, in nats; the first was not predicted. */
function losses(readings, idx) {
  return idx.map((token, i) => (i ? -Math.log(readings[i - 1].probs[token]) : null));
}

/* The likeliest tokens, at most n, in their order. */
function likeliest(probs, n) {
  return [...probs.keys()].sort((a, b) => probs[b] - probs[a]).slice(0, n);
}

// --- The line ---

/* The line as the models read it, and what has to be said of it, aloud where it is typed. */
function take(text, field) {
  const { tokens, unknown } = vocabulary.encode(text);
  const notes = [];
  if (tokens.length > SHOWN) {
    notes.push(`The last ${SHOWN} of ${tokens.length} characters are read.`);
  }
  if (!tokens.length) {
    notes.push("No characters: the models go on from a line break, as the scripts do.");
  }
  if (unknown.length) {
    const names = unknown.map(spoken).join(", ");
    notes.push(`Not in the vocabulary, and left out: ${names}`);
  }
  state.tokens = tokens.length ? tokens.slice(-SHOWN) : [0];
  state.at = state.chosen = state.tokens.length - 1;
  for (const note of all(".note")) {
    note.setAttribute("aria-live", note.previousElementSibling.contains(field) ? "polite" : "off");
    note.textContent = notes.join(" ");
  }
}

/* Choose a position of the line. */
function choose(at, focus) {
  state.at = state.chosen = Math.max(0, Math.min(at, state.tokens.length - 1));
  const strip = focus?.closest(".strip");
  draw();
  strip?.children[state.at].focus();
}

/* The cells of a strip, one for each character, kept as they are where the number stays. */
function cells(strip, tag) {
  while (strip.children.length > state.tokens.length) strip.lastChild.remove();
  while (strip.children.length < state.tokens.length) {
    const glyph = make("span", { class: "char" });
    const look = make("span", { class: "look" });
    strip.append(make(tag, { type: tag === "button" && tag, class: "cell" }, glyph, look));
  }
  return [...strip.children];
}

/* The line on a strip: orange by loss, blue by the weights of the chosen position, where given. */
function drawStrip(strip, tag, lost, weights, sees = Infinity) {
  const first = state.at + 1 - (weights?.length ?? 0);
  cells(strip, tag).forEach((cell, i) => {
    const char = vocabulary.chars[state.tokens[i]];
    const [glyph, look] = cell.children;
    glyph.textContent = visible(char);
    const weight = weights && i <= state.at ? weights[i - first] : undefined;
    look.textContent = weight === undefined ? "" : (100 * weight).toFixed(0);
    cell.style.setProperty("--loss", `${lost?.[i] ? Math.min(9 * lost[i], 45) : 0}%`);
    cell.style.setProperty("--weight", `${weight ? 45 * weight : 0}%`);
    cell.classList.toggle("chosen", i === state.at);
    cell.classList.toggle("seen", i <= state.at && i > state.at - sees);
    if (tag !== "button") return;
    let name = `${spoken(char)}, position ${i}`;
    if (lost?.[i]) name += `, loss ${lost[i].toFixed(2)}`;
    if (weight !== undefined) name += `, looked at ${percent(weight)}`;
    cell.setAttribute("aria-label", name);
    cell.setAttribute("aria-pressed", i === state.chosen);
    cell.tabIndex = i === state.chosen ? 0 : -1;
  });
}

/* How far back a step sees: the table of step 1 sees one character. */
const sees = (name) => (name === "01_bigram" ? 1 : WEIGHTS[name].config.block_size);

/* All that depends on the line and the chosen position. */
function draw() {
  const line = document.querySelector("#live .strip");
  if (line) drawStrip(line, "button");
  all("[data-rung]").forEach(drawRung);
  all(".try").forEach(drawStep);
}

/* One step's row of the table of all steps. */
function drawRung(rung) {
  const name = rung.dataset.rung;
  rung.hidden = !WEIGHTS[name];
  if (rung.hidden) return;
  const readings = read(name, state.tokens);
  const lost = losses(readings, state.tokens);
  const rest = lost.slice(1);
  const mean = rest.reduce((a, b) => a + b, 0) / rest.length;
  const { probs } = readings[state.at];
  const far = sees(name);
  rung.querySelector(".sees").textContent =
    far === 1 ? "sees 1 character" : `sees up to ${far} characters`;
  rung.querySelector(".mean").textContent = rest.length ? mean.toFixed(2) : "–";
  const next = likeliest(probs, 3).map((token) =>
    make("span", {}, make("code", {}, shown(token)), ` ${percent(probs[token])}`),
  );
  const token = state.tokens[state.at + 1]; // what the line goes on with
  if (token !== undefined) {
    const loss = `${percent(probs[token])}, loss ${lost[state.at + 1].toFixed(2)}`;
    next.push(make("small", {}, "in your line ", make("code", {}, shown(token)), ` ${loss}`));
  }
  rung.querySelector(".next").replaceChildren(...next);
  const ribbon = rung.querySelector(".ribbon");
  if (!ribbon.firstChild) ribbon.append(make("div", { class: "strip small", role: "img" }));
  drawStrip(ribbon.firstChild, "span", lost, undefined, far);
  let label = "One character";
  if (rest.length) {
    const worst = lost.indexOf(Math.max(...rest));
    const char = spoken(vocabulary.chars[state.tokens[worst]]);
    label = `The least expected character: ${char}, ${nats(lost[worst])}`;
  }
  ribbon.firstChild.setAttribute("aria-label", label);
}

/* One step in detail. */
function drawStep(box) {
  const name = box.dataset.step;
  if (!WEIGHTS[name]) return;
  const readings = read(name, state.tokens);
  const lost = losses(readings, state.tokens);
  const { probs, weights } = readings[state.at];
  const chosen = state.head[name] ?? 0;
  drawStrip(box.querySelector(".strip"), "button", lost, weights[chosen], sees(name));
  drawItself(box, readings);
  drawBars(box, probs);
  if (weights.length) drawHeads(box, readings, chosen);
}

/* How well a step expected a token: its place among all, its probability and its loss. */
function expected(probs, token) {
  const place = likeliest(probs, probs.length).indexOf(token) + 1;
  const loss = -Math.log(probs[token]);
  return `place ${place} of ${probs.length}, loss −ln ${probs[token].toFixed(4)} = ${nats(loss)}`;
}

/* How well a step expected the chosen character itself. */
function drawItself(box, readings) {
  const [token, before] = [state.tokens[state.at], readings[state.at - 1]];
  const said = before ? expected(before.probs, token) : "the line begins with it";
  box.querySelector(".itself").textContent = `“${shown(token)}” itself: ${said}.`;
}

/* What a step expects after the chosen position, and what the line has there. */
function drawBars(box, probs) {
  const next = state.tokens[state.at + 1];
  const listed = likeliest(probs, 8);
  if (next !== undefined && !listed.includes(next)) listed.push(next);
  const rows = listed.map((token) =>
    make(
      "li",
      { class: token === next ? "true" : "", "--p": `${100 * probs[token]}%` },
      make("code", {}, shown(token)),
      make("span", { class: "bar" }),
      make("span", {}, percent(probs[token])),
    ),
  );
  box.querySelector(".bars").replaceChildren(...rows);
  const here = `After “${shown(state.tokens[state.at])}”`;
  let after = `${here}, where your line ends, the likeliest are:`;
  if (next !== undefined) {
    after = `${here} your line goes on with “${shown(next)}”: ${expected(probs, next)}.`;
  }
  box.querySelector(".after").textContent = after;
}

/* What a head is called: steps from 5 on have several layers. */
function headName(name, i) {
  const { n_layer, n_head } = WEIGHTS[name].config;
  if (!n_head) return "the head";
  if (!n_layer) return `head ${i + 1}`;
  return `layer ${1 + Math.floor(i / n_head)}, head ${1 + (i % n_head)}`;
}

/* The weights of each head from the chosen position, and one head in words. */
function drawHeads(box, readings, chosen) {
  const name = box.dataset.step;
  const { weights } = readings[state.at];
  const seen = context(model(name), state.tokens, state.at);
  const few = model(name).block_size <= 8; // as many columns fit
  const place = box.querySelector(".heads-of");
  if (!place.firstChild) {
    const rows = weights.map((_, i) => {
      const radio = make("input", { type: "radio", name: `head-${name}`, value: i });
      radio.checked = i === chosen;
      const label = make("label", {}, radio, ` ${headName(name, i)}`);
      return make("tr", {}, make("th", { scope: "row" }, label));
    });
    const body = make("tbody", {}, ...rows);
    place.append(make("table", { class: "weights" }, make("thead", {}, make("tr")), body));
  }
  const [head, body] = place.firstChild.children;
  const columns = few
    ? seen.map((token) => make("th", { scope: "col" }, shown(token)))
    : [make("th", { scope: "col", class: "most" }, "looks most at, in %")];
  head.firstChild.replaceChildren(make("th", { scope: "col" }, "head"), ...columns);
  weights.forEach((row, i) => {
    const most = likeliest(row, 3).map(
      (s) => `${shown(seen[s])} ${(100 * row[s]).toFixed(0)} (${seen.length - 1 - s})`,
    );
    const values = few
      ? [...row].map((w) => make("td", { "--w": `${100 * w}%` }, (100 * w).toFixed(0)))
      : [make("td", {}, most.join(", "))];
    while (body.children[i].children.length > 1) body.children[i].lastChild.remove();
    body.children[i].append(...values);
    body.children[i].classList.toggle("chosen", i === chosen);
  });
  box.querySelector(".summary").textContent = inWords(name, readings, chosen, seen);
}

/* What a head looks at, from here and over the whole line. */
function inWords(name, readings, chosen, seen) {
  const row = readings[state.at].weights[chosen];
  const back = (n) => ["itself", "the character before"][n] ?? `${n} back`;
  const here = likeliest(row, 3).map(
    (s) => `“${shown(seen[s])}” (${back(seen.length - 1 - s)}) ${percent(row[s])}`,
  );
  const sums = []; // of weight at each distance
  const full = readings.slice(1); // the first character can look at nothing but itself
  for (const { weights } of full) {
    const one = weights[chosen];
    one.forEach((w, s) => {
      const n = one.length - 1 - s;
      sums[n] = (sums[n] ?? 0) + w / full.length;
    });
  }
  const title = headName(name, chosen);
  let text = `From “${shown(seen.at(-1))}”, ${title} looks at ${here.join(", ")}.`;
  if (full.length > 1) {
    const order = likeliest(sums, 3).map((n) => `${back(n)} ${percent(sums[n])}`);
    text += ` On average over this line: ${order.join(", ")}.`;
  }
  return text;
}

// --- What the reader does ---

function listen() {
  addEventListener("input", ({ target }) => {
    if (!target.matches(".line")) return;
    for (const other of all(".line")) if (other !== target) other.value = target.value;
    take(target.value, target);
    draw();
  });
  addEventListener("change", ({ target }) => {
    if (!target.name?.startsWith("head-")) return;
    state.head[target.name.slice(5)] = Number(target.value);
    draw();
  });
  const position = (target) => {
    const cell = target.closest?.(".strip > .cell");
    return cell ? [...cell.parentNode.children].indexOf(cell) : -1;
  };
  addEventListener("click", ({ target }) => {
    if (position(target) >= 0) choose(position(target), target);
  });
  let where = ""; // the pointer: one that rests leaves the choice to the keys
  addEventListener("pointermove", ({ pointerType, clientX, clientY, target }) => {
    const moved = where !== (where = `${clientX} ${clientY}`);
    if (pointerType !== "mouse" || !moved) return;
    const at = position(target) >= 0 ? position(target) : state.chosen;
    if (at === state.at) return;
    state.at = at; // shown while the pointer is there; a click chooses it
    draw();
  });
  addEventListener("keydown", (event) => {
    const at = position(event.target);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: Infinity }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    choose(to, event.target);
  });
}

// --- A step writes ---

function writer(box) {
  const names = [".write", ".stop", ".again", ".temperature", ".seed", ".written", ".how"];
  const [write, stop, again, warm, seed, paper, how] = names.map((name) => box.querySelector(name));
  let tokens; // the generator, kept when the reader stops
  let writing = 0; // which run: an old one ends when a new one has begun
  const buttons = (busy) => {
    write.disabled = busy;
    stop.disabled = !busy;
    again.disabled = !paper.firstChild;
  };
  const begin = () => {
    const random = generator(Number(seed.value));
    tokens = model(box.dataset.step).generate([...state.tokens], Number(warm.value), random);
    paper.replaceChildren(make("span", { class: "given" }, vocabulary.decode(state.tokens)), "");
    how.textContent = `Seed ${seed.value}, temperature ${warm.nextElementSibling.textContent}`;
  };
  const go = () => {
    const run = ++writing;
    const own = paper.lastChild;
    let rest = AT_ONCE;
    buttons(true);
    const next = () => {
      if (run !== writing) return;
      const start = performance.now();
      do own.data += vocabulary.chars[tokens.next().value];
      while (--rest && still.matches && performance.now() - start < 200); // still: in lumps
      paper.scrollTop = paper.scrollHeight;
      if (rest) setTimeout(next, still.matches ? 0 : 25);
      else end();
    };
    next();
  };
  const end = () => {
    const here = document.activeElement === stop; // a button that is off loses the focus
    writing++;
    buttons(false);
    if (here) write.focus();
  };
  const forget = () => {
    if (writing) end();
    tokens = undefined; // what is written stays; from here on it would be another text
  };
  write.addEventListener("click", () => {
    if (!seed.reportValidity()) return;
    if (!tokens) begin();
    go();
    stop.focus();
  });
  stop.addEventListener("click", end);
  again.addEventListener("click", () => {
    if (!seed.reportValidity()) return;
    begin();
    go();
  });
  warm.addEventListener("input", () => {
    warm.nextElementSibling.textContent = Number(warm.value).toFixed(1);
    forget();
  });
  seed.addEventListener("input", forget);
  addEventListener("input", ({ target }) => target.matches(".line") && forget());
}

/* The weights of a step from a file beside the page: a script, which works from disk, too. */
function loader(button) {
  const box = document.querySelector(button.dataset.box);
  const [buttons, failed] = [all(".load"), button.closest(".ask").nextElementSibling];
  button.addEventListener("click", () => {
    for (const one of buttons) one.disabled = true;
    failed.textContent = "Loading …";
    const script = make("script", { src: button.dataset.file });
    script.addEventListener("load", () => {
      for (const one of all(".ask")) one.hidden = true;
      box.querySelector(".loaded").hidden = false;
      failed.textContent = `Loaded: ${WEIGHTS[box.dataset.step].made_from}.`;
      draw();
      const near = button.closest("section").querySelector(".line");
      near.focus();
    });
    script.addEventListener("error", () => {
      for (const one of buttons) one.disabled = false;
      failed.textContent = `${button.dataset.file} could not be loaded: is it beside this page?`;
    });
    document.head.append(script);
  });
}

// --- A step learns ---

function learner(box) {
  const { evaluations } = DATA.learning[box.dataset.learn];
  const [slider, at, text] = ["input", ".at", ".sample"].map((name) => box.querySelector(name));
  const course = box.querySelector(".course");
  const last = evaluations.at(-1)[0];
  const x = (step) => 22 + (208 * step) / last;
  const y = (loss) => 106 - (100 * (loss - 1.4)) / 3.4; // from 1.4 nats to 4.8
  const draw = (tag, attributes) => {
    const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
    course.append(shape);
    return shape;
  };
  for (const loss of [2, 3, 4]) {
    draw("line", { x1: 18, x2: 236, y1: y(loss), y2: y(loss) });
    draw("text", { x: 4, y: y(loss) + 3 }).textContent = loss;
  }
  for (const step of [0, last / 2, last]) {
    const anchor = step === last ? "end" : step ? "middle" : "start";
    draw("text", { x: x(step), y: 117, "text-anchor": anchor }).textContent = step;
  }
  for (const [split, i] of [["train", 1], ["val", 2]]) {
    const points = evaluations.map((row) => `${x(row[0]).toFixed(1)},${y(row[i]).toFixed(1)}`);
    draw("polyline", { class: split, points: points.join(" ") });
  }
  const dot = draw("circle", { r: 5 });
  const show = () => {
    const [step, train, val, sample] = evaluations[slider.value];
    const said = `optimiser step ${step}: train loss ${train.toFixed(4)}, val loss ${val.toFixed(4)}`;
    at.textContent = said;
    slider.setAttribute("aria-valuetext", said);
    text.textContent = sample;
    dot.setAttribute("cx", x(step));
    dot.setAttribute("cy", y(val));
  };
  slider.addEventListener("input", show);
  show();
}

// --- The data, the averages, the letters ---

/* The reader's own line as a window: its last T characters but one, and what follows each. */
function drawWindow() {
  const body = document.querySelector("tbody.own");
  if (!body) return;
  const x = state.tokens.slice(-9);
  const rows = x.slice(1).map((token, t) => {
    const seen = x.slice(0, t + 1);
    const cells = [make("code", {}, seen.map(shown).join("")), seen.join(" ")];
    const last = make("td", {}, make("code", {}, shown(token)), `, ${token}`);
    const row = make("tr", {}, make("th", { scope: "row" }, t));
    row.append(...cells.map((cell) => make("td", {}, cell)), last);
    return row;
  });
  body.replaceChildren(...rows);
  document.querySelector(".own-title").hidden = !rows.length;
}

function averages() {
  const box = document.querySelector(".scores");
  if (!box) return;
  const table = document.querySelector(".soft");
  const x = table.dataset.x.split(" ").map(Number);
  const sliders = all("input", box);
  const row = table.tBodies[0].lastElementChild;
  const show = () => {
    const scores = sliders.map((slider) => Number(slider.value));
    const weights = softmax(scores);
    const mean = weights.reduce((sum, weight, s) => sum + weight * x[s], 0);
    weights.forEach((weight, s) => {
      sliders[s].nextElementSibling.textContent = scores[s].toFixed(1).replace("-", "−");
      row.children[s + 1].textContent = weight.toFixed(2);
      row.children[s + 1].style.setProperty("--w", `${100 * weight}%`);
    });
    row.lastElementChild.textContent = mean.toFixed(2);
    const products = weights.map((weight, s) => `${weight.toFixed(2)} · ${x[s]}`);
    box.querySelector(".weighted").textContent = `${products.join(" + ")} = ${mean.toFixed(2)}`;
  };
  box.addEventListener("input", show);
  box.querySelector(".zero").addEventListener("click", () => {
    for (const slider of sliders) slider.value = 0;
    show();
  });
  show();
}

/* The letters of the shapes, a hover or a tap away wherever a shape stands. */
function letters() {
  const list = document.querySelector(".letters");
  if (!list || !HTMLElement.prototype.showPopover) return; // a link leads to the letters
  const attributes = { id: "letters-here", popover: "manual", role: "tooltip" };
  const popup = make("div", attributes, list.cloneNode(true));
  document.querySelector("main").append(popup);
  const shape = ({ target }) => {
    const found = target.closest?.(".shape, .c1"); // a link, or a comment in the code
    const letters = /\((?:[^()]*, )?[BTCV](?:, [^()]*)?\)/;
    return found && letters.test(found.textContent) ? found : null;
  };
  let place; // the shape that the letters are shown for
  const hide = () => popup.matches(":popover-open") && popup.hidePopover();
  const put = () => {
    const box = place.getBoundingClientRect();
    const { width, height } = popup.getBoundingClientRect();
    const below = box.bottom + 6 + height < innerHeight;
    popup.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
    popup.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - height - 6)}px`;
  };
  const show = (found) => {
    place = found;
    popup.showPopover();
    put();
  };
  addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && shape(event)) show(shape(event));
  });
  addEventListener("pointerout", (event) => {
    if (event.pointerType !== "mouse" || popup.contains(event.relatedTarget)) return;
    if (shape(event)) hide();
  });
  popup.addEventListener("pointerleave", hide);
  addEventListener("focusin", (event) => (shape(event) ? show(shape(event)) : hide()));
  addEventListener("click", (event) => {
    if (event.target.closest?.("a.shape")) event.preventDefault();
    if (shape(event)) show(shape(event));
    else if (!popup.contains(event.target)) hide();
  });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  const follow = () => {
    if (!popup.matches(":popover-open")) return;
    put();
    const box = place.getBoundingClientRect();
    if (box.bottom < 0) hide();
  };
  addEventListener("scroll", follow, { passive: true, capture: true });
}

for (const part of all(".live")) part.hidden = false;
for (const box of all(".learn")) learner(box);
letters();
averages();
if (document.querySelector("#live")) {
  for (const box of all(".try")) writer(box);
  for (const button of all(".load")) loader(button);
  for (const line of all(".line")) line.value = DATA.line;
  take(DATA.line, null);
  listen();
  addEventListener("input", drawWindow);
  drawWindow();
  draw();
}
