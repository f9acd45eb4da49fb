// Training on the page: the table of step 1 fills, and step 2 learns with positions and without.
"use strict";

const LESSON = JSON.parse(document.getElementById("train-data").textContent); // { chars, text }
const BATCH = { B: 32, T: 8 }; // sequences and positions, as in the scripts
const SLICE = 12; // milliseconds of work, then the page can answer a key

/* The text as tokens: the first nine tenths to learn from, the rest held out. */
function lessonSplits() {
  const stoi = new Map([...LESSON.chars].map((char, token) => [char, token]));
  const tokens = Int32Array.from(LESSON.text, (char) => stoi.get(char));
  const cut = Math.floor(0.9 * tokens.length);
  return { train: tokens.subarray(0, cut), held: tokens.subarray(cut) };
}

/* Models learn from the same batches. Yields after each piece of work, so that the page can stop in between.
   evaluated gets the step, and of each model its loss on the held-out text. */
function* training(models, splits, { learning_rate, steps, every, seed, evaluated }) {
  const { B, T } = BATCH, random = generator(seed);
  const optimizers = models.map((model) => new AdamW(model, learning_rate));
  for (let step = 0; step <= steps; step++) {
    if (step % every === 0) {
      const sums = models.map(() => 0);
      const looks = models.map(() => new Float64Array(T));
      let count = 0;
      for (const [x, y] of batchesInOrder(splits.held, B, T)) {
        count += y.length;
        for (const [i, model] of models.entries()) {
          sums[i] += crossEntropy(model.forward(x), y).loss * y.length;
          if (model.attention) lookFrom(model.attention.weights, T, looks[i]);
          yield step;
        }
      }
      for (const look of looks) for (let back = 0; back < T; back++) look[back] /= count / T;
      evaluated(step, sums.map((sum) => sum / count), looks);
    }
    if (step === steps) return;
    const batch = randomBatch(splits.train, B, T, random);
    models.forEach((model, i) => trainStep(model, optimizers[i], batch));
    yield step + 1;
  }
}

/* Adds the weights of each last position, by how far they look back. */
function lookFrom(weights, T, sums) {
  for (let last = (T - 1) * T; last < weights.length; last += T * T) {
    for (let back = 0; back < T; back++) sums[back] += weights[last + T - 1 - back];
  }
}

/* The loss on the held-out text of a table that is counted: how often each pair stands in the text, and one
   more for each, so that no pair is impossible. */
function countedLoss({ train, held }, V) {
  const counts = new Float64Array(V * V).fill(1), sums = new Float64Array(V).fill(V);
  for (let i = 1; i < train.length; i++) {
    counts[train[i - 1] * V + train[i]]++;
    sums[train[i - 1]]++;
  }
  let loss = 0;
  for (let i = 1; i < held.length; i++) loss -= Math.log(counts[held[i - 1] * V + held[i]] / sums[held[i - 1]]);
  return loss / (held.length - 1);
}

/* A run: its buttons, its curve, and what is drawn as it goes. begin gives the models anew. */
class Trainer {
  constructor(run) {
    Object.assign(this, run); // { steps, every, learning_rate, pace, lines, chart, begin, draw }
    this.button = make("button", { type: "button" });
    this.again = make("button", { type: "button", class: "again" }, "Start again");
    this.at = make("span", { class: "at-step" });
    this.status = make("p", { class: "sr", role: "status" });
    this.curve = shape("svg", { viewBox: "0 0 440 230", role: "img" });
    this.controls = make("div", { class: "controls" }, this.button, this.again, this.at, this.status);
    this.button.addEventListener("click", () => (this.running ? this.halt("Stopped") : this.go()));
    this.again.addEventListener("click", () => {
      this.button.focus(); // this button has nothing left to do
      this.reset();
      this.status.textContent = "Back at the random numbers.";
    });
  }
  reset() {
    this.running = false;
    this.step = 0;
    this.points = []; // [step, loss of each model]
    this.looks = null;
    this.models = this.begin();
    this.work = null;
    this.show();
  }
  go() {
    if (this.step === this.steps) this.reset();
    for (const other of Object.values(trainers)) if (other.running) other.halt("Stopped");
    this.splits ??= lessonSplits();
    if (this.chart.count) this.chart.counted ??= countedLoss(this.splits, LESSON.chars.length);
    const evaluated = (step, losses, looks) => {
      this.points.push([step, ...losses]);
      this.looks = looks;
    };
    this.work ??= training(this.models, this.splits, { ...this, seed: 1337, evaluated });
    this.running = true;
    this.drawn = 0;
    this.began = { step: this.step, time: performance.now() };
    this.button.textContent = "Stop";
    this.status.textContent = "It learns.";
    this.slice();
  }
  halt(word) {
    this.running = false;
    this.show();
    this.status.textContent = `${word}. ${this.said()}`;
  }
  /* As much work as fits a slice; then, for a moment, the page. */
  slice() {
    if (!this.running) return;
    const start = performance.now(), first = this.step, { steps, wait } = this.pace;
    let done = false;
    while (!done && performance.now() - start < SLICE && this.step - first < steps) {
      const next = this.work.next();
      done = next.done;
      this.step = next.value ?? this.step;
    }
    if (done) return this.halt("Ready");
    const between = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 60; // milliseconds
    if (performance.now() - this.drawn > between) {
      this.show();
      this.drawn = performance.now();
    }
    setTimeout(() => this.slice(), wait);
  }
  /* How long the rest takes, from the steps since the button was pressed. */
  left() {
    const { step, time } = this.began ?? {}, done = this.step - step, passed = performance.now() - time;
    if (!this.running || !done || passed < 500) return "";
    const seconds = ((this.steps - this.step) * passed) / done / 1000, minutes = Math.round(seconds / 60);
    if (seconds >= 55) return `, about ${minutes || 1} minute${minutes > 1 ? "s" : ""} left`;
    return seconds < 10 ? ", a few seconds left" : `, about ${10 * Math.round(seconds / 10)} seconds left`;
  }
  said() {
    if (!this.points.length) return "Not trained yet.";
    const [step, ...losses] = this.points.at(-1);
    const each = losses.map((loss, i) => [this.lines[i].name, loss.toFixed(2)].join(" ").trim());
    return `After step ${step.toLocaleString("en")} the loss on the held-out text is ${each.join(", ")}.`;
  }
  show() {
    if (!this.running) {
      this.button.textContent = this.step === this.steps ? "Train anew" : this.step ? "Go on" : "Train";
    }
    this.again.disabled = !this.step;
    this.at.textContent = `${this.step.toLocaleString("en")} of ${this.steps.toLocaleString("en")} steps${this.left()}`;
    this.curve.replaceChildren(...this.parts());
    this.curve.setAttribute("aria-label", this.said());
    this.draw(this);
  }
  /* The loss on the held-out text over the optimiser steps, from the highest that there is. */
  parts() {
    const { points, steps, lines } = this, { low, tick, counted } = this.chart;
    const high = Math.max(low + 2, ...points.flatMap(([, ...losses]) => losses));
    const [left, right, top, bottom] = [34, 384, 14, 198];
    const x = (step) => left + ((right - left) * step) / steps;
    const y = (loss) => top + ((bottom - top) * (high - loss)) / (high - low);
    const parts = [];
    const line = (kind, loss) => parts.push(shape("line", { class: kind, x1: left, x2: right, y1: y(loss), y2: y(loss) }));
    const text = (where, words) => parts.push(shape("text", where, words));
    for (let n = Math.ceil(low / tick - 1e-9); n * tick <= high + 1e-9; n++) {
      line("grid", n * tick);
      text({ x: left - 6, y: y(n * tick) + 4, "text-anchor": "end" }, (n * tick).toFixed(1));
    }
    for (const step of [0, steps / 2, steps]) {
      text({ x: x(step), y: bottom + 19, "text-anchor": "middle" }, step.toLocaleString("en"));
    }
    if (!points.length) return parts;
    if (counted) {
      line("counted", counted);
      text({ x: left + 6, y: y(counted) + 15 }, `counted: ${counted.toFixed(2)}`);
    }
    const last = points.at(-1), heights = last.slice(1).map(y);
    const near = lines.length > 1 && Math.abs(heights[0] - heights[1]) < 18; // the labels make room
    lines.forEach(({ kind }, i) => {
      const path = points.map((point) => `${x(point[0]).toFixed(1)},${y(point[i + 1]).toFixed(1)}`);
      parts.push(shape("polyline", { class: kind, points: path.join(" ") }));
      const upper = heights[i] < heights[1 - i] || (heights[i] === heights[1 - i] && i);
      const place = near ? (heights[0] + heights[1]) / 2 + (upper ? -9 : 9) : heights[i];
      text({ class: `end ${kind}`, x: x(last[0]) + 6, y: place + 4 }, last[i + 1].toFixed(2));
    });
    return parts;
  }
}

// --- Step 1 ---

/* The table, each cell the share of the next character (column) after this one (row). */
function paintTable(canvas, shares) {
  const V = shares.length, g = canvas.getContext("2d"), image = g.createImageData(V, V);
  const ink = make("i", { style: "color: var(--ink)" });
  canvas.after(ink);
  const [red, green, blue] = getComputedStyle(ink).color.match(/\d+/g).map(Number);
  ink.remove();
  shares.forEach((row, t) => row.forEach((share, s) => {
    image.data.set([red, green, blue, 255 * Math.sqrt(share)], 4 * (t * V + s));
  }));
  g.putImageData(image, 0, 0);
}

const nameOf = (char) => ({ "\n": "↵", " ": "␣" })[char] ?? char;

function trainBigram(box) {
  const chars = [...LESSON.chars], V = chars.length;
  const canvas = make("canvas", { width: V, height: V, role: "img" });
  const words = make("figcaption");
  const about = "Row: a character. Column: the next one. The stronger a cell, the likelier. " +
    "Both stand in the order of the tokens: line break, space, marks, capitals, small letters. " +
    "The rows of characters that the text never has stay random.";
  const rows = make("tbody"), sample = make("pre", { class: "wrote" });
  let shares;
  const draw = ({ models: [model] }) => {
    const { data } = model.token_embedding.weight;
    shares = chars.map((_, t) => softmax(data.slice(t * V, (t + 1) * V)));
    paintTable(canvas, shares);
    const said = ["t", "q", ",", " "].map((char) => {
      const row = shares[chars.indexOf(char)], best = row.indexOf(Math.max(...row));
      return [nameOf(char), nameOf(chars[best]), row[best]];
    });
    canvas.setAttribute("aria-label", `The table, ${V} rows of ${V} shares`);
    rows.replaceChildren(...said.map(([after, best, share]) => make("tr", {},
      make("th", { scope: "row" }, make("code", {}, after)), make("td", {}, make("code", {}, best)),
      make("td", { class: "share", "--p": share }, make("i")), make("td", {}, `${Math.round(100 * share)}\u00a0%`))));
    const random = generator(7);
    let token = 0, text = "";
    for (let i = 0; i < 150; i++) text += chars[(token = multinomial(shares[token], random))];
    sample.textContent = text.trimStart();
  };
  words.textContent = about;
  canvas.addEventListener("pointermove", ({ clientX, clientY }) => {
    const box = canvas.getBoundingClientRect();
    const [s, t] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height].map((at) =>
      Math.max(0, Math.min(V - 1, Math.floor(at * V))));
    words.textContent = `“${nameOf(chars[s])}” after “${nameOf(chars[t])}”: ${(100 * shares[t][s]).toFixed(1)}\u00a0%`;
  });
  canvas.addEventListener("pointerleave", () => (words.textContent = about));
  const begin = () => [new Bigram({ V, random: generator(1337) })];
  const chart = { low: 2.2, tick: 0.5, count: true };
  const trainer = new Trainer({
    steps: 3000, every: 25, learning_rate: 1e-2, pace: { steps: 3, wait: 12 }, lines: [{ kind: "with" }], chart, begin, draw,
  });
  const heads = ["after", "likeliest", "", "share"].map((text) => (text ? make("th", { scope: "col" }, text) : make("td")));
  box.append(trainer.controls, make("div", { class: "beside" },
    make("figure", { class: "square-table" }, canvas, words),
    make("div", {},
      make("figure", {}, trainer.curve, make("figcaption", {}, "Loss on the held-out text over the optimiser steps. The dotted line is a table that is counted and not learnt: how often each pair of characters stands in the text, and one more for each pair.")),
      make("table", { class: "soft ink" }, make("thead", {}, make("tr", {}, ...heads)), rows),
      make("h4", {}, "What the table writes now"), sample)));
  return trainer;
}

// --- Step 2 ---

function trainAttention(box) {
  const { T } = BATCH, C = 32, V = LESSON.chars.length;
  const lines = [{ name: "with positions", kind: "with" }, { name: "without positions", kind: "without" }];
  const result = make("p", { class: "result" });
  const bodies = lines.map(() => make("tbody"));
  const draw = ({ points, looks }) => {
    const [step, ...losses] = points.at(-1) ?? [0];
    const [first, second] = losses.map((loss) => Number(loss.toFixed(2))); // the gap of what is shown
    const gap = Math.abs(first - second).toFixed(2), lower = lines[first < second ? 0 : 1].name;
    result.textContent = !step
      ? "Guess before you train: which of the two is lower after 500 steps, and which at the end?"
      : `Step ${step.toLocaleString("en")}: with positions ${losses[0].toFixed(2)}, without ${losses[1].toFixed(2)}. ` +
        (gap === "0.00" ? "They are equal." : `The one ${lower} is lower by ${gap}.`);
    bodies.forEach((body, i) => body.replaceChildren(...Array.from({ length: T }, (_, back) => {
      const share = looks?.[i][back];
      const where = make("th", { scope: "row" }, back ? `${back} back` : "itself");
      const said = share === undefined ? "–" : `${Math.round(100 * share)}\u00a0%`;
      return make("tr", {}, where, make("td", { class: "share", "--p": share ?? 0 }, make("i")), make("td", {}, said));
    })));
  };
  const begin = () => [true, false].map((positions) => new SelfAttention({ V, C, T, positions, random: generator(1337) }));
  const trainer = new Trainer({
    steps: 5000, every: 100, learning_rate: 1e-3, pace: { steps: Infinity, wait: 0 }, lines,
    chart: { low: 2.1, tick: 0.5 }, begin, draw,
  });
  const table = ({ name, kind }, body) => make("table", { class: `soft looks ${kind}` }, make("caption", {}, name), body);
  const key = lines.map(({ name, kind }) => make("span", { class: kind }, make("i"), name));
  box.append(trainer.controls, result, make("div", { class: "beside" },
    make("figure", {}, make("p", { class: "line-names" }, ...key), trainer.curve,
      make("figcaption", {}, "Loss on the held-out text over the optimiser steps.")),
    make("div", {}, make("div", { class: "two-looks" }, ...lines.map((line, i) => table(line, bodies[i]))),
      make("p", { class: "small" }, "Where the last of 8 characters looks: the mean of its weights over the held-out text. Without positions the head knows which characters are there, and not where."))));
  return trainer;
}

const trainers = {};
for (const [name, build] of Object.entries({ "01_bigram": trainBigram, "02_self_attention": trainAttention })) {
  trainers[name] = build($(`[data-train="${name}"]`));
  trainers[name].reset();
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => trainers["01_bigram"].show());
