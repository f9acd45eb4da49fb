// The path of a position through the blocks of steps 6 and 7: after each block the final norm and lm_head
// are applied to what is there, and give the letters that it stands for so far.
"use strict";

/* Probabilities (V,) read out of x (T, C) at its last position. */
const readLast = (x, p) => softmax(readOut([x.at(-1)], p)[0]);

/* path: x (T, C) before the blocks and after each; next: the token that follows, where the line has one. */
function drawPath(name, one, path, window, next) {
  const probs = path.map((x) => readLast(x, one.p)); // (V,) each
  const [followed] = next === undefined ? likeliest(probs.at(-1), 1)[0] : [next];
  const blocks = Object.keys(one.p.blocks); // those that are not skipped
  const places = ["embeddings", ...blocks.map((b) => `block ${Number(b) + 1}`)];
  const losses = one.off ? [] : FIRST.heads[name].path; // measured with all parts on
  const rows = probs.map((row, i) => {
    const best = likeliest(row, 3).map(([token, p]) => {
      const name = letter(make("code"), token);
      return make("td", { class: token === followed ? "guess-of on" : "guess-of", "--p": p.toFixed(3) },
        name, ` ${percent(p)} %`, make("i", { "aria-hidden": "true" }));
    });
    return make("tr", {}, make("th", { scope: "row" }, places[i], i in losses ? make("small", {}, `loss ${losses[i].toFixed(2)}`) : ""), ...best, make("td", { class: "of" }, `${percent(row[followed], 1)} %`));
  });
  const which = next === undefined ? `${quoted(followed)}, the last guess` : `${quoted(followed)}, which follows`;
  const heads = ["after", "likeliest", "second", "third", which].map((text) => make("th", { scope: "col" }, text));
  return make("div", { class: "path" },
    make("h2", {}, `The path of ${quoted(window.at(-1))} through the blocks`),
    make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)),
    said("The final norm and lm_head, applied after each block. The model was trained to be read after its last block alone: the rows before it " +
      `show how far the guess has come.${losses.length ? " The loss is this one model's over the validation split, read out at that place; elsewhere a step's loss is the mean of its seeds." : ""}${ofTemperature()}`));
}
