// The parts of the page that are tables and numbers.

import { ask, attempt } from "./api.js";
import { compare } from "./compare.js";
import { $, bytes, clock, h, moment, seconds, show as put, since, table } from "./dom.js";

const code = (text) => h("code", {}, text);
const tag = (text, kind = "") => h("span", { className: `tag ${kind}` }, text);

export function show(status) {
  state(status);
  tiles(status);
  dead(status);
  put($("failure-list"), status.failures, failures);
  put($("batch-list"), status.batches, batches);
  about(status);
  put($("worker-list"), [status.overview?.workers ?? [], status.worker.worker], workers);
  $("previews").hidden = !status.previews.length;
  put($("gallery"), status.previews, gallery);
}

/** The worker does not answer. */
export function lost() {
  $("state").className = "pill bad";
  $("state").textContent = "not reached";
}

function state({ health, worker }) {
  const kind = !health.live ? "bad" : health.ready ? "good" : "";
  $("state").className = `pill ${kind}`;
  $("state").textContent = health.ready ? "serving" : health.why;
  $("who").textContent = [worker.worker || "starting", worker.model].filter(Boolean).join(" · ");
}

function tiles({ overview, worker, shm, history, device_memory: device }) {
  const last = (name) => history.columns[name]?.at(-1);
  const [free, unit] = bytes(shm.free);
  const some = [
    ["Waiting, long", overview?.backlog.long ?? "–"],
    ["Waiting, short", overview?.backlog.short ?? "–"],
    ["In flight", overview?.processing ?? "–"],
    ["Per minute", Math.round((overview?.per_minute || worker.per_minute) * 10) / 10],
    ["Done here", worker.done],
    ["Dead", overview?.dead ?? "–", "", overview?.dead > 0],
    ["/dev/shm free", free, unit, shm.free < 0.05 * shm.size],
  ];
  const median = last("p50_s");
  if (median !== undefined) median_s = median;
  some.splice(4, 0, ["Median per job", seconds(median_s)]);
  if (device.reserved) some.push(["GPU memory", ...bytes(device.reserved)]);
  put($("tiles"), some, () =>
    some.map(([label, value, unit = "", alert = false]) =>
      h(
        "div",
        { className: alert ? "tile alert" : "tile" },
        h("div", { className: "label" }, label),
        h(
          "div",
          { className: "value" },
          String(value),
          unit && h("span", { className: "unit" }, unit),
        ),
      ),
    ),
  );
}
let median_s = null;

// -- dead jobs ----------------------------------------------------------------------------------

function dead({ dead: jobs, may, overview }) {
  const total = overview?.dead ?? 0;
  const more = total > jobs.length ? `the latest ${jobs.length} of ${total}; ` : "";
  const how = may.change
    ? "a retry resets the attempts of a job"
    : may.token_is_set
      ? "unlock the page to retry or discard them"
      : "set ADMIN_TOKEN to retry or discard them here, or use: python worker.py dead";
  $("dead-hint").textContent = jobs.length ? more + how : "";
  put($("dead-list"), [jobs, may.change], ([jobs, change]) => [deadTable(jobs, change)]);
}

function deadTable(jobs, change) {
  const columns = [
    { name: "when", value: (job) => moment(job.at), kind: "tight" },
    { name: "reason", value: (job) => tag(job.reason, "bad") },
    { name: "picture", value: (job) => job.image_id },
    { name: "request", value: (job) => code(job.request_id || "none") },
    { name: "error", value: (job) => job.error },
    { name: "attempts", value: (job) => String(job.attempts), kind: "number" },
  ];
  if (change) columns.push({ name: "", value: deadButtons, kind: "actions" });
  return table(columns, jobs, "No job has been given up.");
}

function deadButtons(job) {
  const change = (what) =>
    attempt(async () => {
      const answer = await ask(`api/dead/${what}`, { ids: [job.id] });
      if (answer.problems.length) throw new Error(answer.problems.join("; "));
    });
  const retry = h(
    "button",
    { className: "small", type: "button", title: job.refusal, disabled: Boolean(job.refusal) },
    "Retry",
  );
  retry.addEventListener("click", () => {
    retry.disabled = true;
    change("retry");
  });
  const discard = h("button", { className: "small danger", type: "button" }, "Discard");
  discard.addEventListener("click", () => {
    if (discard.dataset.asked) {
      discard.disabled = true;
      change("discard");
      return;
    }
    discard.dataset.asked = "yes";
    discard.textContent = "Sure?";
  });
  return h("span", { className: "spread end" }, retry, discard);
}

// -- lists --------------------------------------------------------------------------------------

const failures = (rows) =>
  table(
    [
      { name: "when", value: (row) => clock(row.at), kind: "tight" },
      { name: "reason", value: (row) => tag(row.reason, row.dead ? "bad" : "wait") },
      { name: "picture", value: (row) => row.image_id || code(row.request_id || "none") },
      { name: "error", value: (row) => row.error },
      { name: "attempt", value: (row) => `${row.attempts}${row.dead ? ", dead" : ""}`, kind: "number" },
    ],
    rows,
    "No attempt has failed since the worker started.",
  );

const batches = (rows) =>
  table(
    [
      { name: "when", value: (row) => clock(row.at), kind: "tight" },
      { name: "queue", value: (row) => row.kind },
      { name: "done", value: (row) => `${row.delivered} of ${row.size}`, kind: "number" },
      { name: "load", value: (row) => seconds(row.load_s), kind: "number" },
      { name: "infer", value: (row) => seconds(row.infer_s), kind: "number" },
      { name: "store", value: (row) => seconds(row.store_s), kind: "number" },
      { name: "total", value: (row) => seconds(row.total_s), kind: "number" },
    ],
    rows,
    "No batch yet.",
  );

const workers = ([rows, me]) =>
  table(
    [
      {
        name: "worker",
        value: (row) => h("span", {}, code(row.worker), row.worker === me ? " (this one)" : ""),
      },
      { name: "per minute", value: (row) => String(row.per_minute), kind: "number" },
      { name: "done", value: (row) => String(row.done), kind: "number" },
      { name: "in flight", value: (row) => String(row.processing), kind: "number" },
      {
        name: "page",
        value: (row) =>
          row.admin_port
            ? h("a", { href: `//${location.hostname}:${row.admin_port}/` }, `:${row.admin_port}`)
            : "none",
      },
    ],
    rows,
    "No worker is alive.",
  );

function gallery(previews) {
  return previews.map((one) =>
    h(
      "figure",
      {},
      compare(
        `api/preview?number=${one.number}&side=before`,
        `api/preview?number=${one.number}&side=after`,
        one.image_id,
      ),
      h("figcaption", {}, `${clock(one.at)} · ${one.image_id}`),
    ),
  );
}

function about({ worker, settings, now, overview, shm }) {
  const facts = [
    ["model", worker.checkpoint],
    ["device", worker.model],
    ["version", worker.version],
    ["up for", since(worker.started, now)],
    ["Redis", worker.redis],
    ["queues", Object.values(overview?.queues ?? {}).join(", ")],
    ["not yet fetched", `${shm.results} ${shm.results === 1 ? "result" : "results"}, ${bytes(shm.result_bytes).join(" ")}`],
    ["retried / dead / lost", `${worker.retried} / ${worker.dead} / ${worker.lost}`],
    ["float32 fallbacks", String(worker.half_fallbacks)],
    ["Redis reconnections", String(worker.reconnections)],
  ];
  put($("about-list"), facts, () =>
    facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
  put($("settings-list"), settings, () =>
    table(
      [
        { name: "setting", value: (row) => code(row.name) },
        { name: "value", value: (row) => code(row.value) },
        { name: "default", value: (row) => code(row.default) },
      ],
      settings,
      "None: all settings have their default.",
    ),
  );
}
