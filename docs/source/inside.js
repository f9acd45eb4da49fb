// Where the inside of a step is drawn: under its row in the list of all, and in its section.
"use strict";

const fixed = (x, n = 2) => {
  const digits = Math.abs(x) >= 1000 ? 0 : Math.abs(x) >= 100 ? Math.min(n, 1) : n;
  return (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "−");
};
const percent = (share, n = 0) => (share < 0.5 * 10 ** -(n + 2) ? "0" : (100 * share).toFixed(n));
const said = (text) => make("p", { class: "said" }, text);

/* The insides show what the model gives; the rows may show what the temperature makes of it. */
const ofTemperature = () =>
  temperature() === 1 ? "" : ` These are the guesses at temperature 1; the row above has them at ${temperature().toFixed(1)}.`;

function softTable(kind, headings, body) {
  const head = headings.map((text) => (text ? make("th", { scope: "col" }, text) : make("td")));
  return make("table", { class: `soft ${kind}` }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

/* The views of sections that are in the window or close to it; the others are drawn when they come. */
const near = new Set();

function drawInside(view) {
  const { name, n, inside } = view;
  if (n === 0) drawTable(view);
  else if (model(name)) drawHeads(view);
  else inside.replaceChildren(...asleep(view));
  if (view.waits && !(loading && !failed && !model(name))) giveFocus(view);
}

/* To the first control of what stands now where the button to load was, if the reader has not gone on. */
function giveFocus(view) {
  view.waits = false;
  if (document.activeElement === document.body) $("button, input", view.inside)?.focus({ preventScroll: true });
}

/* What stands in the place of step 7 until its weights are there. */
function asleep(view) {
  if (loading && !failed) return [make("p", { class: "said coming" }, "Its weights are on their way …")];
  const load = make("button", { type: "button", class: "load" }, failed ? "Try again" : "Load step 7 (1.9 MB)");
  load.addEventListener("click", () => {
    view.waits = load === document.activeElement;
    wake(true);
    drawInsides();
  });
  return failed ? [said(`${DATA.beside} was not found beside this page.`), load] : [load];
}

function drawFigure(view) {
  view.stale = false;
  drawRow(view);
  drawInside(view);
}

const drawFigures = () => figures.forEach(drawFigure);

function drawInsides() {
  for (const view of rows) if (view.name === state.open) drawInside(view);
  for (const view of figures) if (near.has(view)) drawInside(view);
}

/* Draw a step again, wherever it is shown, after a change of its head, its cell or its switches. */
function redraw(name, text) {
  draw();
  for (const view of viewsOf(name)) if (!view.inside.hidden) drawInside(view);
  remember();
  announce(text);
}

/* Sections draw themselves as the reader comes to them. A link "try it" sets the step of its section
   as the link says, and leaves the reader's line as it is. */
function watchFigures() {
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const view = figures.find(({ item }) => item === target);
      if (!isIntersecting) near.delete(view);
      else if (near.add(view) && view.stale) drawFigure(view);
    }
  }, { rootMargin: "500px" });
  for (const view of figures) {
    watch.observe(view.item);
    for (const link of all("a[href^='#step=']", view.item)) {
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        const asked = new URLSearchParams(link.hash.slice(1));
        if (asked.has("head")) state.head[view.name] = Number(asked.get("head")) - 1;
        state.off[view.name] = asked.get("off") ?? "";
        if (view.name === LARGE) wake(true);
        forget();
        redraw(view.name, said_of(view.name));
      });
    }
  }
}
