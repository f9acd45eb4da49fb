// The inside of steps 2 to 7: the weights of their heads.
"use strict";

function headName(name, i) {
  const { n_layer, n_head } = WEIGHTS[name].config;
  if (!n_head) return "the head";
  if (!n_layer) return `head ${i + 1}`;
  return `block ${1 + Math.floor(i / n_head)}, head ${1 + (i % n_head)}`;
}

/* The share of weight that goes one character back, over all rows of a picture but the first. */
const backOf = ({ weights }) => weights.slice(1).reduce((sum, row, t) => sum + row[t], 0) / (weights.length - 1);

/* The share that goes to spaces and line breaks. */
const spacesOf = ({ weights }, window) =>
  weights.reduce((sum, row) => sum + row.reduce((a, w, s) => a + (/\s/.test(chars[window[s]]) ? w : 0), 0), 0) / weights.length;

/* Which head to look at first: what was measured over the unseen text, and what this picture has. */
function whichFirst(name, found, window) {
  const { back, spaces, even, heads } = FIRST.heads[name];
  // As long with a part off as without: the switches below stay where they are.
  const here = (head, share) =>
    window.length < 2 ? "" : head ? `; in this picture ${percent(share(head))}\u00a0%` : "; here it is skipped";
  if (heads.length === 1) {
    const [itself, one] = heads[0].back;
    return `Over the unseen text, ${percent(itself)}\u00a0% of its weight stays on the character itself on average, and ${percent(one)}\u00a0% goes one back${here(found[0], backOf)}.`;
  }
  const most = percent(heads[back].back[1]);
  if (heads[back].back[1] < 0.4) return `Over the unseen text, no head has more than ${most}\u00a0% of its weight one character back on average: ${headName(name, back)} has most${here(found[back], backOf)}.`;
  const first = `Look at ${headName(name, back)} first: over the unseen text, ${most}\u00a0% of its weight goes one character back on average, more than in any other head${here(found[back], backOf)}.`;
  if (spaces === back) return first;
  const blanks = (head) => spacesOf(head, window);
  const has = window.some((token) => /\s/.test(chars[token]));
  return `${first} Then ${headName(name, spaces)}: ${percent(heads[spaces].spaces)}\u00a0% goes to spaces and line breaks, where an even look would give them ${percent(even)}\u00a0%${has ? here(found[spaces], blanks) : ""}.`;
}

const isOff = (name, part) => (state.off[name] ?? "").split(".").includes(part);

/* The opened cell of a step: position t looks at position s. Another head or another line opens the
   largest weight of the last position, if the address asks for none. */
function openedCell(name, h, window, weights) {
  const passing = state.preview !== null && state.preview !== state.at; // what is pointed at opens nothing
  const cell = passing ? {} : (state.cell[name] ??= {});
  const key = `${h} ${window}`, last = window.length - 1;
  if (cell.key !== key) {
    const [t, s] = cell.asked ?? [last, weights[last].indexOf(Math.max(...weights[last]))];
    Object.assign(cell, { key, kept: Boolean(cell.asked), asked: null, t: Math.max(0, Math.min(last, t)), s: Math.max(0, s) });
  }
  cell.s = Math.min(cell.s, weights[cell.t].length - 1); // with the mask on again
  return cell;
}

/* What the model of a step computes on the characters that it sees from the chosen one, and what follows. */
function lookInside(name) {
  const one = model(name);
  const at = here(), T = one.block_size;
  const window = idx().slice(Math.max(0, at + 1 - T), at + 1);
  const known = one.masked && readsOn(one, idx()); // then the whole line was read, from its first character
  const past = known ? one.kept.past : LanguageModel.past(one.masked);
  if (known) readOn(one, idx());
  else one.forward(window, past);
  const upTo = (rows) => rows.slice(0, window.length);
  const part = (kept) => kept && Object.fromEntries(Object.entries(kept).map(([name, rows]) => [name, upTo(rows)]));
  const heads = headsOf(name, one).map((p) => part(past.heads.get(p)));
  return { one, window, next: idx()[at + 1], path: past.path.map(upTo), heads };
}

/* The sentence over the picture: where the opened position looks. With the head off it is about as long,
   so that nothing below it moves. */
function lookSaid(name, h, { t }, weights, window) {
  const looks = likeliest(weights[t], 2).filter(([, w]) => w >= 0.01).map(([u, w]) => {
    const far = u === t ? " itself" : t - u === 1 ? ", one back" : u > t ? `, ${u - t} ahead` : `, ${t - u} back`;
    return `${percent(w)}\u00a0% at ${quoted(window[u])}${far}`;
  });
  const from = quoted(window[t]), head = headName(name, h);
  if (isOff(name, `h${h}`)) return `${head[0].toUpperCase() + head.slice(1)} is off and adds nothing. From ${from} it looks ${looks[0]}.`;
  return `From ${from}, ${head} looks ${looks.join(looks[0].includes(",") ? ", and " : " and ")}.`;
}

function drawHeads(view) {
  const { name, inside } = view;
  const { one, window, next, path, heads } = lookInside(name);
  const h = Math.min(state.head[name] ?? FIRST.heads[name].back, heads.length - 1);
  const held = inside.contains(document.activeElement) && document.activeElement.dataset.keep;
  const parts = [];
  if (heads.length > 1) parts.push(drawThumbs(name, heads, h, window));
  else parts.push(said(whichFirst(name, heads, window)));
  parts.push(drawSwitches(name, h));
  if (heads[h]) {
    const { weights } = heads[h];
    const cell = openedCell(name, h, window, weights);
    const left = make("div", {}, drawTriangle(name, heads[h], window, h, cell));
    parts.unshift(make("p", { class: "lead" }, lookSaid(name, h, cell, weights, window)));
    parts.push(make("div", { class: "two" }, left, make("div", {}, ...drawCell(heads[h], window, cell))));
  } else {
    parts.unshift(make("p", { class: "lead" }, "The block of this head is skipped."));
  }
  if (path.length) parts.push(drawPath(name, one, path, window, next));
  inside.replaceChildren(...parts);
  if (held) inside.querySelector(`[data-keep="${held}"]`)?.focus({ preventScroll: true });
}

/* The heads, small: a row of pictures for each block. */
function drawThumbs(name, heads, chosen, window) {
  const { n_layer = 1, n_head } = WEIGHTS[name].config;
  const n = window.length;
  const box = make("fieldset", { class: "heads-of" }, make("legend", { class: "said" }, whichFirst(name, heads, window)));
  const look = getComputedStyle(document.documentElement).getPropertyValue("--look");
  const [r, g, b] = look.split(" ").map(Number);
  for (let layer = 0; layer < n_layer; layer++) {
    const set = make("div", { class: "set" });
    for (let i = layer * n_head; i < (layer + 1) * n_head; i++) {
      const canvas = make("canvas", { width: n, height: n });
      const paint = canvas.getContext("2d");
      const image = paint.createImageData(n, n);
      const { data } = image;
      heads[i]?.weights.forEach((row, t) => {
        for (let s = 0, at = 4 * t * n; s < row.length; s++, at += 4) {
          data[at] = r, data[at + 1] = g, data[at + 2] = b, data[at + 3] = 14 + 241 * row[s];
        }
      });
      paint.putImageData(image, 0, 0);
      const gone = !heads[i] ? ", skipped" : isOff(name, `h${i}`) ? ", off" : "";
      const pressed = { "aria-pressed": String(i === chosen), "aria-label": headName(name, i) + gone };
      const thumb = make("button", { type: "button", class: gone ? "thumb gone" : "thumb", ...pressed, "data-keep": `t${i}` }, canvas, make("small", {}, `${(i % n_head) + 1}`));
      thumb.addEventListener("click", () => {
        state.head[name] = i;
        redraw(name, headName(name, i));
      });
      set.append(thumb);
    }
    box.append(make("div", {}, n_layer > 1 ? make("span", {}, `block ${layer + 1}`) : "", set));
  }
  return box;
}

/* The line with its arcs, and below it, in the same columns, the weights of all positions. */
function drawTriangle(name, { weights }, window, h, cell) {
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
  const gap = size > 20 ? 1.5 : 0.25, side = size - 2 * gap;
  const shades = new Map(); // small cells are many: one path for all that are equally strong
  weights.forEach((row, v) => {
    const y = top + size * v;
    text({ x: left - 12, y: y + size / 2 + font * 0.36 }, v, v === t);
    row.forEach((w, u) => {
      if (size <= 20) {
        const shade = (Math.round(64 * w) / 64).toFixed(3);
        const box = `M${(left + size * u + gap).toFixed(2)} ${(y + gap).toFixed(2)}h${side}v${side}h${-side}z`;
        return shades.set(shade, (shades.get(shade) ?? "") + box);
      }
      const where = { x: left + size * u + gap, y: y + gap, width: side, height: side };
      svg.append(shape("rect", { class: "cell", ...where, style: `--w: ${w.toFixed(3)}`, "data-t": v, "data-s": u }));
      if (size >= 30) svg.append(shape("text", { class: "pct", x: x(u), y: y + size / 2 + 4 }, percent(w)));
    });
    for (let u = row.length; u < n && size > 20; u++) {
      svg.append(shape("circle", { class: "masked", cx: x(u), cy: y + size / 2, r: 1.2 }));
    }
  });
  for (const [shade, d] of shades) svg.append(shape("path", { class: "cell", d, style: `--w: ${shade}` }));
  svg.append(shape("rect", { class: "pick", x: left + size * s, y: top + size * t, width: size, height: size, rx: 2 }));
  const open = (v, u) => {
    state.preview = null;
    const cell = openedCell(name, h, window, weights);
    cell.t = Math.max(0, Math.min(n - 1, v));
    cell.s = Math.max(0, Math.min(weights[cell.t].length - 1, u));
    cell.kept = true;
    redraw(name, `${quoted(window[cell.t])} looks at ${quoted(window[cell.s])}: ${percent(weights[cell.t][cell.s])}\u00a0%`);
  };
  svg.addEventListener("click", ({ clientX, clientY }) => {
    const box = svg.getBoundingClientRect(), scale = width / box.width;
    const row = Math.floor(((clientY - box.top) * scale - top) / size), column = Math.floor(((clientX - box.left) * scale - left) / size);
    if (column < 0 || !(column < weights[row]?.length)) return;
    // A thumb is wider than such a cell: it chooses the row, and there the largest weight.
    const thumb = size < 20 && matchMedia("(pointer: coarse)").matches;
    open(row, thumb ? weights[row].indexOf(Math.max(...weights[row])) : column);
  });
  svg.addEventListener("keydown", (event) => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -s], End: [0, n] }[event.key];
    if (!by) return;
    event.preventDefault();
    open(t + by[0], s + by[1]);
  });
  return svg;
}
