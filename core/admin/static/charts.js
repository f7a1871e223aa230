// The last hour as three charts, drawn by uPlot (a global of its script).

import { $, clock } from "./dom.js";

const HOUR_S = 3600;
const SHORTEST_S = 300;
const HEIGHT = 180;
const RATE_S = 30; // the rate is averaged over this many seconds

const columns = { at: [] };
let last = 0;
let charts = [];

/** The number of the last row, after which the next request continues. */
export const lastRow = () => last;

/** Appends rows of the history; starts over if the worker was restarted. */
export function append({ number, columns: fresh }) {
  if (number < last) for (const name of Object.keys(columns)) columns[name] = [];
  last = number;
  for (const [name, values] of Object.entries(fresh))
    columns[name] = (columns[name] ?? []).concat(values);
  const oldest = (columns.at.at(-1) ?? 0) - HOUR_S;
  const gone = columns.at.findIndex((at) => at >= oldest);
  if (gone > 0) for (const name of Object.keys(columns)) columns[name] = columns[name].slice(gone);
}

/** Jobs per minute at each row, averaged over the RATE_S seconds before it. */
function rates() {
  const { at, done = [] } = columns;
  let from = 0,
    sum = 0;
  return at.map((now, index) => {
    sum += done[index] ?? 0;
    while (at[from] <= now - RATE_S) {
      sum -= done[from] ?? 0;
      from += 1;
    }
    return (sum * 60) / RATE_S;
  });
}

/** `least` is the smallest maximum of the scale, so that noise does not fill a chart. */
const CHARTS = [
  {
    id: "chart-backlog",
    least: 4,
    lines: [
      { label: "long", colour: "--first", values: () => columns.backlog_long },
      { label: "short", colour: "--second", values: () => columns.backlog_short },
      { label: "in flight", colour: "--third", values: () => columns.processing },
    ],
  },
  {
    id: "chart-rate",
    least: 1,
    lines: [{ label: "done per minute", colour: "--first", fill: true, values: rates }],
  },
  {
    id: "chart-latency",
    least: 0.05,
    lines: [
      { label: "95 %", colour: "--third", values: () => columns.p95_s },
      { label: "median", colour: "--first", values: () => columns.p50_s },
    ],
  },
];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const number = (value) =>
  value === null || value === undefined ? "–" : String(Math.round(value * 100) / 100);

function make({ id, least, lines }) {
  const figure = $(id);
  figure.querySelector(".uplot")?.remove();
  const axis = {
    stroke: colour("--muted"),
    font: "11px system-ui",
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { show: false },
  };
  const options = {
    width: Math.max(220, figure.clientWidth - 24),
    height: HEIGHT,
    padding: [10, 8, 0, 0],
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (_, low, high) => [0, Math.max(least, (high ?? 0) * 1.15)] } },
    axes: [
      {
        ...axis,
        space: 70,
        size: 30,
        values: [
          [60, "{HH}:{mm}", null, null, null, null, null, null, 1],
          [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1],
        ],
      },
      { ...axis, size: 44, values: (_, ticks) => ticks.map(number) },
    ],
    series: [
      { label: "time", value: (plot, at) => clock(at ?? plot.data[0].at(-1) ?? Date.now() / 1000) },
      ...lines.map((line) => ({
        label: line.label,
        stroke: colour(line.colour),
        width: 2,
        points: { show: false },
        spanGaps: false,
        fill: line.fill ? `${colour(line.colour)}22` : undefined,
        // Without a cursor: the latest value.
        value: (plot, value, line, index) =>
          number(index === null || index === undefined ? plot.data[line]?.at(-1) : value),
      })),
    ],
  };
  return { lines, figure, plot: new uPlot(options, [[], ...lines.map(() => [])], figure) };
}

/** Draws the charts. */
export function draw() {
  if (!charts.length) charts = CHARTS.map(make);
  const end = columns.at.at(-1) ?? Date.now() / 1000;
  const start = Math.min(columns.at[0] ?? end, end - SHORTEST_S);
  for (const { lines, plot } of charts) {
    plot.batch(() => {
      plot.setData([columns.at, ...lines.map((line) => line.values() ?? [])], false);
      plot.setScale("x", { min: start, max: end });
      if (plot.cursor.idx === null || plot.cursor.idx === undefined) plot.setLegend({ idx: null });
    });
  }
}

function remake() {
  for (const { plot } of charts) plot.destroy();
  charts = [];
  draw();
}

let pending = 0;
new ResizeObserver(() => {
  cancelAnimationFrame(pending);
  pending = requestAnimationFrame(() => {
    for (const { figure, plot } of charts)
      plot.setSize({ width: Math.max(220, figure.clientWidth - 24), height: HEIGHT });
  });
}).observe(document.querySelector(".charts"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", remake);
