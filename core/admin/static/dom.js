// Elements and texts. Content of messages is always set as text, never as markup.

/** An element; `properties` are its properties, `dataset` and `style` entries among them. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(element.dataset, value);
    else if (name === "aria")
      for (const [key, said] of Object.entries(value)) element.setAttribute(`aria-${key}`, said);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const $ = (id) => document.getElementById(id);

const shown = new WeakMap();

/** Replaces an element's content only if its data has changed, so that a selection survives. */
export function show(element, source, make) {
  const key = JSON.stringify(source);
  if (shown.get(element) === key) return;
  shown.set(element, key);
  element.replaceChildren(...[make(source)].flat());
}

/** A table; a column is {name, value: row => text or element, kind: class of its cells}. */
export function table(columns, rows, empty) {
  if (!rows.length) return h("p", { className: "empty" }, empty);
  const head = columns.map(({ name, kind = "" }) =>
    h("th", { className: kind, scope: "col" }, name),
  );
  const body = rows.map((row) =>
    h(
      "tr",
      {},
      ...columns.map(({ name, value, kind = "" }) =>
        h("td", { className: kind, dataset: { label: name } }, value(row) ?? ""),
      ),
    ),
  );
  return h(
    "div",
    { className: "scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)),
  );
}

export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

export function moment(at) {
  const then = new Date(at * 1000);
  const today = new Date().toDateString() === then.toDateString();
  return today
    ? clock(at)
    : `${then.toLocaleDateString([], { month: "short", day: "numeric" })} ${clock(at)}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.0995) return `${Math.round(value * 1000)} ms`;
  return value < 10 ? `${value.toFixed(2)} s` : `${Math.round(value)} s`;
}

export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return [value >= 100 || unit === 0 ? String(Math.round(value)) : value.toFixed(1), units[unit]];
}

export function since(at, now) {
  const passed = Math.max(0, now - at);
  for (const [size, unit] of [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ]) {
    if (passed >= size) return `${Math.floor(passed / size)} ${unit}`;
  }
  return `${Math.floor(passed)} s`;
}
