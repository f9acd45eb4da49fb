// The models of steps 1 to 7 as their scripts have them: the same names, one function a module.
// T: positions, C: channels, V: characters of the vocabulary. There is one text, no batch: a tensor
// (T, C) is a list of T rows, a Float64Array of C numbers each. Every module takes the positions
// that are new, and finds in `past` the keys and values of those before.
"use strict";

/* The weights of each step by its name, as docs/source/export.py packs them. */
const WEIGHTS = {};

/* The sum of the products of two rows. */
function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/* Two tensors added, (T, C) each. */
function add(x, y) {
  return x.map((row, t) => {
    const out = row.slice();
    for (let c = 0; c < out.length; c++) out[c] += y[t][c];
    return out;
  });
}

/* Rows of a table, one for each number in idx (T,): (T, C). */
const embedding = (idx, { weight }) => idx.map((token) => weight[token]);

/* The same of one position, (in,) to (out,): four outputs side by side. */
function linearOfOne(x, weight, bias) {
  const out = new Float64Array(weight.length), last = weight.length - 1;
  for (let o = 0; o <= last; o += 4) {
    const [p, q, r] = [o + 1, o + 2, o + 3].map((n) => Math.min(n, last)); // at the end, again
    const w0 = weight[o], w1 = weight[p], w2 = weight[q], w3 = weight[r];
    let [s0, s1, s2, s3] = bias ? [bias[o], bias[p], bias[q], bias[r]] : [0, 0, 0, 0];
    for (let i = 0; i < x.length; i++) {
      const xi = x[i];
      s0 += w0[i] * xi; s1 += w1[i] * xi; s2 += w2[i] * xi; s3 += w3[i] * xi;
    }
    out[r] = s3; out[q] = s2; out[p] = s1; out[o] = s0;
  }
  return out;
}

/* (T, in) to (T, out); weight (out, in), bias (out,) or none. The time goes here: two outputs at
   four positions each are computed side by side, eight sums that need not wait for each other. */
function linear(x, { weight, bias }) {
  if (x.length === 1) return [linearOfOne(x[0], weight, bias)];
  const out = x.map(() => new Float64Array(weight.length)); // (T, out)
  const width = weight[0].length;
  for (let t = 0; t < x.length; t += 4) {
    const [t1, t2, t3] = [1, 2, 3].map((n) => Math.min(t + n, x.length - 1)); // at the end, again
    const [x0, x1, x2, x3] = [x[t], x[t1], x[t2], x[t3]];
    for (let o = 0; o < weight.length; o += 2) {
      const p = Math.min(o + 1, weight.length - 1);
      const [v, w] = [weight[o], weight[p]];
      let v0, v1, v2, v3, w0, w1, w2, w3;
      v0 = v1 = v2 = v3 = bias ? bias[o] : 0;
      w0 = w1 = w2 = w3 = bias ? bias[p] : 0;
      for (let i = 0; i < width; i++) {
        const vi = v[i], wi = w[i], a = x0[i], b = x1[i], c = x2[i], d = x3[i];
        v0 += vi * a; v1 += vi * b; v2 += vi * c; v3 += vi * d;
        w0 += wi * a; w1 += wi * b; w2 += wi * c; w3 += wi * d;
      }
      out[t3][o] = v3; out[t2][o] = v2; out[t1][o] = v1; out[t][o] = v0;
      out[t3][p] = w3; out[t2][p] = w2; out[t1][p] = w1; out[t][p] = w0;
    }
  }
  return out;
}

/* Each row to mean 0 and variance 1, then scaled and shifted: (T, C) to (T, C). */
function layerNorm(x, { weight, bias }) {
  return x.map((row) => {
    const mean = row.reduce((sum, value) => sum + value, 0) / row.length;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / row.length;
    const scale = 1 / Math.sqrt(variance + 1e-5);
    return row.map((value, c) => (value - mean) * scale * weight[c] + bias[c]);
  });
}

/* Scores (n,) to probabilities (n,). */
function softmax(scores) {
  const highest = scores.reduce((a, b) => Math.max(a, b));
  const odds = scores.map((score) => Math.exp(score - highest)); // at most 1, so never infinite
  const sum = odds.reduce((a, b) => a + b);
  return odds.map((value) => value / sum);
}

/* One head of causal attention: (T, C) to (T, head_size). */
function head(x, p, past) {
  if (!past.heads.has(p)) past.heads.set(p, { k: [], v: [], q: [], weights: [], out: [] });
  const kept = past.heads.get(p);
  const { k, v } = kept;
  k.push(...linear(x, p.key)); // (S, head_size), S: the positions before and the new ones
  v.push(...linear(x, p.value)); // (S, head_size)
  const head_size = p.key.weight.length;
  const scale = head_size ** -0.5; // keeps the variance of the scores near 1
  const queries = linear(x, p.query); // (T, head_size)
  const weights = queries.map((q, t) => {
    const seen = past.masked ? past.length + t + 1 : k.length; // the mask: no look at the future
    const scores = new Float64Array(seen);
    for (let s = 0; s < seen; s++) scores[s] = dot(q, k[s]) * scale;
    return softmax(scores); // sums to 1
  });
  const averaged = weights.map((row) => {
    const out = new Float64Array(head_size);
    for (let s = 0; s < row.length; s++) {
      const [weight, value] = [row[s], v[s]];
      for (let c = 0; c < head_size; c++) out[c] += weight * value[c];
    }
    return out;
  });
  kept.q.push(...queries); // these three for the page, which shows them
  kept.weights.push(...weights);
  kept.out.push(...averaged);
  return averaged;
}

/* Heads side by side, then a projection where the step has one: (T, C) to (T, C). */
function multiHeadAttention(x, p, past) {
  const heads = Object.values(p.heads).map((one) => head(x, one, past)); // (T, head_size) each
  const cat = x.map((row, t) => {
    const out = new Float64Array(row.length);
    heads.forEach((one, i) => out.set(one[t], i * one[t].length));
    return out;
  }); // (T, C)
  return p.proj ? linear(cat, p.proj) : cat;
}

/* Each position transformed on its own: (T, C) to (T, C). */
function feedForward(x, { net }) {
  const hidden = linear(x, net[0]).map((row) => row.map((value) => Math.max(0, value))); // ReLU
  return net[2] ? linear(hidden, net[2]) : hidden;
}

/* A block of step 5: each sub-layer replaces x. */
function block(x, p, past) {
  x = multiHeadAttention(x, p.attention, past); // (T, C)
  return feedForward(x, p.feed_forward); // (T, C)
}

/* A block from step 6 on: each sub-layer adds to x. */
function residualBlock(x, p, past) {
  x = add(x, multiHeadAttention(layerNorm(x, p.norm1), p.attention, past)); // (T, C)
  return add(x, feedForward(layerNorm(x, p.norm2), p.feed_forward)); // (T, C)
}

/* What each character is, plus where it stands: (T, C). */
function embeddings(idx, p, past) {
  const positions = idx.map((_, t) => past.length + t);
  return add(embedding(idx, p.token_embedding), embedding(positions, p.position_embedding));
}

/* From step 6 on: x after the blocks (T, C) to logits (T, V). */
const readOut = (x, p) => linear(layerNorm(x, p.norm), p.lm_head);

/* The forward of each step: idx (T,) to logits (T, V). */
const FORWARD = {
  "01_bigram": (idx, p) => embedding(idx, p.token_embedding),
  "02_self_attention": (idx, p, past) => {
    const x = embeddings(idx, p, past); // (T, C)
    return linear(head(x, p.attention, past), p.lm_head);
  },
  "03_multihead": (idx, p, past) => {
    const x = embeddings(idx, p, past); // (T, C)
    return linear(multiHeadAttention(x, p.attention, past), p.lm_head);
  },
  "04_feedforward": (idx, p, past) => {
    let x = embeddings(idx, p, past); // (T, C)
    x = multiHeadAttention(x, p.attention, past); // (T, C)
    return linear(feedForward(x, p.feed_forward), p.lm_head);
  },
  "05_blocks": (idx, p, past) => {
    let x = embeddings(idx, p, past); // (T, C)
    for (const layer of Object.values(p.blocks)) x = block(x, layer, past); // (T, C)
    return linear(x, p.lm_head);
  },
  "06_residual_layernorm": (idx, p, past) => {
    let x = embeddings(idx, p, past); // (T, C)
    const path = [x]; // what the blocks begin with, and what each makes of it
    for (const layer of Object.values(p.blocks)) path.push((x = residualBlock(x, layer, past))); // (T, C)
    path.forEach((x, i) => (past.path[i] ??= []).push(...x));
    return readOut(x, p);
  },
};
FORWARD["07_full_gpt"] = FORWARD["06_residual_layernorm"]; // the same network, larger

/* Packed weights as the modules have them: "blocks.0.norm1.bias" is blocks[0].norm1.bias. They are
   integers of 16 bits, and each row has a number of its own that they are multiplied by. */
function unpack({ shapes, scales, int16 }) {
  const bytes = (base64) => {
    const text = atob(base64), out = new Uint8Array(text.length);
    for (let i = 0; i < out.length; i++) out[i] = text.charCodeAt(i);
    return new DataView(out.buffer);
  };
  const [factors, values] = [bytes(scales), bytes(int16)];
  let rows = 0, at = 0;
  const row = (n) => {
    const factor = factors.getFloat32(4 * rows++, true); // the lower byte first
    const out = new Float64Array(n);
    for (let i = 0; i < n; i++) out[i] = factor * values.getInt16(2 * at++, true);
    return out;
  };
  const model = {};
  for (const [name, [n, width]] of Object.entries(shapes)) {
    const keys = name.split(".");
    const last = keys.pop();
    const module = keys.reduce((inner, key) => (inner[key] ??= {}), model);
    module[last] = width ? Array.from({ length: n }, () => row(width)) : row(n);
  }
  return model;
}

/* The model of a step, with its weights. */
class LanguageModel {
  constructor(name, p = unpack(WEIGHTS[name])) {
    this.p = p;
    this.compute = FORWARD[name];
    this.block_size = WEIGHTS[name].config.block_size; // the longest context
  }

  /* What the model has seen: of each head the keys and values of all positions, and for the page the
     queries, weights and results, and from step 6 on the path of each position through the blocks.
     Without the mask each position sees the later ones, too. */
  static past(masked = true) {
    return { length: 0, heads: new Map(), path: [], masked };
  }

  /* Logits (T, V) of what follows each of idx (T,), which comes after the positions in past. */
  forward(idx, past = LanguageModel.past()) {
    const logits = this.compute(idx, this.p, past);
    past.length += idx.length;
    return logits;
  }

  /* Continue idx (T,), yielding each next character as drawn. Where the context is full, all of it
     moves by one position, and what was remembered of it no longer holds. The temperature is a
     function, since it may change while the model writes. */
  *generate(idx, temperature, random) {
    for (let past = LanguageModel.past(); ; ) {
      if (idx.length > this.block_size) {
        past = LanguageModel.past();
        idx = idx.slice(-this.block_size); // (T,), as far back as there are positions
      }
      const logits = this.forward(idx.slice(past.length), past).at(-1); // (V,)
      const probs = softmax(logits.map((logit) => logit / temperature())); // (V,)
      const next = multinomial(probs, random);
      idx = [...idx, next];
      yield next;
    }
  }
}

/* An index, drawn with these probabilities. */
function multinomial(probs, random) {
  let rest = random();
  for (let token = 0; token < probs.length - 1; token++) {
    if (rest < probs[token]) return token;
    rest -= probs[token];
  }
  return probs.length - 1;
}

/* Random numbers from 0 to 1, the same for the same seed: mulberry32 by Tommy Ettinger. */
function generator(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let bits = Math.imul(seed ^ (seed >>> 15), seed | 1);
    bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}
