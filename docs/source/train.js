// How steps 1 and 2 learn: the forward of their scripts, the loss, the gradients, AdamW. PyTorch finds
// the gradients by itself (loss.backward()); here each module has a backward, written by hand. It takes
// the gradient of the loss by what the module gave, keeps that by its weights, and returns that by what
// the module took.
// B: sequences, T: positions, N: all B * T of them, C: channels, V: characters of the vocabulary.
// A tensor (N, C) is one Float64Array of N * C numbers, row after row.
"use strict";

/* A weight (rows, width): its numbers, the gradient by each, and the two averages of AdamW. */
class Parameter {
  constructor(rows, width, draw) {
    this.width = width;
    this.data = Float64Array.from({ length: rows * width }, draw);
    [this.grad, this.average, this.square] = [1, 2, 3].map(() => new Float64Array(rows * width));
  }
}

/* Each row of a (N, K) times each row of b (M, K): (N, M). The time goes here: two rows of b and four
   of a are multiplied side by side, eight sums that need not wait for each other. */
function products(a, b, K) {
  const N = a.length / K, M = b.length / K, out = new Float64Array(N * M);
  for (let n = 0; n < N; n += 4) {
    const n1 = Math.min(n + 1, N - 1), n2 = Math.min(n + 2, N - 1), n3 = Math.min(n + 3, N - 1); // at the end, again
    const a0 = n * K, a1 = n1 * K, a2 = n2 * K, a3 = n3 * K;
    for (let m = 0; m < M; m += 2) {
      const m1 = Math.min(m + 1, M - 1), b0 = m * K, b1 = m1 * K;
      let v0 = 0, v1 = 0, v2 = 0, v3 = 0, w0 = 0, w1 = 0, w2 = 0, w3 = 0;
      for (let i = 0; i < K; i++) {
        const v = b[b0 + i], w = b[b1 + i];
        const x0 = a[a0 + i], x1 = a[a1 + i], x2 = a[a2 + i], x3 = a[a3 + i];
        v0 += v * x0; v1 += v * x1; v2 += v * x2; v3 += v * x3;
        w0 += w * x0; w1 += w * x1; w2 += w * x2; w3 += w * x3;
      }
      out[n * M + m] = v0; out[n1 * M + m] = v1; out[n2 * M + m] = v2; out[n3 * M + m] = v3;
      out[n * M + m1] = w0; out[n1 * M + m1] = w1; out[n2 * M + m1] = w2; out[n3 * M + m1] = w3;
    }
  }
  return out;
}

/* (N, K) to (K, N). */
function transposed(a, K) {
  const N = a.length / K, out = new Float64Array(a.length);
  for (let n = 0; n < N; n++) for (let i = 0; i < K; i++) out[i * N + n] = a[n * K + i];
  return out;
}

/* Adds b to a, number by number. */
function addTo(a, b) {
  for (let i = 0; i < a.length; i++) a[i] += b[i];
  return a;
}

/* Rows of a table: idx (N,) to (N, C). */
class Embedding {
  constructor(rows, C, random) {
    this.weight = new Parameter(rows, C, () => gaussian(random));
  }
  forward(idx) {
    this.idx = idx;
    const { data, width } = this.weight, out = new Float64Array(idx.length * width);
    for (let n = 0; n < idx.length; n++) {
      for (let c = 0; c < width; c++) out[n * width + c] = data[idx[n] * width + c];
    }
    return out;
  }
  backward(dout) { // a row that was taken twice gets both gradients
    const { grad, width } = this.weight;
    for (let n = 0; n < this.idx.length; n++) {
      for (let c = 0; c < width; c++) grad[this.idx[n] * width + c] += dout[n * width + c];
    }
  }
}

/* (N, in) to (N, out); weight (out, in), bias (out,) or none. */
class Linear {
  constructor(inputs, outputs, random, bias = true) {
    const draw = () => (2 * random() - 1) * inputs ** -0.5; // as nn.Linear begins
    this.weight = new Parameter(outputs, inputs, draw);
    if (bias) this.bias = new Parameter(1, outputs, draw);
  }
  forward(x) {
    this.x = x;
    const out = products(x, this.weight.data, this.weight.width);
    if (this.bias) {
      const { data, width } = this.bias;
      for (let i = 0; i < out.length; i++) out[i] += data[i % width];
    }
    return out;
  }
  backward(dout) {
    const { data, grad, width } = this.weight;
    const outputs = data.length / width, N = dout.length / outputs;
    if (this.bias) for (let i = 0; i < dout.length; i++) this.bias.grad[i % outputs] += dout[i];
    addTo(grad, products(transposed(dout, outputs), transposed(this.x, width), N)); // (out, in)
    return products(dout, transposed(data, width), outputs); // (N, in)
  }
}

/* One head of causal attention: (N, C) to (N, d). */
class CausalHead {
  constructor(C, d, T, random) {
    [this.query, this.key, this.value] = [1, 2, 3].map(() => new Linear(C, d, random, false));
    this.d = d;
    this.T = T;
  }
  forward(x) {
    const { d, T } = this, scale = d ** -0.5; // keeps the variance of the scores near 1
    const q = this.query.forward(x), k = this.key.forward(x), v = this.value.forward(x); // (N, d)
    const N = q.length / d, weights = new Float64Array(N * T), out = new Float64Array(N * d);
    for (let n = 0; n < N; n++) {
      const t = n % T, first = n - t; // the mask: from the sequence's first position up to its own
      const row = weights.subarray(n * T, n * T + t + 1);
      let highest = -Infinity, sum = 0;
      for (let s = 0; s <= t; s++) {
        for (let c = 0; c < d; c++) row[s] += q[n * d + c] * k[(first + s) * d + c];
        row[s] *= scale;
        highest = Math.max(highest, row[s]);
      }
      for (let s = 0; s <= t; s++) sum += row[s] = Math.exp(row[s] - highest);
      for (let s = 0; s <= t; s++) {
        row[s] /= sum; // the weights of a position sum to 1
        for (let c = 0; c < d; c++) out[n * d + c] += row[s] * v[(first + s) * d + c];
      }
    }
    Object.assign(this, { q, k, v, weights });
    return out;
  }
  backward(dout) {
    const { d, T, q, k, v, weights } = this, scale = d ** -0.5;
    const [dq, dk, dv] = [q, k, v].map((x) => new Float64Array(x.length));
    const dw = new Float64Array(T);
    for (let n = 0; n < q.length / d; n++) {
      const t = n % T, first = n - t;
      let mean = 0;
      for (let s = 0; s <= t; s++) {
        const w = weights[n * T + s], at = (first + s) * d;
        dw[s] = 0;
        for (let c = 0; c < d; c++) {
          dw[s] += dout[n * d + c] * v[at + c];
          dv[at + c] += w * dout[n * d + c];
        }
        mean += w * dw[s];
      }
      for (let s = 0; s <= t; s++) {
        const dscore = weights[n * T + s] * (dw[s] - mean) * scale, at = (first + s) * d; // of the softmax
        for (let c = 0; c < d; c++) {
          dq[n * d + c] += dscore * k[at + c];
          dk[at + c] += dscore * q[n * d + c];
        }
      }
    }
    const dx = this.query.backward(dq); // x went three ways, so three gradients add up
    return addTo(addTo(dx, this.key.backward(dk)), this.value.backward(dv)); // (N, C)
  }
}

/* The mean of −ln p of each target (N,), and its gradient by the logits (N, V): the probabilities, less
   1 at the target. */
function crossEntropy(logits, targets) {
  const N = targets.length, V = logits.length / N, grad = new Float64Array(logits.length);
  let loss = 0;
  for (let n = 0; n < N; n++) {
    let highest = -Infinity, sum = 0;
    for (let i = n * V; i < (n + 1) * V; i++) highest = Math.max(highest, logits[i]);
    for (let i = n * V; i < (n + 1) * V; i++) sum += grad[i] = Math.exp(logits[i] - highest);
    for (let i = n * V; i < (n + 1) * V; i++) grad[i] /= sum * N;
    loss += (Math.log(sum) + highest - logits[n * V + targets[n]]) / N;
    grad[n * V + targets[n]] -= 1 / N;
  }
  return { loss, grad };
}

/* Step 1: idx (N,) to logits (N, V), the row of each character. */
class Bigram {
  constructor({ V, random }) {
    this.token_embedding = new Embedding(V, V, random);
  }
  forward(idx) {
    return this.token_embedding.forward(idx);
  }
  backward(dlogits) {
    this.token_embedding.backward(dlogits);
  }
}

/* Step 2: idx (N,), sequences of T, to logits (N, V); without positions, where that is asked. */
class SelfAttention {
  constructor({ V, C, T, random, positions = true }) {
    this.token_embedding = new Embedding(V, C, random);
    const position_embedding = new Embedding(T, C, random); // drawn anyway, so that both begin alike
    if (positions) this.position_embedding = position_embedding;
    this.attention = new CausalHead(C, C, T, random);
    this.lm_head = new Linear(C, V, random);
  }
  forward(idx) {
    const x = this.token_embedding.forward(idx); // (N, C)
    const places = idx.map((_, n) => n % this.attention.T); // (N,), 0 to T - 1 in each sequence
    if (this.position_embedding) addTo(x, this.position_embedding.forward(places));
    return this.lm_head.forward(this.attention.forward(x)); // (N, V)
  }
  backward(dlogits) {
    const dx = this.attention.backward(this.lm_head.backward(dlogits)); // (N, C)
    this.token_embedding.backward(dx);
    this.position_embedding?.backward(dx);
  }
}

/* The weights of a model by their names, as state_dict has them: "attention.query.weight". */
function parametersOf(module, prefix = "") {
  return Object.entries(module).flatMap(([name, part]) => {
    if (part instanceof Parameter) return [[prefix + name, part]];
    const inner = part?.forward || part?.weight;
    return inner ? parametersOf(part, `${prefix}${name}.`) : [];
  });
}

/* AdamW with the defaults of torch. */
class AdamW {
  constructor(model, learning_rate) {
    this.parameters = parametersOf(model).map(([, parameter]) => parameter);
    this.learning_rate = learning_rate;
    this.steps = 0;
  }
  zero_grad() {
    for (const { grad } of this.parameters) grad.fill(0);
  }
  step() {
    const [beta1, beta2, decay, lr] = [0.9, 0.999, 0.01, this.learning_rate];
    this.steps++;
    const [unbias1, unbias2] = [1 - beta1 ** this.steps, 1 - beta2 ** this.steps]; // both begin at 0
    for (const { data, grad, average, square } of this.parameters) {
      for (let i = 0; i < data.length; i++) {
        average[i] += (1 - beta1) * (grad[i] - average[i]);
        square[i] += (1 - beta2) * (grad[i] ** 2 - square[i]);
        data[i] -= lr * decay * data[i];
        data[i] -= ((lr / unbias1) * average[i]) / (Math.sqrt(square[i] / unbias2) + 1e-8);
      }
    }
  }
}

/* One optimiser step on a batch x, y (N,) each; returns the loss before it. */
function trainStep(model, optimizer, [x, y]) {
  const { loss, grad } = crossEntropy(model.forward(x), y);
  optimizer.zero_grad();
  model.backward(grad);
  optimizer.step();
  return loss;
}

/* Windows of the tokens from these starts on, and what comes next at each position: x, y (N,). */
function windowsAt(tokens, starts, T) {
  const x = new Int32Array(starts.length * T), y = new Int32Array(starts.length * T);
  starts.forEach((start, b) => {
    x.set(tokens.subarray(start, start + T), b * T);
    y.set(tokens.subarray(start + 1, start + T + 1), b * T);
  });
  return [x, y];
}

/* A random batch of B windows. */
function randomBatch(tokens, B, T, random) {
  return windowsAt(tokens, Array.from({ length: B }, () => Math.floor(random() * (tokens.length - T))), T);
}

/* The whole text in windows that follow each other, B at a time; the last T characters may be left. */
function* batchesInOrder(tokens, B, T) {
  const starts = Array.from({ length: Math.floor((tokens.length - 1) / T) }, (_, i) => i * T);
  for (let i = 0; i < starts.length; i += B) yield windowsAt(tokens, starts.slice(i, i + B), T);
}

/* A number of the normal distribution, from two even ones: Box and Muller. */
function gaussian(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}
