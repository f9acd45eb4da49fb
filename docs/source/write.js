// Step 7 wakes, and all seven write.
"use strict";

const PACE = 80; // milliseconds a character, when all write

/* Step 7 wakes on first use: its weights are a script beside the page, which works from disk. What
   failed is asked for again when the reader asks: opens step 7, presses Write or the button there. */
let loading = null, failed = false;
function wake(again = false) {
  if (failed && again) loading = null;
  loading ??= new Promise((done) => {
    failed = false;
    const script = make("script", { src: DATA.beside });
    const end = (found) => {
      failed = !found;
      if (failed) script.remove();
      const place = whereabouts();
      draw();
      drawInsides();
      if (place.section) comeTo(place); // what opens above stays above
      done();
    };
    script.addEventListener("load", () => setTimeout(() => end(true)));
    script.addEventListener("error", () => end(false));
    document.head.append(script);
  });
  return loading;
}

let writing = false, runs = 0, seed = 1337;
const room = () => {
  const { line } = rows[0];
  const width = parseFloat(getComputedStyle(line).fontSize) * 0.603;
  return Math.max(24, Math.floor(line.clientWidth / width) * 2 - state.typed.length - 12); // lines end at spaces
};

/* Every step goes on from the line, all at one pace, and with the same random numbers. */
async function write() {
  const run = ++runs;
  writing = true;
  button.textContent = "Stop";
  document.body.classList.add("busy");
  state.preview = null;
  await wake(true);
  if (run !== runs || !writing) return;
  state.written = {};
  const pens = STEPS.filter(({ name }) => model(name)).map(({ name }) => {
    for (const { line } of viewsOf(name)) line.classList.remove("rest");
    return { name, views: viewsOf(name), letters: model(name).generate([...idx()], temperature, generator(seed)) };
  });
  seed++;
  state.at = idx().length - 1;
  draw();
  let left = room();
  const lump = still.matches ? 12 : 1; // no character by character where motion is not wanted
  const pause = still.matches ? 300 : PACE;
  let due = performance.now();
  const tick = () => {
    if (run !== runs || !writing) return;
    const now = Math.min(lump, left);
    left -= now;
    for (const { name, views, letters } of pens) {
      let more = "";
      for (let i = 0; i < now; i++) more += shown(letters.next().value).replace("␣", " ");
      state.written[name] = (state.written[name] ?? "") + more;
      for (const { wrote } of views) goOn(wrote, more);
    }
    if (left <= 0) return halt();
    due = Math.max(due + pause, performance.now());
    setTimeout(tick, due - performance.now());
  };
  tick();
}

/* The same text grows, so that what a reader has selected of it stays selected. */
function goOn(wrote, more) {
  if (wrote.firstChild) wrote.firstChild.appendData(more);
  else wrote.append(more);
}

/* What was written is no longer true of the line. */
function forget() {
  state.written = {};
  for (const { wrote } of [...rows, ...figures]) put(wrote, "");
}

function halt(clear) {
  writing = false;
  document.body.classList.toggle("busy", false); // toggle, as it leaves alone what is so already
  for (const { line } of [...rows, ...figures]) line.classList.toggle("rest", true);
  if (clear) forget();
  const texts = Object.values(state.written);
  put(button, texts.length ? "Write anew" : "Write");
  if (texts.length) announce(texts.map((text, i) => `Step ${i + 1} wrote: ${text}`).join(". "));
}
