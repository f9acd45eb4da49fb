// One weight of attention: query times key, the softmax, the values averaged.
"use strict";

/* Numbers as bars, up and down from a line. */
function bars(values, { tall = 34, step, kind = "up", scale } = {}) {
  step ??= values.length > 16 ? 9 : 20;
  const most = scale ?? Math.max(1e-9, ...values.map(Math.abs));
  const width = values.length * step, middle = tall / 2, gap = Math.min(2, 0.3 * step);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${tall}`, width, height: tall, "aria-hidden": "true" });
  svg.append(shape("line", { class: "axis", x1: 0, x2: width, y1: middle, y2: middle }));
  values.forEach((value, i) => {
    const height = Math.max(0.5, (Math.min(1, Math.abs(value) / most) * (tall - 2)) / 2);
    const where = { x: i * step + gap / 2, width: step - gap, y: value < 0 ? middle : middle - height, height };
    svg.append(shape("rect", { class: kind, ...where }));
  });
  return svg;
}

/* One cell: query times key, the sum, the division, the softmax, the values averaged. */
function drawCell({ q, k, v, out, weights }, window, { t, s }) {
  const d = q[0].length, n = weights[t].length;
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
    make("td", {}, `${percent(weights[t][u])}\u00a0%`),
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
  return [make("p", { class: "cell-name" }, `${quoted(window[t])} looks at ${quoted(window[s])}: ${percent(weights[t][s])}\u00a0%`), list];
}
