// Two sides, task by task, from the items both were asked: what the API found, in words and whiskers.

import { badge, table } from "./components.js";
import { h, s } from "./dom.js";
import { fixed, signed } from "./format.js";
import { t } from "./i18n.js";
import { taskName } from "./registry.js";

const TONES = { better: "good", worse: "bad", "no difference": "neutral", "not comparable": "warn" };

/** A table of `comparison` (GET /v1/evals/compare); `names` are the sides' as the head says them. */
export function comparisonTable(comparison, { names = [comparison.a, comparison.b] } = {}) {
  const reach = reachOf(comparison.tasks);
  const columns = [
    { key: "task", label: t("compare.task"), header: true, render: (row) => [h("div", taskName(row.task)), h("div", { class: "faint small" }, `${row.metric}${row.n ? ` · n = ${row.n}` : ""}`)] },
    { key: "a", label: names[0], align: "end", class: "cell-wide", render: (row) => valueCell(row, "a") },
    { key: "b", label: names[1], align: "end", class: "cell-wide", render: (row) => valueCell(row, "b") },
    { key: "difference", label: t("compare.difference"), align: "end", class: "cell-wide", hint: t("compare.difference_hint", { share: Math.round(comparison.confidence * 100) }), render: differenceCell },
    { key: "interval", label: "", class: "cell-whisker", render: (row) => whisker(row, reach[row.unit]) },
    { key: "verdict", label: t("compare.verdict"), class: "cell-verdict cell-wide", render: verdictCell },
  ];
  return table({ caption: t("compare.caption", { a: comparison.a, b: comparison.b }), columns, rows: comparison.tasks, stack: true });
}

export function isShareTask(row) {
  return row.unit === "share of right answers";
}

function valueCell(row, side) {
  const value = row[side];
  if (value === null) return h("span", { class: "faint" }, "–");
  const scale = isShareTask(row) ? 100 : 1;
  const digits = isShareTask(row) ? 1 : 2;
  const error = row[`${side}_stderr`];
  return h("span", { class: "score" }, fixed(value * scale, digits), error !== null && h("span", { class: "error" }, ` ± ${fixed(error * scale, digits)}`));
}

function differenceCell(row) {
  if (row.difference === null) return h("span", { class: "faint" }, "–");
  const isGood = row.difference > 0 === row.higher_is_better;
  const tone = !row.significant ? "noise" : isGood ? "good" : "bad";
  const [scale, digits, unit] = isShareTask(row) ? [100, 1, t("compare.points")] : [1, 3, t("compare.nats")];
  return h("div", { title: t("compare.p_value", { p: pText(row.p_value) }) },
    h("div", { class: `change change-${tone}` }, signed(row.difference * scale, digits), " ", h("span", { class: "small" }, unit)),
    h("div", { class: "faint small nowrap" }, `${signed(row.low * scale, digits)} … ${signed(row.high * scale, digits)}`));
}

function pText(p) {
  if (p === null) return "–";
  return p < 0.001 ? "< 0.001" : `= ${fixed(p, 3)}`;
}

function verdictCell(row) {
  const word = t(`verdict.${row.verdict.replaceAll(" ", "_")}`);
  if (row.verdict === "not comparable") return h("div", badge(word, { tone: "warn" }), row.reason && h("p", { class: "faint small reason" }, row.reason));
  return h("span", { title: t("compare.p_value", { p: pText(row.p_value) }) }, badge(word, { tone: TONES[row.verdict] }));
}

function reachOf(rows) {
  const reach = {};
  for (const row of rows) {
    if (row.difference === null) continue;
    reach[row.unit] = Math.max(reach[row.unit] ?? 0, Math.abs(row.low), Math.abs(row.high));
  }
  return reach;
}

/** The interval on a line with zero in the middle; better is at the right whatever the metric. */
function whisker(row, reach) {
  if (row.difference === null || !reach) return h("span", { "aria-hidden": "true" });
  const sign = row.higher_is_better ? 1 : -1;
  const at = (value) => 60 + (sign * value * 54) / reach;
  const tone = !row.significant ? "noise" : sign * row.difference > 0 ? "good" : "bad";
  const [low, high] = [at(row.low), at(row.high)].sort((one, other) => one - other);
  return s("svg", { class: `whisker whisker-${tone}`, viewBox: "0 0 120 18", width: 120, height: 18, "aria-hidden": "true" },
    s("line", { x1: 60, x2: 60, y1: 1, y2: 17, class: "whisker-zero" }),
    s("line", { x1: low, x2: high, y1: 9, y2: 9 }),
    s("line", { x1: low, x2: low, y1: 6, y2: 12 }), s("line", { x1: high, x2: high, y1: 6, y2: 12 }),
    s("circle", { cx: at(row.difference), cy: 9, r: 3.5 }));
}
