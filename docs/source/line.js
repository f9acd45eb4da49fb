// The line of the visitor, and what the seven models make of it.
"use strict";

const DATA = JSON.parse(document.getElementById("live-data").textContent);
Object.assign(WEIGHTS, DATA.weights);
const FIRST = DATA.first; // the line that the page opens with, and what step 7 makes of it before it is loaded
const STEPS = DATA.steps; // { name, title, val_loss } of each
const LARGE = STEPS.at(-1).name;
const LONGEST = 64; // characters of the line: what step 7 sees at once
const chars = [...DATA.chars];
const token_of = new Map(chars.map((char, token) => [char, token]));

/* The line: its characters, those that the models know as tokens, and where each token stands.
   at: the chosen token; preview: the one that is pointed at; open: the row that is open in the list
   of all seven. By step: head, the chosen head; off, what is switched off; written, what it wrote;
   cell, the opened cell of its attention, or in step 1 the row of its table. */
const state = { typed: [], tokens: [], spots: [], at: 0, preview: null, open: null, head: {}, off: {}, written: {}, cell: {} };
const idx = () => (state.tokens.length ? state.tokens : [0]); // without a line: a line break
const here = () => Math.min(state.preview ?? state.at, idx().length - 1);
const shown = (token) => ({ "\n": "↵", " ": "␣" })[chars[token]] ?? chars[token];
const quoted = (token) => `“${shown(token)}”`;

/* Characters of a keyboard that the text spells otherwise. */
const SPELT = { "‘": "'", "’": "'", "“": "'", "”": "'", "„": "'", '"': "'", "`": "'", "–": "-", "—": "-", "…": "." };

/* The characters of the line. Those that no model knows stay, and are struck out. Returns what a
   reader has to be told of them. */
function take(text) {
  const all = [...text.replace(/\s/g, " ")];
  state.typed = all.slice(0, LONGEST).map((char) => (token_of.has(char) ? char : SPELT[char] ?? char));
  state.spots = [...state.typed.keys()].filter((place) => token_of.has(state.typed[place]));
  state.tokens = state.spots.map((place) => token_of.get(state.typed[place]));
  state.preview = null;
  const notes = [];
  if (all.length > LONGEST) notes.push(`Only the first ${LONGEST} characters are read; ${all.length - LONGEST} more are left out.`);
  const unknown = [...new Set(state.typed.filter((char) => !token_of.has(char)))];
  if (unknown.length) notes.push(`Not in the text they learnt from, so left out: ${unknown.join(" ")}`);
  const spelt = [...new Set(all.slice(0, LONGEST).filter((char) => !token_of.has(char) && SPELT[char]))];
  if (spelt.length) notes.push(`Spelt as in the text: ${spelt.map((char) => `${char} → ${SPELT[char]}`).join(", ")}`);
  if (!state.tokens.length) notes.push("Nothing yet: they go on from a line break.");
  return notes.join(" ");
}

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
    const key = line.join();
    if (one.pieces?.key === key) return one.pieces.rows;
    const rows = [];
    for (let start = 0; start < line.length; start += T) {
      const past = LanguageModel.past(one.masked);
      rows.push(...one.forward(line.slice(start, start + T), past).map(softmax));
    }
    one.pieces = { key, rows };
    return rows;
  }
  if (readsOn(one, line)) return readOn(one, line);
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

/* Whether a model takes the whole line at once, and so goes on from what it has read of it. */
const readsOn = ({ block_size }, line) => block_size > 8 && line.length <= block_size;

/* The large model computes only what is new since the last line. */
function readOn(one, line) {
  const { past, tokens, rows } = one.kept;
  let same = 0;
  while (same < tokens.length && same < line.length && tokens[same] === line[same]) same++;
  const lists = [...past.heads.values()].flatMap(Object.values);
  for (const list of [...lists, ...past.path, rows, tokens]) list.length = same;
  past.length = same;
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
