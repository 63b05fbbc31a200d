// What views are built of. Each answers a node; docs/ui.md shows them in a line each.

import { append, h, replace, uid } from "./dom.js";
import { ago, moment } from "./format.js";
import { t, term } from "./i18n.js";
import { icon } from "./icons.js";

export { icon } from "./icons.js";
export { dialog, confirm, toast, field, input, select, textarea, checkbox } from "./forms.js";
export { table, pagedTable } from "./tables.js";

/** A page: breadcrumbs [[label, href?]], h1 `title` (text or nodes), `description`, `actions`; then its content. */
export function page({ title, description, breadcrumbs = [], actions = [], wide = false }, ...content) {
  return h(
    "article",
    { class: wide ? "page page-wide" : "page" },
    h(
      "header",
      { class: "page-head" },
      h(
        "div",
        { class: "page-titles" },
        breadcrumbs.length > 0 && crumbs(breadcrumbs),
        h("h1", title),
        description && h("div", { class: "page-description" }, description),
      ),
      h("div", { class: "page-actions" }, actions),
    ),
    content,
  );
}

function crumbs(steps) {
  const items = steps.map(([label, href]) => h("li", href ? h("a", { href }, label) : h("span", label)));
  return h("nav", { class: "crumbs", "aria-label": t("ui.breadcrumbs") }, h("ol", items));
}

/** A titled section. `flush` lets a table reach its edges. */
export function card({ title, description, actions, flush = false, id } = {}, ...content) {
  const name = uid("card");
  return h(
    "section",
    { class: flush ? "card card-flush" : "card", "aria-labelledby": title ? name : null, id },
    title
      && h(
        "header",
        { class: "card-head" },
        h("div", h("h2", { id: name }, title), description && h("p", { class: "muted" }, description)),
        h("div", { class: "card-actions" }, actions),
      ),
    h("div", { class: "card-body" }, content),
  );
}

/** kind: primary, danger, quiet or the plain one. With `href` a link that looks like a button. */
export function button(label, { kind = "", icon: name, onclick, href, type = "button", title, disabled, ...rest } = {}) {
  const content = [name && icon(name), label && h("span", label)];
  const props = { class: `button ${kind && `button-${kind}`}`, title, ...rest };
  if (href) return h("a", { ...props, href, onclick }, content);
  const node = h("button", { ...props, type, disabled, onclick: onclick && ((event) => busyWhile(node, onclick, event)) }, content);
  return node;
}

async function busyWhile(node, task, event) {
  const answer = task(event);
  if (!(answer instanceof Promise)) return;
  node.disabled = true;
  node.setAttribute("aria-busy", "true");
  try {
    await answer;
  } finally {
    node.disabled = false;
    node.removeAttribute("aria-busy");
  }
}

/** A button that shows an icon; `label` is what it is called. */
export function iconButton(name, label, options = {}) {
  return button("", { kind: "icon", icon: name, title: label, "aria-label": label, ...options });
}

/** tone: neutral, accent, good, warn, bad. */
export function badge(text, { tone = "neutral", title, mono = false } = {}) {
  return h("span", { class: `badge badge-${tone}${mono ? " mono" : ""}`, title }, text);
}

const TONES = {
  succeeded: "good", active: "good", ready: "good", completed: "good", running: "accent", failed: "bad",
  cancelled: "neutral", queued: "neutral", paused: "warn", validating_files: "neutral", revoked: "bad", lost: "bad",
};

/** A state as a word with a dot: `status("running")`; words are the keys `status.*`. */
export function status(state, { tone = TONES[state] ?? "neutral", label = term("status", state) } = {}) {
  return h("span", { class: `status status-${tone}`, dataset: { state } }, h("i", { "aria-hidden": "true" }), label);
}

/** A number with its name; `hint` below it. */
export function stat(label, value, hint) {
  return h("div", { class: "stat" }, h("dt", label), h("dd", { class: "stat-value" }, value), hint && h("dd", { class: "stat-hint" }, hint));
}

export function stats(...items) {
  return h("dl", { class: "stats" }, items);
}

/** [[label, value], …] as a list; rows without a value are left out. */
export function facts(rows) {
  const there = rows.filter(([, value]) => value !== null && value !== undefined && value !== false && value !== "");
  return h("dl", { class: "facts" }, there.map(([label, value]) => h("div", h("dt", label), h("dd", value))));
}

/** Unix seconds as "3 hours ago" with the exact time behind it. */
export function time(unix) {
  if (unix === null || unix === undefined) return h("span", { class: "faint" }, "–");
  return h("time", { datetime: new Date(unix * 1000).toISOString(), title: moment(unix) }, ago(unix));
}

/** Nothing here: what this place is for and how to fill it. */
export function emptyState({ icon: name = "inbox", title, body, actions = [] }) {
  return h("div", { class: "state" }, icon(name, { size: 28 }), h("h2", title), body && h("p", body), h("div", { class: "state-actions" }, actions));
}

/** What went wrong, in the API's words, with the request's id and another try. */
export function errorState(error, retry) {
  const isOffline = error.status === 0;
  const title = isOffline ? t("error.unreachable") : error.problem?.title ?? t("error.title");
  const retryButton = retry && button(t("error.retry"), { icon: "refresh", onclick: retry });
  return h(
    "div",
    { class: "state state-error", role: "alert" },
    icon("warning", { size: 28 }),
    h("h2", title),
    h("p", isOffline ? t("error.unreachable_body") : error.message),
    error.places?.length > 0 && h("ul", { class: "places" }, error.places.map((place) => h("li", h("code", place.pointer), " ", place.detail))),
    error.requestId && h("p", { class: "faint" }, t("error.request"), " ", h("code", error.requestId)),
    h("div", { class: "state-actions" }, retryButton),
  );
}

/** Grey lines in the place of what comes. kind: lines, table, block. */
export function skeleton(kind = "lines", count = 4) {
  const bars = Array.from({ length: count }, () => h("i"));
  return h("div", { class: `skeleton skeleton-${kind}`, role: "status", "aria-label": t("ui.loading") }, bars);
}

/**
 * A place that fills itself: `fetcher` is called, `render` makes nodes of its answer. Until then a skeleton, on
 * failure the error with another try. The node has `.refresh()`.
 */
export function load(fetcher, render, { placeholder = () => skeleton(), signal } = {}) {
  const place = h("div", { class: "load" });
  place.refresh = async ({ quietly = false } = {}) => {
    if (!quietly) replace(place, placeholder());
    place.setAttribute("aria-busy", "true");
    try {
      const content = await render(await fetcher());
      if (!signal?.aborted) replace(place, content);
    } catch (error) {
      if (error.name !== "AbortError" && !signal?.aborted) replace(place, errorState(error, () => place.refresh()));
      if (!("status" in error) && error.name !== "AbortError") console.error(error);
    } finally {
      place.removeAttribute("aria-busy");
    }
  };
  place.refresh();
  return place;
}

/** Tabs whose choice the address holds: [{id, label, render, count?}]; `select` is told the chosen id. */
export function tabs(items, { chosen = items[0].id, onchoose, label = t("ui.sections") }) {
  const panel = h("div", { class: "tab-panel", role: "tabpanel", tabindex: "-1" });
  const buttons = items.map((item) => h(
    "button",
    { type: "button", role: "tab", class: "tab", id: uid("tab"), dataset: { id: item.id }, onclick: () => choose(item, true) },
    item.label,
    item.count !== undefined && item.count !== null && h("span", { class: "tab-count" }, item.count),
  ));
  function choose(item, byHand) {
    buttons.forEach((node, at) => {
      const isChosen = items[at] === item;
      node.setAttribute("aria-selected", String(isChosen));
      node.tabIndex = isChosen ? 0 : -1;
      if (isChosen) panel.setAttribute("aria-labelledby", node.id);
    });
    replace(panel, item.render());
    if (byHand) onchoose?.(item.id);
  }
  const list = h("div", {
    class: "tabs", role: "tablist", "aria-label": label,
    onkeydown: (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const at = (buttons.indexOf(document.activeElement) + step + items.length) % items.length;
      buttons[at].focus();
      choose(items[at], true);
      event.preventDefault();
    },
  }, buttons);
  choose(items.find((item) => item.id === chosen) ?? items[0], false);
  const node = h("div", { class: "tabbed" }, list, panel);
  node.choose = (id) => choose(items.find((item) => item.id === id) ?? items[0], false);
  return node;
}

/** Copies `text`; says so. */
export function copyButton(text, label = t("ui.copy")) {
  const node = iconButton("copy", label, {
    onclick: async () => {
      await navigator.clipboard.writeText(typeof text === "function" ? text() : text);
      replace(node, icon("check"));
      node.setAttribute("aria-label", t("ui.copied"));
      setTimeout(() => {
        replace(node, icon("copy"));
        node.setAttribute("aria-label", label);
      }, 1500);
    },
  });
  return node;
}

/** Code to read and take along. */
export function code(text, { label } = {}) {
  return h("figure", { class: "code" }, label && h("figcaption", label), h("pre", { tabindex: "0" }, h("code", text)), copyButton(text));
}

/** A digest or id: short to read, whole to copy. */
export function digest(text, length = 12) {
  if (!text) return "–";
  return h("span", { class: "digest" }, h("code", { title: text }, text.slice(0, length)), copyButton(text));
}

/** 0..1 as a bar; `text` beside it. */
export function progress(value, text) {
  const share = Math.round(Math.min(Math.max(value ?? 0, 0), 1) * 100);
  return h(
    "div",
    { class: "progress" },
    h("div", { class: "progress-track", role: "progressbar", "aria-valuenow": share, "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": text ?? t("ui.progress") },
      h("div", { class: "progress-fill", style: { width: `${share}%` } })),
    text && h("span", { class: "progress-text" }, text),
  );
}

/** A note within a page. tone: info, good, warn, bad. */
export function notice(tone, ...content) {
  return h("div", { class: `notice notice-${tone}`, role: tone === "bad" ? "alert" : "note" }, icon(tone === "info" ? "info" : tone === "good" ? "check" : "warning"), h("div", content));
}

/** A disclosure. */
export function details(summary, ...content) {
  return append(h("details", { class: "details" }, h("summary", summary)), content);
}
