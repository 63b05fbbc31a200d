// A model: its versions, the names that point at them and where they pointed before, its card, and what people note.

import { get, getTagged, patch } from "../lib/api.js";
import { badge, button, card, dialog, facts, field, input, notice, page, pagedTable, select, textarea, time, toast } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { baseName } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { markdown } from "../lib/markdown.js";
import { navigate, reload } from "../lib/router.js";
import { may } from "../lib/session.js";
import { aliasBadges, bits, changeCell, compareHref, fitMarks, headlineOf, scoreCell, sizeText, taskName, versionHref } from "../lib/registry.js";
import { aliasCard } from "./model_aliases.js";
import { pareto } from "./models_pareto.js";

export const title = (params) => params.name;

export async function view({ params, query, signal }) {
  const path = `/v1/models/${encodeURIComponent(params.name)}`;
  const { data: model, etag } = await getTagged(path, { signal });
  const plotPlace = h("div");
  if (model.versions.length > 1) showPlot(plotPlace, model, query, signal);
  return page(
    {
      title: model.display_name ?? model.id,
      breadcrumbs: [[t("models.title"), "/ui/models"], [model.id]],
      description: [h("p", t("model.made_of", { base: baseName(model.base_model), task: term("model_task", model.task) })), model.tags.length > 0 && h("div", { class: "row tags" }, model.tags.map((tag) => badge(tag)))],
      actions: [may("models:write") && button(t("model.edit"), { icon: "edit", onclick: () => { edit(model, etag, path); } }), button(t("model.open_newest"), { kind: "primary", href: versionHref(model.id, model.latest.version) })],
    },
    h("div", { class: "overview" },
      h("div", { class: "stack" }, versions(model, path, signal), plotPlace, cardOf(model, etag, path)),
      h("div", { class: "stack" }, aliasCard(model, signal), about(model))),
  );
}

async function showPlot(place, model, query, signal) {
  const task = headlineOf(model.latest.scores)?.task;
  if (!task) return;
  const scores = Object.fromEntries(model.latest.scores.map((score) => [score.task, score]));
  const asked = new URLSearchParams([["base_model", model.base_model], ...(query.has("show") ? [["show", query.get("show")]] : [])]);
  try {
    replace(place, await pareto([model], { scores }, asked, signal, { description: t("model.plot_how") }));
  } catch (error) {
    if (error.name !== "AbortError") replace(place, notice("warn", error.message));
  }
}

function versions(model, path, signal) {
  const chosen = new Set();
  const bar = h("div", { class: "compare-bar", role: "status" }, h("span", { class: "faint small" }, model.versions.length > 1 && t("models.choose_two")));
  const choose = (id, isChosen) => {
    if (isChosen) chosen.add(id);
    else chosen.delete(id);
    const [b, a] = [...chosen].sort((one, other) => Number(one.split("@").at(-1)) - Number(other.split("@").at(-1)));
    replace(bar, chosen.size === 2 ? button(t("models.compare"), { kind: "primary", icon: "compare", onclick: () => { navigate(compareHref(a, b)); } }) : h("span", { class: "faint small" }, t("models.choose_two")));
  };
  const task = headlineOf(model.latest.scores)?.task;
  const scoreOf = (row) => headlineOf(row.scores, task);
  const columns = [
    model.versions.length > 1 && { key: "choose", label: "", class: "cell-choose", render: (row) => h("input", { type: "checkbox", "aria-label": t("models.choose", { name: row.id }), onchange: (event) => choose(row.id, event.target.checked) }) },
    { key: "version", label: t("model.version"), header: true, render: (row) => h("div", { class: "name-line" }, h("a", { href: versionHref(model.id, row.version), class: "strong" }, `@${row.version}`), aliasBadges(model.aliases, row.version)) },
    { key: "scheme", label: t("facets.scheme"), render: (row) => h("span", { class: "muted" }, row.scheme ?? term("method", row.method)) },
    { key: "bpw", label: t("models.bpw"), align: "end", hint: t("models.bpw_hint"), render: bits },
    { key: "size", label: t("models.size"), align: "end", render: sizeText },
    { key: "fits", label: t("models.fits"), hint: t("registry.fits_how"), render: (row) => fitMarks(row.weights_bytes) },
    { key: "score", label: task ? taskName(task) : t("models.score"), align: "end", render: (row) => scoreCell(scoreOf(row)) },
    { key: "change", label: t("models.change"), align: "end", hint: t("models.change_hint"), render: (row) => changeCell(scoreOf(row)) },
    { key: "age", label: t("models.age"), align: "end", class: "cell-age", render: (row) => time(row.created_at) },
  ].filter(Boolean);
  const hasMore = model.versions.length >= 100;
  const first = { data: model.versions, has_more: hasMore, last_id: model.versions.at(-1)?.id };
  return card({ title: t("model.versions", { count: model.latest.version }), flush: true, actions: bar }, pagedTable({
    caption: t("model.versions", { count: model.latest.version }), stack: true, columns, first,
    more: (after) => get(`${path}/versions`, { params: { limit: 100, after }, signal }),
  }));
}

function about(model) {
  return card({ title: t("version.about") }, facts([
    [t("facets.base_model"), h("a", { href: `/ui/models?base_model=${encodeURIComponent(model.base_model)}` }, baseName(model.base_model))],
    [t("models.licence"), model.licence],
    [t("facets.task"), term("model_task", model.task)],
    [t("model.visibility"), t(`model.visible_${model.visibility}`)],
    [t("model.created"), time(model.created)],
    [t("model.name"), h("code", model.id)],
  ]));
}

function cardOf(model, etag, path) {
  const change = may("models:write") && button(t("model.edit_card"), { kind: "quiet", icon: "edit", onclick: () => { editCard(model, etag, path); } });
  return card({ title: t("model.card"), description: t("model.card_how"), actions: change }, model.card ? markdown(model.card) : h("p", { class: "faint" }, t("model.no_card")));
}

/** Send what changed under the ETag that was shown; somebody else's change in between is told, not overwritten. */
async function save(path, etag, changes, close, problem) {
  try {
    await patch(path, changes, { headers: { "If-Match": etag } });
    close(true);
    toast(t("model.saved"), { tone: "good" });
    reload();
  } catch (error) {
    replace(problem, notice("bad", error.status === 412 ? t("model.changed_meanwhile") : error.message));
  }
}

function edit(model, etag, path) {
  dialog({ title: t("model.edit_title", { name: model.id }) }, (close) => {
    const name = input({ value: model.display_name ?? "", maxlength: 200 });
    const licence = input({ value: model.licence ?? "", placeholder: "apache-2.0" });
    const tags = input({ value: model.tags.join(", "), placeholder: "support, english" });
    const task = input({ value: model.task });
    const visible = select([["project", t("model.visible_project")], ["installation", t("model.visible_installation")]], { value: model.visibility });
    const problem = h("div");
    return h("form", { class: "form", onsubmit: (event) => {
      event.preventDefault();
      save(path, etag, {
        display_name: name.value.trim() || null, licence: licence.value.trim() || null, task: task.value.trim(), visibility: visible.value,
        tags: [...new Set(tags.value.split(",").map((tag) => tag.trim()).filter(Boolean))],
      }, close, problem);
    } },
    field({ label: t("model.display_name"), optional: true }, name),
    field({ label: t("facets.tag"), hint: t("model.tags_hint") }, tags),
    field({ label: t("models.licence"), hint: t("model.licence_hint"), optional: true }, licence),
    field({ label: t("facets.task") }, task),
    field({ label: t("model.visibility") }, visible),
    problem,
    h("div", { class: "dialog-actions" }, button(t("ui.cancel"), { onclick: () => close(null) }), button(t("ui.save"), { kind: "primary", type: "submit" })));
  });
}

function editCard(model, etag, path) {
  dialog({ title: t("model.card"), wide: true }, (close) => {
    const text = textarea({ value: model.card ?? "", rows: 18, class: "input mono" });
    const problem = h("div");
    return h("form", { class: "form", onsubmit: (event) => {
      event.preventDefault();
      save(path, etag, { card: text.value.trim() || null }, close, problem);
    } }, field({ label: t("model.card_label"), hint: t("model.card_hint") }, text), problem,
    h("div", { class: "dialog-actions" }, button(t("ui.cancel"), { onclick: () => close(null) }), button(t("ui.save"), { kind: "primary", type: "submit" })));
  });
}
