// The inside of a step: the table of step 1; the heads of the others, down to one product.
"use strict";

const fixed = (x, n = 2) => {
  const digits = Math.abs(x) >= 1000 ? 0 : Math.abs(x) >= 100 ? Math.min(n, 1) : n;
  return (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "−");
};
const percent = (share, n = 0) => (share < 0.5 * 10 ** -(n + 2) ? "0" : (100 * share).toFixed(n));
const said = (text) => make("p", { class: "said" }, text);

function drawInside() {
  const row = rows.find(({ name }) => name === state.open);
  if (row.n === 0) return drawTable(row);
  if (failed && !model(row.name)) {
    return row.inside.replaceChildren(said(`${DATA.beside} was not found beside this page.`));
  }
  if (!model(row.name)) return row.inside.replaceChildren(said("Its weights are on their way …"));
  drawHeads(row);
}

// --- Step 1: a table ---

let table = null;
function drawTable({ name, inside }) {
  const logits = original(name).p.token_embedding.weight; // (V, V)
  const V = chars.length, key = `${idx()} ${here()}`;
  if (!table) table = newTable(logits);
  if (table.key !== key) table.row = idx()[here()];
  table.key = key;
  const { canvas, label, above, probs, row } = table;
  if (!inside.contains(table.box)) inside.replaceChildren(table.lead, table.box);
  const style = getComputedStyle(document.documentElement);
  const [ink, wash] = ["--ink", "--wash"].map((name) => style.getPropertyValue(name));
  const g = canvas.getContext("2d"), size = canvas.width / V;
  g.globalAlpha = 1;
  g.fillStyle = wash;
  g.fillRect(0, 0, canvas.width, canvas.height);
  g.fillStyle = ink;
  const best = likeliest(probs[row], 8), most = best[0][1];
  for (let t = 0; t < V; t++) {
    for (let s = 0; s < V; s++) {
      g.globalAlpha = t === row ? Math.sqrt(probs[t][s] / most) : 0.55 * Math.sqrt(probs[t][s]);
      g.fillRect(s * size, t * size, size - 1, size - 1);
    }
  }
  g.globalAlpha = 1;
  g.strokeStyle = ink;
  g.lineWidth = 3;
  g.strokeRect(1.5, row * size - 2, canvas.width - 3, size + 3);
  canvas.setAttribute("aria-label", `The table, ${V} rows of ${V} scores; the row of ${quoted(row)} is lit`);
  letter(label, row);
  label.style.top = `${(100 * (row + 0.5)) / V}%`;
  const bar = (p, s) => ({ class: "up", x: s * 7 + 0.5, width: 6, y: 84 - (64 * p) / most, height: (64 * p) / most });
  above.replaceChildren(...[...probs[row]].map((p, s) => shape("rect", bar(p, s))));
  const named = [];
  for (const [s, p] of best) {
    if (named.some((other) => Math.abs(other - s) < 2)) continue;
    named.push(s);
    const where = { x: s * 7 + 3.5, y: 79 - (64 * p) / most, "text-anchor": "middle", "font-size": 13 };
    above.append(shape("text", where, shown(s)));
  }
  const last = idx()[here()];
  const own = `${quoted(row)} stands last, so the row of ${quoted(row)} is read. What came before it changes nothing.`;
  table.lead.textContent = row === last ? own : `The row of ${quoted(row)}: what would follow it.`;
  table.said.textContent = table.rest;
  const sum = logits[row].reduce((a, b) => a + Math.exp(b), 0);
  const rest = 1 - best.reduce((a, [, p]) => a + p, 0);
  const line = (p, ...cells) => make("tr", {}, make("th", { scope: "row" }, cells[0]), make("td", {}, cells[1]),
    make("td", {}, cells[2]), make("td", { class: "share", "--p": p / most }, make("i")), make("td", {}, `${fixed(100 * p, 1)} %`));
  const body = best.map(([s, p]) => line(p, letter(make("code"), s), fixed(logits[row][s]), fixed(Math.exp(logits[row][s]))));
  body.push(line(rest, `${V - best.length} more`, "", ""));
  body.at(-1).children[3].replaceChildren();
  table.right.replaceChildren(
    make("h2", {}, `The row of ${quoted(row)} becomes the guess`),
    softTable("ink", ["", "score", "e to the score", "", "share"], body),
    said(`All ${V} together are ${fixed(sum, 1)}; each divided by that is its share. This is the softmax: it turns any scores into shares that add up to one.`));
}

function newTable(logits) {
  const V = chars.length;
  const canvas = make("canvas", { width: V * 14, height: V * 14, role: "img" });
  const above = shape("svg", { viewBox: "0 0 455 84", "aria-hidden": "true" });
  const label = make("span", { class: "lab", "aria-hidden": "true" });
  const square = make("div", { class: "square" }, canvas, label);
  const axis = make("p", { class: "axis-name" }, "column: the next character →");
  const words = said("");
  const left = make("div", { class: "table" }, above, square, axis, words);
  const right = make("div");
  const rest = "Row: the last character. Column: the next one. Darker: likelier. Above: the lit row as bars. Click a row to read it.";
  const made = { canvas, above, label, said: words, right, rest, lead: make("p", { class: "lead" }) };
  made.box = make("div", { class: "two" }, left, right);
  made.probs = logits.map(softmax);
  const where = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const cell = (at, size) => Math.max(0, Math.min(V - 1, Math.floor((at / size) * V)));
    return [cell(clientY - box.top, box.height), cell(clientX - box.left, box.width)];
  };
  canvas.addEventListener("pointermove", (event) => {
    const [t, s] = where(event);
    words.textContent = `${quoted(s)} after ${quoted(t)}: score ${fixed(logits[t][s])}, ${fixed(100 * made.probs[t][s], 1)} %.`;
  });
  canvas.addEventListener("pointerleave", () => (words.textContent = rest));
  canvas.addEventListener("click", (event) => {
    made.row = where(event)[0];
    drawInside();
  });
  return made;
}

function softTable(kind, headings, body) {
  const head = headings.map((text) => (text ? make("th", { scope: "col" }, text) : make("td")));
  return make("table", { class: `soft ${kind}` }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

// --- Switches ---

/* The same weights with parts off: "h3" a head, "even" all queries zero, so that all scores are
   equal, "positions", "b0" a block. The mask is no weight: see read. */
function changed(p, off) {
  const zero = ({ weight }) => ({ weight: weight.map((row) => new Float64Array(row.length)) });
  const one = (head, i) => ({
    ...head,
    query: off.has("even") ? zero(head.query) : head.query,
    value: off.has(`h${i}`) ? zero(head.value) : head.value,
  });
  const layer = (attention, first) =>
    attention.heads
      ? { ...attention, heads: Object.values(attention.heads).map((head, i) => one(head, first + i)) }
      : one(attention, first);
  const out = { ...p };
  if (off.has("positions")) out.position_embedding = zero(p.position_embedding);
  if (p.attention) out.attention = layer(p.attention, 0);
  if (p.blocks) {
    const blocks = Object.entries(p.blocks).filter(([b]) => !off.has(`b${b}`));
    const size = Object.keys(p.blocks[0].attention.heads).length;
    out.blocks = Object.fromEntries(
      blocks.map(([b, block]) => [b, { ...block, attention: layer(block.attention, b * size) }]),
    );
  }
  return out;
}

/* The heads of a model in their order; of a block that is skipped, nothing. */
function headsOf(name, { p }) {
  if (p.attention) return p.attention.heads ? Object.values(p.attention.heads) : [p.attention];
  const { n_layer, n_head } = WEIGHTS[name].config;
  return Array.from({ length: n_layer * n_head }, (_, i) =>
    p.blocks[Math.floor(i / n_head)]?.attention.heads[i % n_head]);
}

/* The line's loss with the switches as they are, and as the model was trained. */
function switchedLoss(name) {
  const line = idx(), one = model(name);
  const loss = (model, pieces) => mean(lossesOf(read(model, line, pieces), line));
  return { former: loss(original(name), !one.masked), now: loss(one) };
}

const UNTRAINED = "The model is not trained again: it goes on as if nothing was missing. So it can do worse than an even guess, 4.17.";
const UNMASKED = "The heads never saw the future in training and do not know what to do with it. Trained without a mask, they would copy the next letter.";

function drawSwitches(name, chosen) {
  const { n_layer } = WEIGHTS[name].config;
  const off = new Set((state.off[name] ?? "").split(".").filter(Boolean));
  const box = make("fieldset", { class: "switches" }, make("legend", {}, "Switch a part off"));
  const add = (key, text, disabled = false) => {
    const input = make("input", { type: "checkbox", "data-keep": key, disabled });
    input.checked = off.has(key);
    input.addEventListener("change", () => {
      if (input.checked) off.add(key);
      else off.delete(key);
      state.off[name] = [...off].join(".");
      cell.kept = true;
      for (const { wrote } of rows) wrote.textContent = "";
      draw();
      remember();
      drawInside();
    });
    box.append(make("label", {}, input, ` ${text}`));
  };
  add(`h${chosen}`, `${headName(name, chosen)} off`);
  for (const key of off) {
    if (/^h\d/.test(key) && key !== `h${chosen}`) add(key, `${headName(name, Number(key.slice(1)))} off`);
  }
  add("even", "attention even: every position counts the same");
  add("positions", "no positions");
  for (let b = 0; b < (n_layer ?? 0); b++) add(`b${b}`, `block ${b + 1} skipped`);
  add("mask", "no mask: the future is seen");
  const { former, now } = switchedLoss(name);
  if (former === null) return box;
  const pieces = off.has("mask") ? ` Both read in pieces of ${original(name).block_size} characters.` : "";
  const value = make("output", { class: "now" }, `${former.toFixed(2)} → ${now.toFixed(2)}`);
  const words = off.size
    ? make("p", { role: "status" }, "Loss of your line: ", value, `.${pieces}`)
    : make("p", { role: "status" }, "Loss of your line: ", make("output", { class: "now" }, former.toFixed(2)), ". All parts work.");
  box.append(words);
  if (off.size) box.append(said(off.has("mask") ? UNMASKED : UNTRAINED));
  return box;
}

// --- Steps 2 to 7: heads ---

const cell = { key: "", t: 0, s: 0, kept: false }; // the opened cell: position t looks at position s
function headName(name, i) {
  const { n_layer, n_head } = WEIGHTS[name].config;
  if (!n_head) return "the head";
  if (!n_layer) return `head ${i + 1}`;
  return `block ${1 + Math.floor(i / n_head)}, head ${1 + (i % n_head)}`;
}

/* Numbers as bars, up and down from a line. */
function bars(values, { tall = 34, step, kind = "up", scale } = {}) {
  step ??= values.length > 16 ? 9 : 20;
  const most = scale ?? Math.max(1e-9, ...values.map(Math.abs));
  const width = values.length * step, middle = tall / 2;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${tall}`, width, height: tall, "aria-hidden": "true" });
  svg.append(shape("line", { class: "axis", x1: 0, x2: width, y1: middle, y2: middle }));
  values.forEach((value, i) => {
    const height = Math.max(0.5, (Math.min(1, Math.abs(value) / most) * (tall - 2)) / 2);
    const where = { x: i * step + 1, width: step - 2, y: value < 0 ? middle : middle - height, height };
    svg.append(shape("rect", { class: kind, ...where }));
  });
  return svg;
}

/* What the measurement says of the heads of a step: which to look at first. */
function whichFirst(name) {
  const { back, spaces, even, heads } = FIRST.heads[name];
  const share = (x) => `${Math.round(100 * x)} %`;
  if (heads.length === 1) {
    const [itself, one] = heads[0].back;
    return `On average over the validation split, ${share(itself)} of its weight stays on the character itself, and ${share(one)} goes one back.`;
  }
  const most = heads[back].back[1];
  if (most < 0.4) return `On average over the validation split, no head has more than ${share(most)} of its weight one character back.`;
  const first = `Look at ${headName(name, back)} first: on average over the validation split, ${share(most)} of its weight goes one character back, more than in any other head.`;
  if (spaces === back) return first;
  return `${first} Then ${headName(name, spaces)}: ${share(heads[spaces].spaces)} goes to spaces and line breaks; an even look would give them ${share(even)}.`;
}

function drawHeads({ name, inside }) {
  const one = model(name);
  const at = here(), T = one.block_size;
  const window = idx().slice(Math.max(0, at + 1 - T), at + 1);
  const past = LanguageModel.past(one.masked);
  one.forward(window, past);
  const heads = headsOf(name, one).map((p) => past.heads.get(p));
  const n = window.length;
  const h = Math.min((state.head[name] ??= FIRST.heads[name].back), heads.length - 1);
  const held = inside.contains(document.activeElement) && document.activeElement.dataset.keep;
  const parts = [];
  if (heads.length > 1) parts.push(drawThumbs(name, heads, h, n));
  else parts.push(said(whichFirst(name)));
  if (heads[h]) {
    const { weights } = heads[h];
    const key = `${name} ${h} ${window}`;
    if (cell.key !== key) {
      cell.key = key;
      cell.kept = Boolean(state.cell); // the address asks for a cell
      const [t, s] = state.cell ?? [n - 1, weights[n - 1].indexOf(Math.max(...weights[n - 1]))];
      cell.t = Math.max(0, Math.min(n - 1, t));
      cell.s = Math.max(0, s);
      state.cell = null;
    }
    cell.s = Math.min(cell.s, weights[cell.t].length - 1); // with the mask on again
    const { t } = cell;
    const looks = likeliest(weights[t], 2).filter(([, w]) => w >= 0.01).map(([u, w]) => {
      const far = u === t ? " itself" : t - u === 1 ? ", one back" : u > t ? `, ${u - t} ahead` : `, ${t - u} back`;
      return `${percent(w)} % at ${quoted(window[u])}${far}`;
    });
    parts.unshift(make("p", { class: "lead" }, `From ${quoted(window[t])}, ${headName(name, h)} looks ${looks.join(" and ")}.`));
    const grid = drawTriangle(name, heads[h], window, h);
    const right = make("div", {}, ...drawCell(heads[h], window));
    parts.push(make("div", { class: "two" }, make("div", {}, grid, drawSwitches(name, h)), right));
  } else {
    parts.push(said("This head's block is skipped."), drawSwitches(name, h));
  }
  if (past.path) parts.push(drawPath(name, one, past.path, window, idx()[at + 1]));
  inside.replaceChildren(...parts);
  if (held) inside.querySelector(`[data-keep="${held}"]`)?.focus({ preventScroll: true, focusVisible: byKey });
}

/* The heads, small: a row of pictures for each block. */
function drawThumbs(name, heads, chosen, n) {
  const { n_layer = 1, n_head } = WEIGHTS[name].config;
  const box = make("fieldset", { class: "heads-of" }, make("legend", { class: "said" }, whichFirst(name)));
  const look = getComputedStyle(document.documentElement).getPropertyValue("--look");
  const [r, g, b] = look.split(" ").map(Number);
  for (let layer = 0; layer < n_layer; layer++) {
    const set = make("div", { class: "set" });
    for (let i = layer * n_head; i < (layer + 1) * n_head; i++) {
      const canvas = make("canvas", { width: n, height: n });
      const paint = canvas.getContext("2d");
      const image = paint.createImageData(n, n);
      heads[i]?.weights.forEach((row, t) => {
        row.forEach((w, s) => image.data.set([r, g, b, 14 + 241 * w], 4 * (t * n + s)));
      });
      paint.putImageData(image, 0, 0);
      const pressed = { "aria-pressed": String(i === chosen), "aria-label": headName(name, i) };
      const thumb = make("button", { type: "button", class: "thumb", ...pressed, "data-keep": `t${i}` }, canvas);
      thumb.addEventListener("click", () => {
        state.head[name] = i;
        drawInside();
        remember();
      });
      set.append(thumb);
    }
    box.append(make("div", {}, n_layer > 1 ? make("span", {}, `block ${layer + 1}`) : "", set));
  }
  return box;
}

/* The line with its arcs, and below it, in the same columns, the weights of all positions. */
function drawTriangle(name, { weights }, window, h) {
  const { t, s } = cell, n = window.length;
  const size = Math.min(45, 468 / n), left = 30, letters = 26;
  const high = Math.min(88, 28 + n * 8), top = high + letters;
  const [width, tall] = [left + size * n, top + size * n];
  const label = `Attention of ${headName(name, h)}: arrow keys choose a row and a column`;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${tall}`, tabindex: 0, role: "group", "data-keep": "grid", "aria-label": label });
  svg.style.maxWidth = `${width}px`;
  const x = (u) => left + size * (u + 0.5), base = high - 4;
  const font = Math.min(17, Math.max(6, size * 0.92));
  weights[t].forEach((w, u) => {
    if (w < 0.01) return;
    const thick = Math.max(0.75, w * Math.min(u === t ? 4 : 8, size / 2.5));
    const stroke = { class: "arc", "stroke-width": thick, "stroke-opacity": u === s ? 1 : 0.5 };
    if (u === t) {
      const r = Math.min(8, size / 4);
      return svg.append(shape("circle", { ...stroke, cx: x(u), cy: base - Math.min(9, size / 3), r }));
    }
    const r = 1.2 * Math.min(base - 8, (Math.abs(t - u) * size) / 1.6 + 8);
    svg.append(shape("path", { ...stroke, d: `M${x(t)} ${base}C${x(t)} ${base - r} ${x(u)} ${base - r} ${x(u)} ${base}` }));
  });
  const text = (where, u, bold) =>
    svg.append(shape("text", { ...where, "text-anchor": "middle", "font-size": font, class: bold ? "" : "dim", "font-weight": bold ? 700 : 400 }, shown(window[u])));
  window.forEach((_, u) => text({ x: x(u), y: high + 13 }, u, u === t || u === s));
  svg.append(shape("rect", { class: "rowband", x: 0, y: top + size * t, width: left + size * weights[t].length, height: size }));
  const gap = size > 20 ? 1.5 : 0.25;
  weights.forEach((row, v) => {
    const y = top + size * v;
    text({ x: left - 12, y: y + size / 2 + font * 0.36 }, v, v === t);
    row.forEach((w, u) => {
      const where = { x: left + size * u + gap, y: y + gap, width: size - 2 * gap, height: size - 2 * gap };
      svg.append(shape("rect", { class: "cell", ...where, "fill-opacity": (0.05 + 0.95 * w).toFixed(3), "data-t": v, "data-s": u }));
      if (size >= 30) svg.append(shape("text", { class: `pct${w > 0.7 ? " on" : ""}`, x: x(u), y: y + size / 2 + 4 }, percent(w)));
    });
    for (let u = row.length; u < n && size > 20; u++) {
      svg.append(shape("circle", { class: "masked", cx: x(u), cy: y + size / 2, r: 1.2 }));
    }
  });
  svg.append(shape("rect", { class: "pick", x: left + size * s, y: top + size * t, width: size, height: size, rx: 2 }));
  const open = (v, u) => {
    cell.t = Math.max(0, Math.min(n - 1, v));
    cell.s = Math.max(0, Math.min(weights[cell.t].length - 1, u));
    cell.kept = true;
    drawInside();
    remember();
  };
  svg.addEventListener("click", ({ target }) => {
    if (!target.dataset.t) return;
    const row = Number(target.dataset.t);
    // A thumb is wider than such a cell: it chooses the row, and there the largest weight.
    const thumb = size < 20 && matchMedia("(pointer: coarse)").matches;
    open(row, thumb ? weights[row].indexOf(Math.max(...weights[row])) : Number(target.dataset.s));
  });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    open(t + by[0], s + by[1]);
  });
  return svg;
}

/* One cell: query times key, the sum, the division, the softmax, the values averaged. */
function drawCell({ q, k, v, out, weights }, window) {
  const { t, s } = cell, d = q[0].length, n = weights[t].length;
  const product = q[t].map((value, i) => value * k[s][i]);
  const sum = dot(q[t], k[s]);
  const scores = Array.from(weights[t], (_, u) => dot(q[t], k[u]) * d ** -0.5);
  const highest = Math.max(...scores) > 80 ? Math.max(...scores) : 0; // e to 800 is no number
  const odds = scores.map((score) => Math.exp(score - highest)), total = odds.reduce((a, b) => a + b);
  const scale = Math.max(...[...q[t], ...k[s]].map(Math.abs)) || 1;
  const list = make("dl", { class: "sum" });
  const say = (label, ...what) => list.append(make("dt", {}, ...label), make("dd", {}, ...what));
  const rule = () => list.append(make("div", { class: "rule" }));
  const number = (value, note) => make("span", { class: "num" }, fixed(value), make("small", {}, ` ${note}`));
  const bold = (text) => make("b", {}, text);
  say([bold("query"), ` of ${quoted(window[t])}: what it looks for`], bars([...q[t]], { scale }));
  say([bold("key"), ` of ${quoted(window[s])}: how it can be found`], bars([...k[s]], { scale }));
  say(["multiplied, one by one"], bars([...product], { kind: "prod" }));
  say(["added up"], number(sum, `${d} products: large where query and key agree`));
  say([`divided by √${d}`], number(sum * d ** -0.5, `= ${fixed(sum)} ÷ ${fixed(Math.sqrt(d))}, so that scores stay moderate`));
  const few = n <= 8 ? [...scores.keys()] : [...new Set([...likeliest(weights[t], 7).map(([u]) => u), s])].sort((a, b) => a - b);
  const most = Math.max(1e-9, ...few.flatMap((u) => [...v[u]].map(Math.abs)));
  const step = d > 16 ? (innerWidth < 1000 ? 2.6 : 4) : 9;
  const body = few.map((u) => make("tr", { class: u === s ? "on" : "" },
    make("th", { scope: "row" }, letter(make("code"), window[u])),
    make("td", {}, fixed(scores[u])),
    make("td", {}, fixed(odds[u])),
    make("td", { class: "share", "--p": weights[t][u] }, make("i")),
    make("td", {}, `${percent(weights[t][u])} %`),
    make("td", { class: "v", style: `opacity:${0.5 + 0.5 * weights[t][u]}` }, bars([...v[u]], { tall: 20, step, scale: most }))));
  if (few.length < n) {
    const rest = total - few.reduce((a, u) => a + odds[u], 0);
    body.push(make("tr", {}, make("th", { scope: "row" }, `${n - few.length} more`), make("td"), make("td", {}, fixed(rest))));
  }
  const soft = softTable("", ["", "score", "e to it", "", "weight", "value"], body);
  const words = `: e to each score, divided by their sum, ${fixed(total)}. All weights of ${quoted(window[t])} add up to one.`;
  rule();
  list.append(make("dt", { class: "top" }, bold("softmax"), words), make("dd", {}, soft));
  rule();
  say([bold("values"), ", averaged by weight: what the head passes on"], bars([...out[t]]));
  return [make("h2", { "aria-live": "polite" }, `${quoted(window[t])} looks at ${quoted(window[s])}: ${percent(weights[t][s])} %`), list];
}

start();
