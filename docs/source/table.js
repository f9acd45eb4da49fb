// The inside of step 1: its table, and how a row of it becomes a guess.
"use strict";

function drawTable(view) {
  const { name, inside } = view;
  const logits = original(name).p.token_embedding.weight; // (V, V)
  const V = chars.length, key = `${idx()} ${here()}`;
  const table = (view.table ??= newTable(logits, view));
  const passing = state.preview !== null && state.preview !== state.at; // what is pointed at opens nothing
  const cell = passing ? {} : (state.cell[name] ??= {});
  if (cell.key !== key) {
    const [t, s] = cell.asked ?? [idx()[here()], likeliest(table.probs[idx()[here()]], 1)[0][0]];
    Object.assign(cell, { key, kept: Boolean(cell.asked), asked: null, t: Math.min(t, V - 1), s: Math.min(s, V - 1) });
  }
  const row = cell.t;
  const { canvas, square, label, above, probs } = table;
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
  if (cell.kept) g.strokeRect(cell.s * size - 2, row * size - 2, size + 3, size + 3);
  square.setAttribute("aria-label", `The table, ${V} rows of ${V} scores; the row of ${quoted(row)} is lit. Arrow keys choose a row and a column`);
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
  table.tell(...(cell.kept ? [row, cell.s] : []));
  const sum = logits[row].reduce((a, b) => a + Math.exp(b), 0);
  const rest = 1 - best.reduce((a, [, p]) => a + p, 0);
  const line = (p, ...cells) => make("tr", {}, make("th", { scope: "row" }, cells[0]), make("td", {}, cells[1]),
    make("td", {}, cells[2]), make("td", { class: "share", "--p": p / most }, make("i")), make("td", {}, `${fixed(100 * p, 1)}\u00a0%`));
  const body = best.map(([s, p]) => line(p, letter(make("code"), s), fixed(logits[row][s]), fixed(Math.exp(logits[row][s]))));
  body.push(line(rest, `${V - best.length} more`, "", ""));
  body.at(-1).children[3].replaceChildren();
  table.right.replaceChildren(
    make("p", { class: "cell-name" }, `The row of ${quoted(row)}${row === last ? " becomes the guess" : ""}`),
    softTable("ink", ["", "score", "e to the score", "", "share"], body),
    said(`All ${V} together are ${fixed(sum, 1)}; each divided by that is its share. This is the softmax: it turns any scores into shares that add up to one.${ofTemperature()}`));
}

function newTable(logits, view) {
  const { name } = view;
  const V = chars.length;
  const canvas = make("canvas", { width: V * 14, height: V * 14, "aria-hidden": "true" });
  const above = shape("svg", { viewBox: "0 0 455 84", "aria-hidden": "true" });
  const label = make("span", { class: "lab", "aria-hidden": "true" });
  const square = make("div", { class: "square", tabindex: 0, role: "group", "data-keep": "table" }, canvas, label);
  const axis = make("p", { class: "axis-name" }, "column: the next character →");
  const words = make("p", { class: "said chosen" });
  const about = said("Row: the last character. Column: the next one. Both stand in this order: line break, space, marks, capitals, " +
    "small letters. The stronger a mark, the likelier. Above: the lit row as bars.");
  const left = make("div", { class: "table" }, above, square, axis, words, about);
  const right = make("div");
  const how = make("span", { class: "screen" }, "Choose a row to read it: tap or click it, or use the arrow keys.");
  const made = { canvas, square, above, label, right, lead: make("p", { class: "lead" }) };
  made.box = make("div", { class: "two" }, left, right);
  made.probs = logits.map(softmax);
  const where = ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const cell = (at, size) => Math.max(0, Math.min(V - 1, Math.floor((at / size) * V)));
    return [cell(clientY - box.top, box.height), cell(clientX - box.left, box.width)];
  };
  const words_of = (t, s) => `${quoted(s)} after ${quoted(t)}: score ${fixed(logits[t][s])}, ${fixed(100 * made.probs[t][s], 1)}\u00a0%.`;
  made.tell = (t, s) => (t === undefined ? words.replaceChildren(how) : words.replaceChildren(words_of(t, s)));
  canvas.addEventListener("pointermove", (event) => made.tell(...where(event)));
  canvas.addEventListener("pointerleave", () => {
    const { kept, t, s } = state.cell[name];
    made.tell(...(kept ? [t, s] : []));
  });
  const open = (dt, ds, from) => {
    state.preview = null;
    drawTable(view); // the cell is now that of the chosen letter
    const [t, s] = from ?? [state.cell[name].t + dt, state.cell[name].s + ds];
    Object.assign(state.cell[name], { t: (t + V) % V, s: (s + V) % V, kept: true });
    redraw(name, words_of(state.cell[name].t, state.cell[name].s));
  };
  canvas.addEventListener("click", (event) => open(0, 0, where(event)));
  square.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const end = { Home: 0, End: V - 1 }[event.key];
    if (!by && end === undefined) return;
    event.preventDefault();
    if (by) open(...by);
    else open(0, 0, [state.cell[name].t, end]);
  });
  return made;
}

