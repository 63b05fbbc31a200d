// The filters at the left of the models: what there is, how often, and the ranges of numbers.

import { button, details, icon } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { baseName, bytes, fixed, number } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { navigate, setQuery } from "../lib/router.js";
import { taskName } from "../lib/registry.js";

const LISTS = ["base_model", "method", "scheme", "tag", "licence", "dataset", "task"];
const SHOWN = 6;
const GB = 1e9;
const BACK = { replace: false }; // the browser's back button takes a filter away again

/** Whether a parameter of the address narrows the list; the others only say how it is shown. */
export function isFilter(name) {
  return name === "q" || name === "job" || LISTS.includes(name) || /^(bpw|size_bytes|created_at|score\[.+\])\[(gte|lte)\]$/.test(name);
}

/** All facets; each change goes into the address. */
export function facetPanel(counts, query) {
  const filters = [...query].filter(([name]) => isFilter(name) && name !== "q").length;
  const groups = [
    ...LISTS.filter((name) => isUseful(counts[name], name, query)).map((name) => listFacet(name, counts[name], query)),
    rangeFacet("size_bytes", t("facets.size"), counts.size_bytes, query, { scale: GB, unit: "GB" }),
    rangeFacet("bpw", t("facets.bpw"), counts.bpw, query, { scale: 1, unit: "" }),
    scoreFacet(counts.scores, query),
  ];
  const body = h("div", { class: "facet-groups" }, groups);
  const head = h("div", { class: "facets-head" }, h("h2", t("models.filters")), filters > 0 && button(t("models.clear"), { kind: "quiet", onclick: () => { navigate("/ui/models"); } }));
  const folded = details([icon("settings"), ` ${t("models.filters")}`, filters > 0 && ` (${filters})`], body);
  folded.classList.add("facets-fold");
  folded.open = matchMedia("(min-width: 1000px)").matches;
  return [head, folded];
}

function isUseful(values, name, query) {
  return values.length > 1 || query.has(name);
}

function labelOf(name, value) {
  if (name === "base_model") return baseName(value.value);
  if (name === "method") return term("method", value.value);
  return value.label ?? value.value;
}

function listFacet(name, values, query) {
  const chosen = new Set(query.getAll(name));
  const boxes = values.map((value) => h(
    "label",
    { class: "facet-value", title: labelOf(name, value) },
    h("input", {
      type: "checkbox", checked: chosen.has(value.value), dataset: { key: `${name}=${value.value}` },
      onchange: (event) => {
        if (event.target.checked) chosen.add(value.value);
        else chosen.delete(value.value);
        setQuery({ [name]: [...chosen] }, BACK);
      },
    }),
    h("span", { class: "truncate" }, labelOf(name, value)),
    h("span", { class: "facet-count" }, value.count),
  ));
  const hidden = boxes.slice(SHOWN);
  const hasChosen = values.slice(SHOWN).some((value) => chosen.has(value.value));
  return h(
    "fieldset",
    { class: "facet" },
    h("legend", t(`facets.${name}`)),
    boxes.slice(0, SHOWN),
    hidden.length > 0 && (hasChosen ? hidden : details(t("facets.more", { count: hidden.length }), hidden)),
  );
}

function end(name, label, { scale, bound }, query) {
  const there = query.get(name);
  const shown = there === null ? "" : String(Math.round((Number(there) / scale) * 1e6) / 1e6);
  return h("input", {
    type: "number", step: "any", class: "input input-small", value: shown, placeholder: bound, "aria-label": label,
    dataset: { key: name },
    onchange: (event) => setQuery({ [name]: event.target.value === "" ? null : String(Number(event.target.value) * scale) }, BACK),
  });
}

function rangeFacet(name, label, range, query, { scale, unit }) {
  const isSet = query.has(`${name}[gte]`) || query.has(`${name}[lte]`);
  if (!range || (range.min === range.max && !isSet)) return null;
  return h(
    "fieldset",
    { class: "facet" },
    h("legend", unit ? `${label} (${unit})` : label),
    h("div", { class: "facet-range" },
      end(`${name}[gte]`, t("facets.at_least", { what: label }), { scale, bound: number(range.min / scale) }, query),
      h("span", { class: "faint" }, "–"),
      end(`${name}[lte]`, t("facets.at_most", { what: label }), { scale, bound: number(range.max / scale) }, query)),
  );
}

/** A floor for scores that should be high, a ceiling for those that should be low. */
function scoreFacet(scores, query) {
  const tasks = Object.entries(scores);
  if (tasks.length === 0) return null;
  const rows = tasks.map(([task, range]) => {
    const isShare = range.max <= 1 && range.higher_is_better;
    const scale = isShare ? 0.01 : 1;
    const side = range.higher_is_better ? "gte" : "lte";
    const label = t(range.higher_is_better ? "facets.at_least" : "facets.at_most", { what: taskName(task) });
    const bound = range.higher_is_better ? `≥ ${fixed(range.min / scale, 0)}` : `≤ ${fixed(range.max / scale, 1)}`;
    return h("label", { class: "facet-score" }, h("span", { class: "truncate", title: task }, taskName(task)), end(`score[${task}][${side}]`, label, { scale, bound }, query));
  });
  return h("fieldset", { class: "facet" }, h("legend", t("facets.score")), rows.slice(0, 5), rows.length > 5 && details(t("facets.more", { count: rows.length - 5 }), rows.slice(5)));
}

/** What the list is narrowed to, each with a cross. */
export function chips(query) {
  return [...query].filter(([name]) => isFilter(name) && name !== "q").map(([name, value]) => h(
    "button",
    { type: "button", class: "chip", "aria-label": t("facets.remove", { what: chipText(name, value) }), onclick: () => remove(query, name, value) },
    chipText(name, value),
    icon("close", { size: 12 }),
  ));
}

function remove(query, name, value) {
  setQuery({ [name]: query.getAll(name).filter((one) => one !== value) }, BACK);
}

function chipText(name, value) {
  const range = /^(bpw|size_bytes|created_at|score\[(.+)\])\[(gte|lte)\]$/.exec(name);
  if (!range) return name === "base_model" ? baseName(value) : name === "dataset" ? t("facets.dataset") : name === "method" ? term("method", value) : value;
  const sign = range[3] === "gte" ? "≥" : "≤";
  if (range[1] === "size_bytes") return `${t("facets.size")} ${sign} ${bytes(Number(value))}`;
  if (range[2]) return `${taskName(range[2])} ${sign} ${Number(value) <= 1 ? `${fixed(Number(value) * 100, 0)} %` : value}`;
  return `${t(`facets.${range[1]}`)} ${sign} ${value}`;
}
