// Tries a picture: dropped or generated, with a painted or dropped mask, and shows the result.

import { ask } from "./api.js";
import { compare } from "./compare.js";
import { $, h, seconds } from "./dom.js";
import { Easel, fileToCanvas, madeUp } from "./easel.js";

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
        "Make one up",
        () => {
          const { picture, mask } = madeUp();
          begin(picture, "made-up.png", mask);
        },
        { id: "make-up" },
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
  const rub = button(
    "Rub out",
    () => {
      easel.rubbing = !easel.rubbing;
      rub.setAttribute("aria-pressed", easel.rubbing);
    },
    { aria: { pressed: "false" } },
  );
  const send = button("Erase", () => submit(name, kind.value, outcome, send), {
    className: "main",
    id: "send",
  });
  const tools = h(
    "div",
    { className: "row tools" },
    h("label", {}, "Brush", size),
    rub,
    button("Undo", () => easel.undo()),
    button("Clear", () => easel.clear()),
    opener("Mask from a file", (file) => takeMask(file, outcome), { id: "mask-file" }),
    h("label", {}, "Queue", kind),
    h(
      "span",
      { className: "row push" },
      button("Another picture", () => start()),
      send,
    ),
  );
  droppable(easel.element, (file) => takeMask(file, outcome));
  hint(outcome, "The result will be here.");
  $("try-panel").replaceChildren(
    tools,
    h(
      "div",
      { className: "bench" },
      h(
        "div",
        {},
        h("h3", {}, `${name}, ${picture.width}×${picture.height}: paint over what is to be erased`),
        easel.element,
      ),
      h("div", {}, h("h3", {}, "Result"), outcome),
    ),
  );
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
    outcome.replaceChildren(...result(image, answer));
  } catch (error) {
    hint(outcome, error.message);
  } finally {
    sending = send.disabled = false;
  }
}

const bare = (address) => address.slice(address.indexOf(",") + 1);

function result(before, answer) {
  const after = `data:image/png;base64,${answer.image}`;
  const times = [["in all", answer.total_s]];
  if (answer.batch)
    times.push(
      ["loaded in", answer.batch.load_s],
      ["inference", answer.batch.infer_s],
      ["stored in", answer.batch.store_s],
    );
  const facts = times.map(([what, value]) =>
    h("span", {}, h("span", { className: "muted" }, `${what} `), h("strong", {}, seconds(value))),
  );
  return [
    compare(before, after, "your picture"),
    h(
      "div",
      { className: "row", id: "timings" },
      ...facts,
      h(
        "span",
        { className: "muted" },
        `${answer.kind} queue${answer.batch ? "" : ", another worker"}`,
      ),
      h("a", { href: after, download: "inpainted.png", className: "button" }, "Download"),
    ),
  ];
}

start();
