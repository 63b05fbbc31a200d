// The same question to two versions, side by side, as their answers are written.

import { all, events } from "../lib/api.js";
import { button, emptyState, notice, select } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { fixed } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { setQuery } from "../lib/router.js";

const MOST_TOKENS = 512;

/** A panel for `version`; the other side is another version of the model, or of any model of the same base. */
export function chatPanel(model, version, query, signal) {
  const siblings = model.versions.filter((other) => other.version !== version.version).map((other) => [other.id, other.id]);
  const second = query.get("with") ?? siblings[0]?.[0] ?? "";
  const chooser = select([["", t("chat.alone")], ...siblings], { value: second, "aria-label": t("chat.beside"), class: "input input-small" });
  addRelatives(chooser, model, second, signal);
  const place = h("div");
  const build = () => replace(place, conversation([version.id, chooser.value].filter(Boolean), signal));
  chooser.addEventListener("change", () => {
    setQuery({ with: chooser.value || null });
    build();
  });
  build();
  return h("div", { class: "stack" },
    h("div", { class: "row" }, h("span", { class: "muted" }, t("chat.beside")), h("span", chooser)),
    place,
    h("p", { class: "faint small" }, t("chat.base_note")));
}

/** Newest versions of other models of the same base. */
async function addRelatives(chooser, model, chosen, signal) {
  const found = await all("/v1/models", { params: { base_model: model.base_model }, most: 100, signal }).catch(() => []);
  for (const other of found) if (other.id !== model.id) chooser.append(h("option", { value: other.latest.id }, other.latest.id));
  if (chosen) chooser.value = chosen;
}

/** Columns of one conversation each, and one box that asks them all. */
export function conversation(ids, signal) {
  const lanes = ids.map((id) => ({ id, messages: [], list: h("div", { class: "lane-messages", role: "log", "aria-live": "polite", "aria-label": t("chat.answers_of", { id }) }, hint()) }));
  const words = t(ids.length > 1 ? "chat.ask" : "chat.ask_one");
  const text = h("textarea", { class: "input", rows: 2, placeholder: words, "aria-label": words });
  const cold = h("input", { type: "checkbox", checked: true });
  let running = null;
  const stop = button(t("chat.stop"), { icon: "stop", onclick: () => running?.abort() });
  stop.hidden = true;
  const send = button(t("chat.send"), { kind: "primary", type: "submit" });

  async function ask(event) {
    event?.preventDefault();
    const question = text.value.trim();
    if (!question || running) return;
    text.value = "";
    running = new AbortController();
    signal?.addEventListener("abort", () => running?.abort(), { once: true });
    [stop.hidden, send.disabled] = [false, true];
    await Promise.all(lanes.map((lane) => answer(lane, question, cold.checked ? 0 : 0.7, running.signal)));
    running = null;
    [stop.hidden, send.disabled] = [true, false];
    text.focus();
  }

  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
  });
  const clear = button(t("chat.clear"), { kind: "quiet", onclick: () => { for (const lane of lanes) { lane.messages = []; replace(lane.list, hint()); } } });
  return h("div", { class: "chat" },
    h("div", { class: `lanes lanes-${lanes.length}` }, lanes.map((lane) => h("section", { class: "lane card", "aria-label": lane.id }, h("header", { class: "card-head" }, h("h2", lane.id)), lane.list))),
    h("form", { class: "chat-form card", onsubmit: ask }, text, h("div", { class: "spread" }, h("label", { class: "check small muted" }, cold, h("span", t("chat.deterministic"))), h("div", { class: "row" }, clear, stop, send))));
}

function hint() {
  return emptyState({ icon: "chat", title: t("chat.empty"), body: t("chat.empty_body") });
}

async function answer(lane, question, temperature, signal) {
  if (lane.messages.length === 0) replace(lane.list);
  lane.messages.push({ role: "user", content: question });
  const bubble = h("div", { class: "bubble bubble-answer is-waiting" }, t("chat.waiting"));
  const foot = h("div", { class: "faint small" });
  lane.list.append(h("div", { class: "bubble bubble-question" }, question), bubble, foot);
  lane.list.scrollTop = lane.list.scrollHeight;
  const began = performance.now();
  let content = "";
  let first = null;
  try {
    const body = { model: lane.id, messages: lane.messages, stream: true, temperature, max_completion_tokens: MOST_TOKENS, stream_options: { include_usage: true } };
    for await (const event of events("/v1/chat/completions", { method: "POST", body, signal })) {
      if (event.data === "[DONE]") break;
      const chunk = JSON.parse(event.data);
      if (chunk.error) throw new Error(chunk.error.message);
      content += chunk.choices?.[0]?.delta?.content ?? "";
      if (content && first === null) first = performance.now();
      if (content) {
        bubble.classList.remove("is-waiting");
        bubble.textContent = content;
        lane.list.scrollTop = lane.list.scrollHeight;
      }
      if (chunk.usage) replace(foot, t("chat.usage", { tokens: chunk.usage.completion_tokens, first: fixed((first - began) / 1000, 1), rate: fixed(chunk.usage.completion_tokens / ((performance.now() - first) / 1000 || 1), 1) }));
    }
    lane.messages.push({ role: "assistant", content });
  } catch (error) {
    lane.messages.pop();
    if (error.name === "AbortError") replace(foot, t("chat.stopped"));
    else bubble.replaceWith(notice("bad", error.message));
  }
}
