// Parts that are switched off, and what it does to the loss.
"use strict";

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

/* The same in words, for a screen reader. */
function said_of(name) {
  if (!model(name)) return "";
  const { former, now } = switchedLoss(name);
  return former === null ? "" : `Loss of your line: ${former.toFixed(2)} as trained, ${now.toFixed(2)} now.`;
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
      if (state.cell[name]) state.cell[name].kept = true;
      forget();
      redraw(name, said_of(name));
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
  const pieces = off.has("mask") ? ` Both read in pieces of ${original(name).block_size} characters, since without the mask a position sees all of its piece.` : "";
  const value = make("b", { class: "now" }, `${former.toFixed(2)} → ${now.toFixed(2)}`);
  const words = off.size
    ? make("p", {}, "Loss of your line: ", value, `.${pieces}`)
    : make("p", {}, "Loss of your line: ", make("b", { class: "now" }, former.toFixed(2)), ". All parts work.");
  box.append(words);
  if (off.size) box.append(said(off.has("mask") ? UNMASKED : UNTRAINED));
  return box;
}

