// What both pages share: how a step learns, the averages, the navigation, the tokens.
"use strict";

const $ = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/* An element with these attributes and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/* The same for a part of a picture. */
function shape(tag, attributes = {}, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/* The sample and both losses of each evaluation, by a slider. */
function learner(box, evaluations) {
  const [slider, at, text] = ["input", ".at", ".sample"].map((name) => $(name, box));
  const show = () => {
    const [step, train, val, sample] = evaluations[slider.value];
    const said = `optimiser step ${step}: train loss ${train.toFixed(2)}, val loss ${val.toFixed(2)}`;
    at.textContent = said;
    slider.setAttribute("aria-valuetext", said);
    text.textContent = sample;
  };
  slider.addEventListener("input", show);
  show();
}

/* The softmax of section 3 by hand. What is printed adds up: the mean is that of the weights as
   they are shown, and these are rounded so that they make 1.00. */
function averages() {
  const box = $(".scores");
  if (!box) return;
  const table = $(".soft-mean");
  const x = table.dataset.x.split(" ").map(Number);
  const sliders = all("input", box);
  const row = table.tBodies[0].lastElementChild;
  const show = () => {
    const scores = sliders.map((slider) => Number(slider.value));
    const odds = scores.map(Math.exp), sum = odds.reduce((a, b) => a + b);
    const exact = odds.map((value) => (100 * value) / sum);
    const cents = exact.map(Math.floor);
    const order = [...exact.keys()].sort((a, b) => exact[b] - cents[b] - (exact[a] - cents[a]));
    const lacks = 100 - cents.reduce((a, b) => a + b);
    for (const i of order.slice(0, lacks)) cents[i]++;
    const mean = cents.reduce((total, c, s) => total + c * x[s], 0) / 100;
    cents.forEach((c, s) => {
      sliders[s].nextElementSibling.textContent = scores[s].toFixed(1).replace("-", "−");
      row.children[s + 1].textContent = (c / 100).toFixed(2);
      row.children[s + 1].style.setProperty("--w", `${c}%`);
    });
    row.lastElementChild.textContent = mean.toFixed(2);
    const products = cents.map((c, s) => `${(c / 100).toFixed(2)} · ${x[s]}`);
    $(".weighted", box).textContent = `${products.join(" + ")} = ${mean.toFixed(2)}`;
  };
  box.addEventListener("input", show);
  $(".zero", box).addEventListener("click", () => {
    for (const slider of sliders) slider.value = 0;
    show();
  });
  show();
}

/* Links to the scripts: beside the page in a clone, on GitHub where the page is one of GitHub Pages. */
function linkScripts() {
  const [, owner] = location.hostname.match(/^([\w-]+)\.github\.io$/) ?? [];
  const top = owner ? `https://github.com/${owner}/${location.pathname.split("/")[1]}/blob/HEAD/` : "../";
  if (owner || location.protocol === "file:") for (const link of all("a[data-file]")) link.href = top + link.dataset.file;
}

/* The navigation marks where the reader is; a section without a link belongs to the one before it.
   Where it is one line that scrolls, a faded edge says that there is more. */
function markNavigation() {
  const bar = $("nav.steps"), links = all("a[href^='#']", bar);
  const marked = new Set(), linkOf = new Map();
  const fade = () => {
    bar.classList.toggle("more-before", bar.scrollLeft > 4);
    bar.classList.toggle("more-after", bar.scrollLeft + bar.clientWidth < bar.scrollWidth - 4);
  };
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) marked.add(linkOf.get(target));
      else marked.delete(linkOf.get(target));
    }
    for (const link of links) {
      if (marked.has(link)) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    const now = $("[aria-current]", bar);
    if (now && bar.scrollWidth > bar.clientWidth) {
      bar.scrollLeft = now.offsetLeft - (bar.clientWidth - now.offsetWidth) / 2;
    }
  }, { rootMargin: "-45% 0px -54% 0px" });
  let link;
  for (const section of all("main section")) {
    link = links.find(({ hash }) => section.id === hash.slice(1) || $(`h2${hash}`, section)) ?? link;
    if (!link) continue;
    linkOf.set(section, link);
    watch.observe(section);
  }
  bar.addEventListener("scroll", fade, { passive: true });
  new ResizeObserver(() => {
    document.documentElement.style.scrollPaddingTop = `${bar.offsetHeight + 18}px`;
    fade();
  }).observe(bar);
}

/* A line cut into tokens, after the first n of the merges of step 17. */
function tokens(box, { chars, merges }) {
  const [line, slider, cut, count] = ["textarea", "input", ".cut", ".count"].map((name) => $(name, box));
  const piece = / ?[\p{L}\p{N}_]+| ?[^\p{L}\p{N}_\s]+|\s+/gu; // joins never cross a space before a word
  const texts = [...chars];
  for (const [left, right] of merges) texts.push(texts[left] + texts[right]);
  const encode = (text, n) => (text.match(piece) ?? []).flatMap((part) => {
    let found = [...part].map((char) => (chars.includes(char) ? chars.indexOf(char) : char)); // unknown: the character
    for (let i = 0; i < n; i++) { // in the order in which they were learnt
      const [left, right] = merges[i], joined = [];
      for (const token of found) {
        if (token === right && joined.at(-1) === left) joined[joined.length - 1] = chars.length + i;
        else joined.push(token);
      }
      found = joined;
    }
    return found;
  });
  const visible = (text) => text.replaceAll("\n", "↵").replaceAll(" ", "␣");
  const show = () => {
    const n = Number(slider.value) - chars.length;
    const found = encode(line.value, n);
    const known = found.filter((token) => texts[token] !== undefined), unknown = found.filter((token) => texts[token] === undefined);
    cut.replaceChildren(...found.map((token) => (unknown.includes(token)
      ? make("span", { class: "unknown", title: "no token" }, visible(token))
      : make("span", { class: token < chars.length ? "one" : "joined", title: `token ${token}` }, visible(texts[token])))));
    const length = known.map((token) => texts[token]).join("").length;
    const without = unknown.length ? ` Not in the text, so without a token: ${[...new Set(unknown)].join(" ")}` : "";
    const last = n ? ` The last to be joined: “${visible(texts[Number(slider.value) - 1])}”.` : " Each character is a token.";
    count.textContent = `${slider.value} tokens are known. Your ${length} characters are ${known.length} of them.${last}${without}`;
    slider.setAttribute("aria-valuetext", count.textContent);
  };
  tokens.encode = encode;
  box.addEventListener("input", show);
  show();
}

{
  const data = JSON.parse($("#page-data").textContent);
  document.documentElement.classList.add("js");
  for (const part of all(".live")) part.hidden = false;
  for (const box of all("[data-learn]")) learner(box, data.learning[box.dataset.learn]);
  averages();
  markNavigation();
  linkScripts();
  if ($("#token-lab")) tokens($("#token-lab"), { ...data.tokens, chars: [...data.tokens.chars] });
}
