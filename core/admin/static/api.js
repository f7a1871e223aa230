// Requests to the worker, and the messages to the user about them.

import { $ } from "./dom.js";

const TOKEN = "inpainting-admin-token";

/** Remembers ADMIN_TOKEN until the tab is closed, or forgets it. */
export function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** Sends a request to this worker; returns its answer, or throws an error with the worker's text. */
export async function ask(path, content, token = sessionStorage.getItem(TOKEN)) {
  const request = { headers: token ? { Authorization: `Bearer ${token}` } : {} };
  if (content !== undefined) {
    request.method = "POST";
    request.body = JSON.stringify(content);
    request.headers["Content-Type"] = "application/json";
  }
  const reply = await fetch(path, request);
  const answer = await reply.json().catch(() => ({ error: `${path}: ${reply.status}` }));
  if (reply.status === 401) keepToken("");
  if (!reply.ok) throw Object.assign(new Error(answer.error), { status: reply.status });
  return answer;
}

let isLasting = false;

/** Shows a message at the top; an empty one removes only messages that are not lasting. */
export function complain(text, lasting = false) {
  if (isLasting && !lasting && !text) return;
  isLasting = lasting && Boolean(text);
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

/** Runs the action of a button; an error is shown until the next click. */
export async function attempt(action) {
  try {
    await action();
    complain("", true);
  } catch (error) {
    complain(error.message, true);
  }
  document.dispatchEvent(new Event("worker-changed"));
}
