// How a version was trained: curves with the seams between attempts, and what each stage took.

import { get } from "../lib/api.js";
import { badge, card, emptyState, load, table } from "../lib/components.js";
import { bytes, duration, number, percent } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { plot, seriesColour, token } from "../lib/plot.js";

export function trainingTab(version, signal) {
  const path = `/v1/fine_tuning/jobs/${encodeURIComponent(version.job_id)}/metrics`;
  const params = { name: ["loss", "held_out_loss", "flip_rate"], stage: "training", max_points: 800 };
  const curves = version.training
    ? load(() => get(path, { params, signal }), (metrics) => drawn(metrics.series), { signal })
    : emptyState({ icon: "chart", title: t("training.none"), body: t("training.none_body") });
  return [card({}, curves), card({ title: t("training.stages"), flush: true }, stages(version.stages))];
}

function drawn(series) {
  const of = (name) => series.filter((one) => one.name === name).sort((a, b) => a.attempt - b.attempt);
  if (of("loss").length === 0) return emptyState({ icon: "chart", title: t("training.forgotten"), body: t("training.forgotten_body") });
  const hasFlips = of("flip_rate").some((one) => one.values.some((value) => value > 0));
  return [
    curve({ title: t("training.loss"), series: [[t("training.loss"), of("loss"), true], [t("training.held_out"), of("held_out_loss"), false]] }),
    hasFlips && curve({ title: t("training.flips"), description: t("training.flips_how"), series: [[t("training.flips"), of("flip_rate"), false]], format: ".2%" }),
  ];
}

/**
 * One plot of curves over steps. `series`: [[label, its pieces by attempt, whether to smooth]]. An attempt that begins
 * is a dotted line: what it repeated is drawn over what was lost, fainter.
 */
export function curve({ title, description, series, format, x = (piece) => piece.steps, xTitle = t("training.step"), height = 260 }) {
  const there = series.filter(([, pieces]) => pieces.length > 0);
  const rows = there.flatMap(([label, pieces]) => pieces.flatMap((piece) => piece.steps.map((step, at) => ({ label, attempt: piece.attempt, step, value: piece.values[at] }))));
  return plot({
    title,
    description,
    label: t("training.label", { what: title }),
    height,
    draw: () => figure(there, { format, x, xTitle }),
    table: { rows: thinned(rows, 200), columns: [
      { key: "label", label: t("training.curve") },
      { key: "attempt", label: t("training.attempt"), align: "end" },
      { key: "step", label: t("training.step"), align: "end" },
      { key: "value", label: t("training.value"), align: "end", render: (row) => (format ? percent(row.value, 3) : number(row.value, 4)) },
    ] },
  });
}

function thinned(rows, most) {
  const every = Math.ceil(rows.length / most);
  return rows.filter((_, at) => at % every === 0);
}

function figure(series, { format, x, xTitle }) {
  const data = [];
  const seams = new Set();
  const isNothing = series.every(([, pieces]) => pieces.every((piece) => piece.values.every((value) => value === 0))); // not from -100 % to 100 %
  series.forEach(([label, pieces, isSmoothed], at) => {
    const colour = seriesColour(at);
    pieces.forEach((piece, index) => {
      const isLast = index === pieces.length - 1;
      if (index > 0) seams.add(x(piece)[0]);
      const shared = { x: x(piece), mode: "lines", legendgroup: label, hovertemplate: `%{y${format ? `:${format}` : ":.4f"}}<extra>${label}${pieces.length > 1 ? ` · ${t("training.attempt_n", { n: piece.attempt })}` : ""}</extra>` };
      if (isSmoothed) data.push({ ...shared, y: piece.values, line: { color: colour, width: 1 }, opacity: 0.28, hoverinfo: "skip", hovertemplate: null, showlegend: false });
      data.push({ ...shared, y: isSmoothed ? smoothed(piece.values) : piece.values, name: label, line: { color: colour, width: 2 }, opacity: isLast ? 1 : 0.45, showlegend: isLast && series.length > 1 });
    });
  });
  return {
    data,
    layout: {
      hovermode: "x unified",
      xaxis: { title: { text: xTitle } },
      yaxis: { tickformat: format ?? "", ...(isNothing && { range: [0, 0.01], rangemode: "nonnegative" }) },
      shapes: [...seams].map((step) => ({ type: "line", x0: step, x1: step, yref: "paper", y0: 0, y1: 1, line: { color: token("--faint"), width: 1, dash: "dot" } })),
      annotations: [...seams].map((step) => ({ x: step, yref: "paper", y: 1, text: t("training.seam"), showarrow: false, xanchor: "left", yanchor: "top", xshift: 4, font: { size: 11, color: token("--muted") } })),
    },
  };
}

/** An exponential mean, without the bias of its beginning. */
export function smoothed(values, keep = 0.92) {
  let mean = 0;
  let weight = 0;
  return values.map((value) => {
    mean = keep * mean + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return mean / weight;
  });
}

function stages(rows) {
  return table({
    caption: t("training.stages"),
    rows,
    columns: [
      { key: "stage", label: t("training.stage"), header: true, render: (row) => [term("stage", row.stage), row.resumed && " ", row.resumed && badge(t("training.resumed"), { title: t("training.resumed_hint") })] },
      { key: "wall_s", label: t("training.took"), align: "end", render: (row) => duration(row.wall_s) },
      { key: "peak", label: t("training.peak"), align: "end", render: (row) => bytes(row.peak_memory_bytes) },
    ],
  });
}
