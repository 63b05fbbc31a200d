// Size against quality: which models nothing smaller beats, with the error of every score.

import { get } from "../lib/api.js";
import { card, select } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { baseName, bytes, fixed } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { plot, seriesColour, token } from "../lib/plot.js";
import { navigate, setQuery } from "../lib/router.js";
import { headlineOf, isShare, scoreCell, taskName, versionHref } from "../lib/registry.js";

const MOST_MODELS = 24; // whose every version is fetched, where one base model is looked at

/** A card with the plot; nothing where there are too few scores to see anything. */
export async function pareto(models, counts, query, signal, { description } = {}) {
  const tasks = Object.keys(counts.scores);
  const task = tasks.includes(query.get("show")) ? query.get("show") : defaultTask(counts.scores, models);
  if (!task) return null;
  const isOneBase = query.getAll("base_model").length === 1 && models.length <= MOST_MODELS;
  const versions = isOneBase ? await allVersions(models, signal) : models.map((model) => ({ ...model.latest, base_model: model.base_model }));
  const points = versions.map((version) => ({ version, score: headlineOf(version.scores, task) })).filter((point) => point.score);
  if (points.length < 2) return null;
  const chooser = tasks.length > 1 && select(tasks.map((name) => [name, taskName(name)]), { value: task, "aria-label": t("models.score_shown"), class: "input input-small" });
  if (chooser) chooser.addEventListener("change", () => setQuery({ show: chooser.value }));
  const groups = grouped(points);
  return card({}, plot({
    title: t("pareto.title"),
    description: description ?? (isOneBase ? t("pareto.description_base", { base: baseName(points[0].version.base_model) }) : t("pareto.description")),
    label: t("pareto.label", { task: taskName(task), count: points.length }),
    height: 300,
    legend: basesOf(groups).length > 1 ? basesOf(groups).map(baseName) : [],
    actions: chooser || [],
    draw: () => figure(groups, task, points),
    onclick: (point) => point.customdata && navigate(versionHref(point.customdata[0], point.customdata[1])),
    table: { columns: columns(), rows: [...points].sort((a, b) => a.version.weights_bytes - b.version.weights_bytes) },
  }));
}

function defaultTask(scores, models) {
  return models.length > 0 ? headlineOf(models[0].latest.scores)?.task : Object.keys(scores)[0];
}

async function allVersions(models, signal) {
  const lists = await Promise.all(models.map((model) => get(`/v1/models/${encodeURIComponent(model.id)}/versions`, { params: { limit: 100 }, signal })));
  return lists.flatMap((list, at) => list.data.map((version) => ({ ...version, base_model: models[at].base_model })));
}

/** By base model, and within it by what was asked: only equal questions may be joined by a line. */
function grouped(points) {
  const groups = new Map();
  for (const point of points) {
    const key = `${point.version.base_model} ${point.score.comparable_key}`;
    if (!groups.has(key)) groups.set(key, { base: point.version.base_model, points: [] });
    groups.get(key).points.push(point);
  }
  return [...groups.values()].sort((a, b) => a.base.localeCompare(b.base));
}

function basesOf(groups) {
  return [...new Set(groups.map((group) => group.base))];
}

/** Of points by size: those that no smaller one equals or beats. */
export function frontier(points) {
  const best = [];
  for (const point of [...points].sort((a, b) => a.version.weights_bytes - b.version.weights_bytes)) {
    const last = best.at(-1);
    const sign = point.score.higher_is_better ? 1 : -1;
    if (!last || sign * point.score.value > sign * last.score.value) best.push(point);
  }
  return best;
}

function figure(groups, task, points) {
  const scale = isShare(points[0].score) ? 100 : 1;
  const bases = basesOf(groups);
  const data = groups.flatMap((group) => {
    const colour = seriesColour(bases.indexOf(group.base));
    const line = frontier(group.points);
    const base = group.points.find((point) => point.score.base)?.score.base;
    const sizes = group.points.map((point) => point.version.weights_bytes / 1e9);
    return [
      base && bases.length <= 2 && {
        x: span(points), y: [base.value * scale, base.value * scale], mode: "lines", hoverinfo: "skip", showlegend: false,
        line: { color: colour, width: 1, dash: "dot" }, legendgroup: group.base,
      },
      {
        x: line.map((point) => point.version.weights_bytes / 1e9), y: line.map((point) => point.score.value * scale), mode: "lines", hoverinfo: "skip",
        line: { color: colour, width: 1.5, shape: "hv" }, opacity: 0.55, showlegend: false, legendgroup: group.base,
      },
      {
        x: sizes,
        y: group.points.map((point) => point.score.value * scale),
        error_y: { type: "data", array: group.points.map((point) => (point.score.stderr ?? 0) * scale), color: colour, thickness: 1, width: 3 },
        mode: "markers", name: baseName(group.base), legendgroup: group.base,
        marker: { color: colour, size: 9, line: { color: token("--raised"), width: 1.5 } },
        text: group.points.map((point) => point.version.id),
        customdata: group.points.map((point) => [point.version.model, point.version.version]),
        hovertemplate: `<b>%{text}</b><br>%{x:.2f} GB · %{y:.${scale === 100 ? 1 : 2}f} ± %{error_y.array:.${scale === 100 ? 1 : 2}f}<extra></extra>`,
      },
    ].filter(Boolean);
  });
  return {
    data,
    layout: {
      xaxis: { title: { text: t("pareto.size") }, range: span(points) },
      yaxis: { title: { text: `${taskName(task)}${scale === 100 ? " (%)" : ""}` }, autorange: points[0].score.higher_is_better ? true : "reversed" },
      hovermode: "closest",
      showlegend: false,
    },
  };
}

/** From zero, unless all are so alike in size that zero would squeeze them into a corner. */
function span(points) {
  const sizes = points.map((point) => point.version.weights_bytes / 1e9);
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  const room = Math.max((most - least) * 0.12, most * 0.02);
  return [least > most / 2 ? least - room : 0, most + room];
}

function columns() {
  return [
    { key: "id", label: t("pareto.version"), header: true, render: ({ version }) => h("a", { href: versionHref(version.model, version.version) }, version.id) },
    { key: "base", label: t("facets.base_model"), render: ({ version }) => baseName(version.base_model) },
    { key: "bpw", label: t("models.bpw"), align: "end", render: ({ version }) => fixed(version.bpw_effective, 2) },
    { key: "size", label: t("models.size"), align: "end", render: ({ version }) => bytes(version.weights_bytes) },
    { key: "score", label: t("models.score"), align: "end", render: ({ score }) => scoreCell(score) },
  ];
}
