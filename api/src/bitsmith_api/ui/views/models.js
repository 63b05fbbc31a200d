// What is in the registry: facets, the trade of size against quality, and the list. The address holds every filter.

import { get } from "../lib/api.js";
import { button, card, emptyState, input, load, page, pagedTable, select, skeleton, time } from "../lib/components.js";
import { debounced, h, replace } from "../lib/dom.js";
import { baseName } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { hasView, navigate, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { aliasBadges, bits, changeCell, compareHref, fitMarks, headlineOf, modelHref, scoreCell, sizeText, taskName } from "../lib/registry.js";
import { chips, facetPanel, isFilter } from "./models_facets.js";
import { pareto } from "./models_pareto.js";

export const title = "models.title";

const PAGE = 50;

export async function view({ query, signal, onQuery }) {
  const search = input({ type: "search", placeholder: t("models.search"), "aria-label": t("models.search"), value: query.get("q") ?? "" });
  const find = () => {
    const wanted = search.value.trim();
    if (wanted !== (new URLSearchParams(location.search).get("q") ?? "")) setQuery({ q: wanted || null });
  };
  search.addEventListener("input", debounced(find));
  search.addEventListener("change", find); // at once when people go on to something else
  const places = { facets: h("aside", { class: "facets", "aria-label": t("models.filters") }), plot: h("div"), list: h("div"), chips: h("div", { class: "chips" }), order: h("div", { class: "order" }) };
  const chosen = new Set();

  async function show(now) {
    if (document.activeElement !== search) search.value = now.get("q") ?? "";
    const filters = new URLSearchParams([...now].filter(([name]) => isFilter(name)));
    replace(places.chips, chips(now));
    const facets = get("/v1/models/facets", { params: filters, signal });
    const found = get("/v1/models", { params: withOrder(filters, now), signal });
    facets.then((counts) => {
      if (signal.aborted) return;
      replace(places.order, orders(counts, now));
      keepFocus(places.facets, () => replace(places.facets, facetPanel(counts, now)));
    }).catch(() => {});
    const placeholder = () => skeleton("table", 6);
    replace(places.list, load(async () => [await found, await facets], ([first, counts]) => list(first, counts, now, filters, chosen, signal), { placeholder, signal }));
    replace(places.plot, load(async () => {
      const params = new URLSearchParams([...filters, ["limit", "500"], ["sort", "size_bytes"]]);
      return [await get("/v1/models", { params, signal }), await facets];
    }, ([models, counts]) => pareto(models.data, counts, now, signal), { placeholder: () => skeleton("block", 1), signal }));
  }

  onQuery(show);
  show(query);
  const actions = [
    hasView("/ui/jobs/new") && may("jobs:write") && button(t("models.new"), { kind: "primary", icon: "plus", href: "/ui/jobs/new" }),
  ];
  return page(
    { title: t("models.title"), description: t("models.description"), actions, wide: true },
    h("div", { class: "browse" },
      places.facets,
      h("div", { class: "stack" },
        h("div", { class: "browse-bar" }, h("div", { class: "browse-search" }, search), places.order),
        places.chips, places.plot, places.list)),
  );
}

function withOrder(filters, now) {
  return new URLSearchParams([...filters, ["sort", now.get("sort") ?? "-created_at"], ["limit", String(PAGE)]]);
}

/** Replacing the facets must not take the focus out of the box that was just ticked. */
function keepFocus(place, task) {
  const held = place.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  task();
  if (held) place.querySelector(`[data-key="${CSS.escape(held)}"]`)?.focus();
}

/** Which score stands in the list. */
function orders(counts, now) {
  const tasks = Object.entries(counts.scores).sort(([, a], [, b]) => b.n - a.n);
  const names = tasks.map(([task]) => [task, taskName(task)]);
  const chosen = select([["", t("models.any_score")], ...names], { value: now.get("show") ?? "", "aria-label": t("models.score_shown"), class: "input" });
  chosen.addEventListener("change", () => setQuery({ show: chosen.value || null }));
  return names.length > 0 ? chosen : null;
}

function list(first, counts, now, filters, chosen, signal) {
  if (first.data.length === 0) return card({}, nothing(filters));
  const wanted = now.get("show") ?? "";
  const scoreTask = wanted || headlineOf(first.data[0].latest.scores)?.task;
  const bar = h("div", { class: "compare-bar", role: "status" });
  const columns = columnsOf(wanted, scoreTask, (id, isChosen) => {
    if (isChosen) chosen.add(id);
    else chosen.delete(id);
    replace(bar, comparison(chosen));
  }, chosen);
  replace(bar, comparison(chosen));
  return card(
    { title: t("models.count", { count: counts.total }), flush: true, actions: bar },
    pagedTable({
      caption: t("models.title"),
      stack: true,
      columns,
      first,
      more: (after) => get("/v1/models", { params: new URLSearchParams([...withOrder(filters, now), ["after", after]]), signal }),
      sorted: now.get("sort") ?? "-created_at",
      onsort: (sort) => setQuery({ sort }, { replace: false }),
    }),
  );
}

function comparison(chosen) {
  if (chosen.size === 0) return h("span", { class: "faint small" }, t("models.choose_two"));
  const [a, b] = [...chosen];
  return [
    h("span", { class: "small muted" }, t("models.chosen", { count: chosen.size })),
    button(t("models.compare"), { kind: "primary", icon: "compare", disabled: chosen.size !== 2, onclick: () => { navigate(compareHref(a, b)); } }),
  ];
}

function columnsOf(wanted, scoreTask, onchoose, chosen) {
  const scoreOf = (row) => headlineOf(row.latest.scores, wanted || undefined);
  return [
    { key: "choose", label: "", class: "cell-choose", render: (row) => h("input", { type: "checkbox", "aria-label": t("models.choose", { name: row.latest.id }), checked: chosen.has(row.latest.id), onchange: (event) => onchoose(row.latest.id, event.target.checked) }) },
    { key: "name", label: t("models.name"), sort: "name", header: true, class: "cell-name", render: nameCell },
    { key: "bpw", label: t("models.bpw"), sort: "bpw", align: "end", hint: t("models.bpw_hint"), render: (row) => bits(row.latest) },
    { key: "size", label: t("models.size"), sort: "size_bytes", align: "end", render: (row) => sizeText(row.latest) },
    { key: "fits", label: t("models.fits"), hint: t("registry.fits_how"), render: (row) => fitMarks(row.latest.weights_bytes) },
    { key: "score", label: scoreTask ? taskName(scoreTask) : t("models.score"), sort: scoreTask && `score:${scoreTask}`, descendingFirst: true, align: "end", render: (row) => [scoreCell(scoreOf(row)), scoreOf(row) && scoreOf(row).task !== scoreTask && h("div", { class: "faint small" }, taskName(scoreOf(row).task))] },
    { key: "change", label: t("models.change"), align: "end", hint: t("models.change_hint"), render: (row) => changeCell(scoreOf(row)) },
    { key: "age", label: t("models.age"), sort: "created_at", descendingFirst: true, align: "end", class: "cell-age", render: (row) => [h("div", time(row.latest.created_at)), row.licence && h("div", { class: "faint small", title: t("models.licence") }, row.licence)] },
  ];
}

function nameCell(row) {
  const latest = row.latest;
  const made = [baseName(row.base_model).split("/").at(-1), term("method", latest.method), latest.scheme, `v${latest.version}`];
  return h("div", { class: "name-cell" },
    h("div", { class: "name-line" }, h("a", { href: modelHref(row.id), class: "strong truncate", title: row.id }, row.display_name ?? row.id), aliasBadges(row.aliases)),
    h("div", { class: "faint small truncate", title: baseName(row.base_model) }, made.filter(Boolean).join(" · "), row.tags.map((tag) => h("span", { class: "tag" }, `#${tag}`))));
}

function nothing(filters) {
  if (filters.size > 0) {
    const clear = button(t("models.clear"), { onclick: () => { navigate("/ui/models"); } });
    return emptyState({ icon: "search", title: t("models.none_match"), body: t("models.none_match_body"), actions: [clear] });
  }
  const start = hasView("/ui/jobs/new") && may("jobs:write") && button(t("models.new"), { kind: "primary", icon: "plus", href: "/ui/jobs/new" });
  return emptyState({ icon: "models", title: t("models.none"), body: t("models.none_body"), actions: [start] });
}
