// Asking people: fields, dialogs, and a word in the corner.

import { append, h, replace, uid } from "./dom.js";
import { t } from "./i18n.js";

/** A labelled control. `error` may be set later by `.fail(text)`. */
export function field({ label, hint, optional = false }, control) {
  control.id ||= uid("field");
  const hintId = `${control.id}-hint`;
  const errorPlace = h("p", { class: "field-error", id: `${control.id}-error`, role: "alert" });
  control.setAttribute("aria-describedby", `${hint ? hintId : ""} ${errorPlace.id}`.trim());
  const node = h(
    "div",
    { class: "field" },
    h("label", { for: control.id }, label, optional && h("span", { class: "faint" }, ` ${t("ui.optional")}`)),
    control,
    hint && h("p", { class: "field-hint", id: hintId }, hint),
    errorPlace,
  );
  node.fail = (text) => {
    replace(errorPlace, text);
    if (text) control.setAttribute("aria-invalid", "true");
    else control.removeAttribute("aria-invalid");
  };
  return node;
}

export function input({ type = "text", ...props } = {}) {
  return h("input", { type, class: "input", autocomplete: "off", spellcheck: "false", ...props });
}

export function textarea({ value = "", ...props } = {}) {
  return h("textarea", { class: "input", rows: 6, ...props, value });
}

/** options: [[value, label]]. */
export function select(options, { value, ...props } = {}) {
  const node = h("select", { class: "input", ...props }, options.map(([key, label]) => h("option", { value: key }, label)));
  if (value !== undefined && value !== null) node.value = value;
  return node;
}

export function checkbox(label, { checked = false, ...props } = {}) {
  return h("label", { class: "check" }, h("input", { type: "checkbox", checked, ...props }), h("span", label));
}

/**
 * A modal question. `body(close)` answers its content; `close(value)` ends it. The promise answers that value, null
 * when people left by Escape or the cross.
 */
export function dialog({ title, wide = false }, body) {
  return new Promise((resolve) => {
    let answer = null;
    const name = uid("dialog");
    const close = (value = null) => {
      answer = value;
      node.close();
    };
    const cross = h("button", { type: "button", class: "button button-icon", "aria-label": t("ui.close"), onclick: () => close() }, "×");
    const node = h(
      "dialog",
      { class: wide ? "dialog dialog-wide" : "dialog", "aria-labelledby": name },
      h("header", { class: "dialog-head" }, h("h2", { id: name }, title), cross),
    );
    append(node, h("div", { class: "dialog-body" }, body(close)));
    node.addEventListener("close", () => {
      node.remove();
      resolve(answer);
    });
    document.body.append(node);
    node.showModal();
  });
}

/** Yes or no: answers true only for yes. */
export async function confirm({ title, body, action, danger = false }) {
  const answer = await dialog({ title }, (close) => [
    h("p", body),
    h(
      "div",
      { class: "dialog-actions" },
      h("button", { type: "button", class: "button", onclick: () => close(false) }, t("ui.cancel")),
      h("button", { type: "button", class: `button button-${danger ? "danger" : "primary"}`, autofocus: true, onclick: () => close(true) }, action),
    ),
  ]);
  return answer === true;
}

/** A word in the corner; leaves by itself. tone: neutral, good, bad. */
export function toast(text, { tone = "neutral" } = {}) {
  let corner = document.getElementById("toasts");
  if (!corner) {
    corner = h("div", { id: "toasts", role: "status", "aria-live": "polite" });
    document.body.append(corner);
  }
  const node = h("div", { class: `toast toast-${tone}` }, text);
  corner.append(node);
  setTimeout(() => node.remove(), tone === "bad" ? 9000 : 4500);
}
