// Two pictures on top of each other, and a slider between them.

import { h } from "./dom.js";

/** `before` and `after` are URLs of pictures of the same size. */
export function compare(before, after, label) {
  const slider = h("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 0.5,
    value: 50,
    aria: { label: `${label}: before and after` },
  });
  const frame = h(
    "div",
    { className: "compare" },
    h("img", { className: "after", src: after, alt: `${label}, after`, draggable: false }),
    h("img", { className: "before", src: before, alt: `${label}, before`, draggable: false }),
    h("span", { className: "edge" }),
    h("span", { className: "word left" }, "before"),
    h("span", { className: "word right" }, "after"),
    slider,
  );
  slider.addEventListener("input", () => frame.style.setProperty("--split", `${slider.value}%`));
  return frame;
}
