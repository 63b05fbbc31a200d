// Two versions side by side: what was asked for, what was measured on both, how they learned, and what they answer.

import { all, get } from "../lib/api.js";
import { button, card, emptyState, field, load, notice, page, table, tabs } from "../lib/components.js";
import { comparisonTable } from "../lib/comparison.js";
import { h, replace } from "../lib/dom.js";
import { bytes, compact, fixed } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { versionHref } from "../lib/registry.js";
import { conversation } from "./chat_panel.js";
import { curve } from "./version_training.js";

export const title = "compare.title";

export async function view({ query, signal, onQuery }) {
  const place = h("div", { class: "stack" });
  const chooser = h("div");
  const show = (now) => {
    const [a, b] = [now.get("a"), now.get("b")];
    replace(chooser, sides(a, b, signal));
    if (a && b) replace(place, load(() => both(a, b, signal), (found) => shown(found, now, signal), { signal }));
    else replace(place, card({}, emptyState({ icon: "compare", title: t("compare.choose"), body: t("compare.choose_body") })));
  };
  let before = "";
  onQuery((now) => {
    const pair = `${now.get("a")} ${now.get("b")}`;
    if (pair !== before) show(now);
    before = pair;
  });
  before = `${query.get("a")} ${query.get("b")}`;
  show(query);
  return page({ title: t("compare.title"), description: t("compare.description") }, chooser, place);
}

function sides(a, b, signal) {
  const names = h("datalist", { id: "versions-known" });
  all("/v1/models", { most: 300, signal }).then((found) => {
    for (const model of found) for (let number = model.latest.version; number > 0; number -= 1) names.append(h("option", { value: `${model.id}@${number}` }));
  }).catch(() => {});
  const box = (value) => h("input", { class: "input", list: "versions-known", value: value ?? "", placeholder: "name@1", autocomplete: "off", spellcheck: "false" });
  const [first, second] = [box(a), box(b)];
  return h("form", { class: "sides card", onsubmit: (event) => {
    event.preventDefault();
    setQuery({ a: first.value.trim(), b: second.value.trim(), tab: null }, { replace: false });
  } },
  field({ label: "A" }, first),
  button("", { kind: "icon", icon: "refresh", title: t("compare.swap"), "aria-label": t("compare.swap"), onclick: () => { setQuery({ a: second.value, b: first.value }); } }),
  field({ label: "B" }, second),
  button(t("models.compare"), { kind: "primary", type: "submit" }), names);
}

async function both(a, b, signal) {
  const [one, other] = await Promise.all([version(a, signal), version(b, signal)]);
  const [first, second] = await Promise.all([job(one, signal), job(other, signal)]);
  return { versions: [one, other], jobs: [first, second] };
}

/** name@3, name@alias or name; a subject behind it (name@3:float) is the comparison's own business. */
async function version(reference, signal) {
  const model = await get(`/v1/models/${encodeURIComponent(reference.split(":")[0])}`, { signal });
  return get(`/v1/models/${encodeURIComponent(model.latest.model)}/versions/${model.latest.version}`, { signal });
}

function job(one, signal) {
  return get(`/v1/fine_tuning/jobs/${encodeURIComponent(one.job_id)}`, { signal }).catch(() => null); // without jobs:read the rest still helps
}

function shown({ versions, jobs }, query, signal) {
  const [a, b] = [query.get("a"), query.get("b")];
  const sections = [
    { id: "scores", label: t("version.scores"), render: () => card({ title: t("compare.scores"), description: t("compare.scores_how"), flush: true }, load(() => get("/v1/evals/compare", { params: { a, b }, signal }), (found) => [summary(found), comparisonTable(found)], { signal })) },
    { id: "spec", label: t("compare.spec"), render: () => spec(versions, jobs) },
    { id: "curves", label: t("compare.curves"), render: () => card({}, load(() => curvesOf(versions, signal), (found) => curves(versions, found), { signal })) },
    may("chat:write") && { id: "answers", label: t("compare.answers"), render: () => conversation(versions.map((one) => one.id), signal) },
  ].filter(Boolean);
  return [figures(versions), tabs(sections, { chosen: query.get("tab") ?? "scores", onchoose: (tab) => setQuery({ tab: tab === "scores" ? null : tab }) })];
}

function figures(versions) {
  const rows = [
    [t("version.size"), (one) => bytes(one.weights_bytes)],
    [t("version.bpw"), (one) => fixed(one.bpw_effective, 2)],
    [t("facets.method"), (one) => `${term("method", one.method)}${one.scheme ? ` · ${one.scheme}` : ""}`],
    [t("version.trained_on"), (one) => (one.training ? `${compact(one.training.tokens)} ${t("unit.tokens")}` : "–")],
  ];
  return h("div", { class: "grid-2" }, versions.map((one, at) => h("section", { class: "card side-card" },
    h("div", { class: "row" }, h("span", { class: `side-letter side-${at}` }, "AB"[at]), h("a", { class: "strong", href: versionHref(one.model, one.version) }, one.id)),
    h("dl", { class: "side-facts" }, rows.map(([label, value]) => h("div", h("dt", label), h("dd", value(one))))))));
}

function summary(found) {
  const count = (verdict) => found.tasks.filter((task) => task.verdict === verdict).length;
  const unlike = count("not comparable");
  return [
    unlike < found.tasks.length && h("p", { class: "summary" }, t("compare.summary", { better: count("better"), worse: count("worse"), same: count("no difference") })),
    unlike > 0 && notice("warn", t("compare.unlike", { count: unlike })),
  ];
}

/** Every place where two specs differ, by its path. */
export function differences(one, other, path = "") {
  if (Object.is(one, other)) return [];
  const isTree = (value) => value !== null && typeof value === "object";
  if (!isTree(one) || !isTree(other)) return JSON.stringify(one) === JSON.stringify(other) ? [] : [{ path, a: one, b: other }];
  const names = [...new Set([...Object.keys(one), ...Object.keys(other)])];
  return names.flatMap((name) => differences(one[name], other[name], path ? `${path}.${name}` : name));
}

const ASKED = ["model", "training_file", "validation_file", "seed", "method", "suffix", "metadata"];

function spec(versions, jobs) {
  if (jobs.some((one) => one === null)) return card({}, emptyState({ icon: "keys", title: t("compare.no_jobs"), body: t("compare.no_jobs_body") }));
  const asked = jobs.map((one) => Object.fromEntries(ASKED.map((name) => [name, one[name]])));
  const rows = [...differences(...asked), ...differences({ environment: versions[0].environment }, { environment: versions[1].environment })];
  const shownAs = (value) => (value === undefined ? h("span", { class: "faint" }, t("compare.unset")) : h("code", { class: "wrap" }, typeof value === "string" ? value : JSON.stringify(value)));
  return card({ title: t("compare.spec_title", { count: rows.length }), description: t("compare.spec_how"), flush: true }, table({
    caption: t("compare.spec"), rows, stack: true,
    empty: emptyState({ icon: "check", title: t("compare.same_spec"), body: t("compare.same_spec_body") }),
    columns: [
      { key: "path", label: t("compare.setting"), header: true, render: (row) => h("code", { class: "wrap" }, row.path) },
      { key: "a", label: `A · ${versions[0].id}`, render: (row) => shownAs(row.a) },
      { key: "b", label: `B · ${versions[1].id}`, render: (row) => shownAs(row.b) },
    ],
  }));
}

function curvesOf(versions, signal) {
  const params = { name: ["loss", "learned_tokens"], stage: "training", max_points: 2000 };
  return Promise.all(versions.map((one) => get(`/v1/fine_tuning/jobs/${encodeURIComponent(one.job_id)}/metrics`, { params, signal })));
}

/** Loss over the tokens read so far: runs with other batches meet on equal terms. */
function curves(versions, found) {
  const series = versions.map((one, at) => {
    const losses = found[at].series.filter((piece) => piece.name === "loss").sort((x, y) => x.attempt - y.attempt);
    const tokensOfStep = one.training ? one.training.tokens / one.training.steps : 1;
    return [one.id, losses.map((piece) => ({ ...piece, tokens: piece.steps.map((step) => step * tokensOfStep) })), true];
  });
  if (series.every(([, pieces]) => pieces.length === 0)) return emptyState({ icon: "chart", title: t("training.none"), body: t("training.none_body") });
  return curve({ title: t("training.loss"), description: t("compare.by_tokens"), series, x: (piece) => piece.tokens, xTitle: t("compare.tokens"), height: 340 });
}
