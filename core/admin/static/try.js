// Tries a picture: dropped or generated, with a painted or dropped mask, and shows the result.

import { ask } from "./api.js";
import { compare } from "./compare.js";
import { $, h, seconds } from "./dom.js";
import { Easel, fileToCanvas, sample } from "./easel.js";

/** Value and name of each way to show the pictures. */
const ZOOMS = [
  ["width", "Fit the width"],
  ["whole", "Whole picture"],
  ["full", "100 %"],
];

let easel = null;
let sending = false;

/** Shows the panel to callers who may use it. */
export function allow(may) {
  $("try-panel").hidden = !may.try;
  $("try-locked").hidden = may.try;
  $("try-locked").textContent = may.token_is_set
    ? "Unlock the page to try a picture."
    : "Open this page on the worker's own host (http://localhost), or set ADMIN_TOKEN, to try a picture.";
}

const button = (text, action, properties = {}) => {
  const made = h("button", { type: "button", ...properties }, text);
  made.addEventListener("click", action);
  return made;
};

/** A button that opens a file. */
function opener(text, take, properties = {}) {
  const input = h("input", { type: "file", accept: "image/*", hidden: true, ...properties });
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = "";
  });
  return h(
    "span",
    {},
    input,
    button(text, () => input.click()),
  );
}

function start(problem = "") {
  easel = null;
  const zone = h(
    "div",
    { className: "drop" },
    h("p", {}, h("strong", {}, "Drop a picture here")),
    h(
      "div",
      { className: "row" },
      opener("Choose a picture", open, { id: "picture-file" }),
      button(
        "Use a sample",
        () => {
          const { picture, mask } = sample();
          begin(picture, "sample.png", mask);
        },
        { id: "sample" },
      ),
    ),
    h(
      "p",
      { className: "muted" },
      problem ||
        "Then paint over what is to be erased, or drop a mask of the same size: what is not black in it is erased.",
    ),
  );
  droppable(zone, open);
  $("try-panel").replaceChildren(zone);
}

function droppable(zone, take) {
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

async function open(file) {
  try {
    begin(await fileToCanvas(file), file.name);
  } catch (error) {
    start(error.message);
  }
}

function begin(picture, name, mask = null) {
  easel = new Easel(picture, mask);
  const outcome = h("div", { className: "outcome", id: "outcome" });
  const kind = h(
    "select",
    { id: "kind" },
    ...["auto", "long", "short"].map((one) => h("option", {}, one)),
  );
  const size = h("input", { type: "range", min: 4, max: 160, value: easel.brush, id: "brush" });
  size.addEventListener("input", () => {
    easel.brush = Number(size.value);
  });
  const unpaint = button(
    "Unpaint",
    () => {
      easel.unpainting = !easel.unpainting;
      unpaint.setAttribute("aria-pressed", easel.unpainting);
    },
    { aria: { pressed: "false" } },
  );
  const zoom = h(
    "select",
    { id: "zoom" },
    ...ZOOMS.map(([value, text]) => h("option", { value }, text)),
  );
  const send = button("Erase", () => submit(name, kind.value, outcome, send), {
    className: "main",
    id: "send",
  });
  const tools = h(
    "div",
    { className: "row tools" },
    h("label", {}, "Brush", size),
    unpaint,
    button("Undo", () => easel.undo()),
    button("Clear", () => easel.clear()),
    opener("Mask from a file", (file) => takeMask(file, outcome), { id: "mask-file" }),
    h("label", {}, "Zoom", zoom),
    h("label", {}, "Queue", kind),
    h(
      "span",
      { className: "row push" },
      button("Another picture", () => start()),
      send,
    ),
  );
  droppable(easel.element, (file) => takeMask(file, outcome));
  const pane = h("div", { className: "pane" }, easel.element);
  hint(outcome, "The result will be here.");
  const bench = h(
    "div",
    { className: "bench" },
    h(
      "div",
      {},
      h("h3", {}, `${name}, ${picture.width}×${picture.height}: paint over what is to be erased`),
      pane,
    ),
    h("div", {}, h("h3", {}, "Result"), outcome),
  );
  // On a touch screen a finger paints and cannot scroll the picture as well.
  zoom.value = matchMedia("(pointer: coarse)").matches ? "whole" : "width";
  const apply = () => {
    bench.dataset.zoom = zoom.value;
  };
  zoom.addEventListener("change", apply);
  apply();
  $("try-panel").replaceChildren(tools, bench);
}

/** Scrolls each of two panes as the other; the pictures of the second one are still loading. */
function together(one, other) {
  for (const [from, to] of [
    [one, other],
    [other, one],
  ])
    from.addEventListener("scroll", () => to.scrollTo(from.scrollLeft, from.scrollTop));
  for (const image of other.querySelectorAll("img"))
    image.addEventListener("load", () => other.scrollTo(one.scrollLeft, one.scrollTop));
}

function hint(outcome, text, busy = false) {
  outcome.replaceChildren(h("div", { className: busy ? "waiting busy" : "waiting" }, text));
}

async function takeMask(file, outcome) {
  try {
    easel.take(await fileToCanvas(file));
  } catch (error) {
    hint(outcome, error.message);
  }
}

async function submit(name, kind, outcome, send) {
  if (sending) return;
  if (easel.isEmpty()) {
    hint(outcome, "Paint over something first.");
    return;
  }
  sending = send.disabled = true;
  hint(outcome, "Waiting for the worker…", true);
  try {
    const image = easel.picture.toDataURL("image/png");
    const answer = await ask("api/try", {
      name,
      kind,
      image: bare(image),
      mask: bare(easel.mask()),
    });
    const [pane, ...rest] = result(image, answer);
    outcome.replaceChildren(pane, ...rest);
    together(easel.element.parentElement, pane);
  } catch (error) {
    hint(outcome, error.message);
  } finally {
    sending = send.disabled = false;
  }
}

const bare = (address) => address.slice(address.indexOf(",") + 1);

function result(before, answer) {
  const after = `data:image/png;base64,${answer.image}`;
  const times = [["total", answer.total_s]];
  if (answer.batch)
    times.push(
      ["load", answer.batch.load_s],
      ["inference", answer.batch.infer_s],
      ["store", answer.batch.store_s],
    );
  const facts = times.map(([what, value]) =>
    h("span", {}, h("span", { className: "muted" }, `${what} `), h("strong", {}, seconds(value))),
  );
  return [
    h("div", { className: "pane" }, compare(before, after, "your picture")),
    h(
      "div",
      { className: "row", id: "timings" },
      ...facts,
      h(
        "span",
        { className: "muted" },
        `${answer.kind} queue${answer.note ? `, ${answer.note}` : ""}`,
      ),
      h("a", { href: after, download: "inpainted.png", className: "button" }, "Download"),
    ),
  ];
}

start();
