// Talking to the worker, and telling the user what it says.

import { $ } from "./dom.js";

const TOKEN = "inpainting-admin-token";

/** Remembers ADMIN_TOKEN until the tab is closed, or forgets it. */
export function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}

/** A request to this worker; its answer, or an error with the worker's own sentence. */
export async function ask(path, content) {
  const token = sessionStorage.getItem(TOKEN);
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

let told = false;

/** Shows a sentence above everything else; an empty one only takes away what was not lasting. */
export function complain(text, lasting = false) {
  if (told && !lasting && !text) return;
  told = lasting && Boolean(text);
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

/** Runs what a button does; what goes wrong is told until the next try. */
export async function attempt(action) {
  try {
    await action();
    complain("", true);
  } catch (error) {
    complain(error.message, true);
  }
  document.dispatchEvent(new Event("worker-changed"));
}
