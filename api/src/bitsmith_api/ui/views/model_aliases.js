// The names that point at a model's versions: where, since when, and what a move would meet.

import { del, get, put, send } from "../lib/api.js";
import { badge, button, card, confirm, dialog, field, iconButton, input, load, notice, select, time, toast } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { reload } from "../lib/router.js";
import { may } from "../lib/session.js";
import { taskName, versionHref } from "../lib/registry.js";

export function aliasCard(model, signal) {
  const path = `/v1/models/${encodeURIComponent(model.id)}/aliases`;
  const add = may("models:write") && button(t("alias.new"), { kind: "quiet", icon: "plus", onclick: () => { move(model, path, null); } });
  return card({ title: t("alias.title"), description: t("alias.description"), actions: add },
    load(() => get(path, { signal }), ({ data }) => (data.length > 0 ? h("ul", { class: "aliases" }, data.map((alias) => row(model, path, alias, signal))) : h("p", { class: "faint" }, t("alias.none"))), { signal }));
}

function row(model, path, alias, signal) {
  return h("li", { class: "alias" },
    h("div", { class: "spread" },
      h("div", { class: "row" }, badge(`@${alias.alias}`, { tone: "accent" }), h("span", { class: "faint" }, "→"), h("a", { href: versionHref(model.id, alias.version) }, `@${alias.version}`)),
      h("div", { class: "row" },
        may("models:write") && button(t("alias.move"), { onclick: () => { move(model, path, alias); } }),
        iconButton("clock", t("alias.history_of", { alias: alias.alias }), { onclick: () => { history(path, alias, signal); } }))),
    h("div", { class: "faint small" }, t("alias.moved"), " ", time(alias.updated_at), alias.updated_by && ` · ${alias.updated_by}`, model.gates?.[alias.alias] && [" ", badge(t("alias.gated"), { title: t("alias.gated_hint") })]));
}

/** Make or move; the gate's word is asked for before anything moves. */
function move(model, path, alias) {
  dialog({ title: alias ? t("alias.move_title", { alias: alias.alias }) : t("alias.add") }, (close) => {
    const name = input({ value: alias?.alias ?? "", placeholder: "prod", pattern: "[a-z][a-z0-9_\\-]{0,62}", required: true, disabled: Boolean(alias) });
    const version = select(model.versions.map((one) => [one.version, `@${one.version}`]), { value: model.latest.version });
    const reason = input({ placeholder: t("alias.reason_example"), maxlength: 1000 });
    const found = h("div", { "aria-live": "polite" });
    const seen = () => (alias ? { "If-Match": `"${alias.revision}"` } : { "If-None-Match": "*" });
    const ask = (dry) => put(`${path}/${encodeURIComponent(name.value)}`, { version: Number(version.value), reason: reason.value.trim() || null, dry_run: dry }, { headers: seen() });
    const check = button(t("alias.check"), { onclick: async () => {
      try {
        replace(found, verdict(await ask(true)));
      } catch (error) {
        replace(found, refusal(error));
      }
    } });
    return h("form", { class: "form", onsubmit: async (event) => {
      event.preventDefault();
      try {
        await ask(false);
        close(true);
        toast(t("alias.done", { alias: name.value, number: version.value }), { tone: "good" });
        reload();
      } catch (error) {
        replace(found, refusal(error));
      }
    } },
    field({ label: t("alias.name") }, name),
    field({ label: t("model.version"), hint: alias && t("alias.now_at", { number: alias.version }) }, version),
    field({ label: t("alias.reason"), optional: true }, reason),
    found,
    h("div", { class: "dialog-actions" },
      alias && button(t("alias.remove"), { kind: "quiet", onclick: () => { close(null); remove(path, alias); } }),
      model.gates?.[alias?.alias] && check,
      button(t("ui.cancel"), { onclick: () => close(null) }),
      button(alias ? t("alias.move") : t("alias.add"), { kind: "primary", type: "submit" })));
  });
}

function verdict(answer) {
  return notice(answer.passed ? "good" : "bad", h("p", answer.gate?.summary ?? t("alias.no_gate")), answer.gate && checks(answer.gate));
}

function refusal(error) {
  const gate = error.problem?.gate;
  const words = error.status === 412 ? t("model.changed_meanwhile") : error.message;
  return notice("bad", h("p", words), gate && checks(gate));
}

function checks(gate) {
  return h("ul", { class: "checks" }, gate.checks.map((one) => h("li",
    badge(one.passed ? t("alias.passed") : t("alias.failed"), { tone: one.passed ? "good" : "bad" }), " ", taskName(one.task), " ",
    h("span", { class: "muted" }, one.reason))));
}

async function remove(path, alias) {
  const isSure = await confirm({ title: t("alias.remove_title", { alias: alias.alias }), body: t("alias.remove_body"), action: t("alias.remove"), danger: true });
  if (!isSure) return;
  try {
    await del(`${path}/${encodeURIComponent(alias.alias)}`, { headers: { "If-Match": `"${alias.revision}"` } });
    reload();
  } catch (error) {
    toast(error.message, { tone: "bad" });
  }
}

function history(path, alias, signal) {
  dialog({ title: t("alias.history_of", { alias: alias.alias }) }, () => load(
    async () => (await send("GET", `${path}/${encodeURIComponent(alias.alias)}/history`, { params: { limit: 50 }, signal })).json(),
    ({ data }) => h("ol", { class: "moves" }, data.map((one) => h("li",
      h("div", { class: "row" }, h("strong", words(one)), h("span", { class: "faint small" }, time(one.created_at), one.actor && ` · ${one.actor}`)),
      one.reason && h("p", { class: "muted" }, one.reason),
      one.gate && h("p", { class: one.gate.passed ? "good small" : "bad small" }, one.gate.summary)))),
  ));
}

function words(move) {
  if (move.to_version === null) return t("alias.was_removed");
  if (move.from_version === null) return t("alias.was_made", { to: move.to_version });
  return `@${move.from_version} → @${move.to_version}`;
}
