// API keys: who may do what, until when. A key is shown once, when it is made.

import { del, get, post } from "../lib/api.js";
import { badge, button, card, code, confirm, dialog, emptyState, field, iconButton, input, load, notice, page, pagedTable, select, skeleton, status, time, toast } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { t, term } from "../lib/i18n.js";
import { whoAmI } from "../lib/jobs.js";

export const title = "keys.title";

const ROLES = ["viewer", "member", "admin"];
const DAYS = [["", null], ["7", 7], ["30", 30], ["90", 90], ["365", 365]];

export async function view({ signal }) {
  const session = await whoAmI(signal);
  const mayWrite = session.scopes.includes("keys:write");
  const place = load(() => get("/v1/api_keys", { params: { limit: 100 }, signal }), (first) => list(first, { session, mayWrite, signal, refresh: () => place.refresh({ quietly: true }) }), { placeholder: () => skeleton("table", 4), signal });
  const make = mayWrite && button(t("keys.new"), { kind: "primary", icon: "plus", onclick: async () => {
    if (await create()) place.refresh({ quietly: true });
  } });
  return page({ title: t("keys.title"), description: t("keys.description", { project: session.project_name }), actions: [make] }, place);
}

function list(first, { session, mayWrite, signal, refresh }) {
  if (first.data.length === 0) return card({}, emptyState({ icon: "keys", title: t("keys.none"), body: t("keys.none_body") }));
  return card({ flush: true }, pagedTable({
    caption: t("keys.title"),
    stack: true,
    first,
    more: (after) => get("/v1/api_keys", { params: { limit: 100, after }, signal }),
    columns: [
      { key: "name", label: t("keys.name"), header: true, render: (key) => h("div", { class: "name-cell" }, h("span", { class: "strong truncate" }, key.name, key.id === session.key_id && [" ", badge(t("keys.yours"), { tone: "accent" })]), h("span", { class: "faint small mono truncate" }, key.id)) },
      { key: "role", label: t("keys.role"), render: (key) => h("span", { title: key.scopes.join(", ") }, term("role", key.role), key.scopes.length > 0 && h("span", { class: "faint" }, ` · ${t("keys.scopes", { count: key.scopes.length })}`)) },
      { key: "state", label: t("jobs.status"), render: (key) => status(stateOf(key), { tone: stateOf(key) === "active" ? "good" : "bad", label: t(`keys.${stateOf(key)}`) }) },
      { key: "used", label: t("keys.used"), align: "end", render: (key) => (key.last_used_at ? time(key.last_used_at) : t("keys.never")) },
      { key: "expires", label: t("keys.expires"), align: "end", render: (key) => (key.expires_at ? time(key.expires_at) : t("keys.never")) },
      { key: "created", label: t("keys.created"), align: "end", class: "cell-age", render: (key) => time(key.created_at) },
      ...(mayWrite ? [{ key: "revoke", label: "", align: "end", render: (key) => stateOf(key) === "active" && iconButton("trash", t("keys.revoke", { name: key.name }), { onclick: () => revoke(key, refresh) }) }] : []),
    ],
  }));
}

function stateOf(key) {
  if (key.revoked_at) return "revoked";
  return key.expires_at && key.expires_at < Date.now() / 1000 ? "expired" : "active";
}

/** Answers whether a key was made. */
async function create() {
  let isMade = false;
  await dialog({ title: t("keys.new") }, (close) => {
    const name = input({ required: true, maxlength: 100, autofocus: true, placeholder: t("keys.name_example") });
    const role = select(ROLES.map((one) => [one, t(`keys.role_${one}`)]), { value: "member" });
    const days = select(DAYS.map(([value, count]) => [value, count ? t("keys.days", { n: count }) : t("keys.never")]), { value: "90" });
    const asked = field({ label: t("keys.name"), hint: t("keys.name_hint") }, name);
    const body = h("div", { class: "form" });
    const form = h("form", {
      class: "form",
      onsubmit: async (event) => {
        event.preventDefault();
        try {
          const wanted = { name: name.value.trim(), role: role.value };
          if (days.value) wanted.expires_at = Math.floor(Date.now() / 1000) + Number(days.value) * 86400;
          const made = await post("/v1/api_keys", wanted, { headers: { "Idempotency-Key": crypto.randomUUID() } });
          isMade = true;
          body.replaceChildren(notice("warn", t("keys.once")), code(made.key, { label: made.name }), h("div", { class: "dialog-actions" }, button(t("keys.kept"), { kind: "primary", onclick: () => { close(); } })));
        } catch (error) {
          asked.fail(error.message);
        }
      },
    }, asked, field({ label: t("keys.role") }, role), field({ label: t("keys.expires") }, days), h("div", { class: "dialog-actions" }, button(t("ui.cancel"), { onclick: () => { close(); } }), button(t("keys.make"), { kind: "primary", type: "submit" })));
    body.append(form);
    return body;
  });
  return isMade;
}

async function revoke(key, refresh) {
  const isSure = await confirm({ title: t("keys.revoke", { name: key.name }), body: t("keys.revoke_body"), action: t("keys.revoke_it"), danger: true });
  if (!isSure) return;
  try {
    await del(`/v1/api_keys/${key.id}`);
    toast(t("keys.revoked_done"), { tone: "good" });
    refresh();
  } catch (error) {
    toast(error.message, { tone: "bad" });
  }
}
