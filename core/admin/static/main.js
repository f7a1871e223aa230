// Queries the worker every two seconds and shows the answer.

import { ask, complain, keepToken } from "./api.js";
import { append, draw, lastRow } from "./charts.js";
import { $ } from "./dom.js";
import { lost, show } from "./sections.js";
import { allow } from "./try.js";

const PAUSE_MS = 2000;
const HIDDEN_PAUSE_MS = 10_000;

let timer = 0;
let asking = 0;

/** Queries now, and repeatedly from now on. */
async function refresh() {
  clearTimeout(timer);
  const turn = ++asking;
  try {
    const status = await ask(`api/status?after=${lastRow()}`);
    if (turn !== asking) return; // a later request has overtaken this one
    append(status.history);
    draw();
    show(status);
    allow(status.may);
    $("unlock").hidden = !status.may.token_is_set;
    unlocked(status.may.change);
    complain("");
  } catch (error) {
    if (turn !== asking) return;
    lost();
    $("unlock").hidden = error.status === undefined;
    unlocked(false);
    complain(error.status ? error.message : "The worker does not answer. Trying again…");
  }
  timer = setTimeout(refresh, document.hidden ? HIDDEN_PAUSE_MS : PAUSE_MS);
}

function unlocked(yes) {
  $("unlock").textContent = yes ? "Lock" : "Unlock";
  $("unlock").dataset.unlocked = yes ? "yes" : "";
}

$("unlock").addEventListener("click", () => {
  if ($("unlock").dataset.unlocked) {
    keepToken("");
    refresh();
    return;
  }
  $("token").value = "";
  tokenError("");
  $("token-dialog").showModal();
});

function tokenError(text) {
  $("token-error").textContent = text;
  $("token-error").hidden = !text;
}

/** Keeps the token and closes the dialog if the worker takes it; else the dialog says why not. */
async function unlock() {
  const token = $("token").value;
  if (!token) {
    tokenError("Enter the value of ADMIN_TOKEN.");
    return;
  }
  try {
    await ask("api/status?after=0", undefined, token);
  } catch (error) {
    tokenError(error.status ? error.message : "The worker does not answer. Try again.");
    $("token").select();
    return;
  }
  keepToken(token);
  complain("", true);
  $("token-dialog").close();
  refresh();
}

$("token-ok").addEventListener("click", (event) => {
  event.preventDefault();
  unlock();
});

// Enter in the field counts as the first button, which is Cancel.
$("token").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  unlock();
});

document.addEventListener("worker-changed", refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
refresh();
