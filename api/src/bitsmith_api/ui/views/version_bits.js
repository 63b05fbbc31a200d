// Which layer got how many bits, and what it would cost to give it fewer.

import { card, notice } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { bytes, compact, fixed, percent } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { plot, token } from "../lib/plot.js";

const ORDER = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"];

export function bitsTab(version) {
  const facts = version.quantization;
  const cells = facts.layers.map(placed);
  const known = cells.filter((cell) => cell.layer !== null);
  const widths = [...new Set(cells.map((cell) => cell.bits))].sort((a, b) => a - b);
  return [
    card({},
      share(cells, widths),
      known.length > 0 && plot({
        title: t("bits.title"),
        description: t("bits.description"),
        label: t("bits.label", { layers: new Set(known.map((cell) => cell.layer)).size }),
        height: 90 + 30 * new Set(known.map((cell) => cell.module)).size,
        draw: () => heat(known, widths),
        table: { columns: columns(), rows: cells },
      }),
      facts.notes.map((note) => notice("info", note))),
    card({ title: t("bits.weights") }, weights(facts)),
  ];
}

function placed(layer) {
  const found = /(?:^|\.)layers\.(\d+)\.(?:.*\.)?([\w]+)$/.exec(layer.name);
  return { ...layer, layer: found ? Number(found[1]) : null, module: found ? found[2] : layer.name };
}

function modulesOf(cells) {
  const rank = (module) => (ORDER.indexOf(module) + 1 || 99);
  return [...new Set(cells.map((cell) => cell.module))].sort((a, b) => rank(a) - rank(b));
}

export function bitsColour(bits) {
  return token(`--bits-${bits}`) || token("--bits-none");
}

/** A bar: how much of all quantized weights has which width. */
function share(cells, widths) {
  const total = cells.reduce((sum, cell) => sum + cell.weights, 0);
  const parts = widths.map((bits) => ({ bits, share: cells.filter((cell) => cell.bits === bits).reduce((sum, cell) => sum + cell.weights, 0) / total }));
  return h("div", { class: "bit-share" },
    h("div", { class: "bit-bar", "aria-hidden": "true" }, parts.map((part) => h("i", { class: `bit-${part.bits}`, style: { "flex-grow": part.share } }))),
    h("ul", { class: "bit-legend" }, parts.map((part) => h("li", h("i", { class: `bit-${part.bits}`, "aria-hidden": "true" }), t("bits.share", { bits: part.bits, share: percent(part.share, 1) })))));
}

function heat(cells, widths) {
  const modules = modulesOf(cells);
  const layers = [...new Set(cells.map((cell) => cell.layer))].sort((a, b) => a - b);
  const at = new Map(cells.map((cell) => [`${cell.layer} ${cell.module}`, cell]));
  const grid = (value) => modules.map((module) => layers.map((layer) => {
    const cell = at.get(`${layer} ${module}`);
    return cell ? value(cell) : null;
  }));
  const step = 1 / widths.length;
  return {
    data: [{
      type: "heatmap",
      x: layers,
      y: modules,
      z: grid((cell) => widths.indexOf(cell.bits)),
      zmin: -0.5,
      zmax: widths.length - 0.5,
      colorscale: widths.flatMap((bits, index) => [[index * step, bitsColour(bits)], [(index + 1) * step, bitsColour(bits)]]),
      showscale: false,
      xgap: 2,
      ygap: 2,
      text: grid((cell) => [
        t("bits.hover_bits", { bits: cell.bits, group: cell.group_size }),
        t("bits.hover_weights", { weights: compact(cell.weights) }),
        cell.sensitivity === null ? t("bits.hover_unmeasured") : t("bits.hover_sensitivity", { nats: fixed(cell.sensitivity, 4) }),
      ].join("<br>")),
      hovertemplate: `<b>${t("bits.layer")} %{x} · %{y}</b><br>%{text}<extra></extra>`,
    }],
    layout: {
      xaxis: { title: { text: t("bits.layer") }, showgrid: false, zeroline: false, dtick: layers.length > 20 ? 4 : 2, showline: false },
      yaxis: { autorange: "reversed", showgrid: false, ticks: "", showline: false },
      margin: { l: 80, t: 4 },
    },
  };
}

function columns() {
  return [
    { key: "name", label: t("bits.module"), header: true, render: (cell) => h("code", cell.name) },
    { key: "bits", label: t("bits.bits"), align: "end" },
    { key: "group_size", label: t("bits.group"), align: "end" },
    { key: "weights", label: t("bits.weights"), align: "end", render: (cell) => compact(cell.weights) },
    { key: "sensitivity", label: t("bits.sensitivity"), align: "end", hint: t("bits.sensitivity_hint"), render: (cell) => fixed(cell.sensitivity, 4) },
  ];
}

function weights(facts) {
  const row = (label, count, size) => h("div", h("dt", label), h("dd", `${compact(count)} · ${bytes(size)}`));
  return h("dl", { class: "facts" },
    row(t("bits.quantized"), facts.quantized_weights, facts.quantized_bytes),
    row(t("bits.float"), facts.float_weights, facts.float_weights * 2),
    h("div", h("dt", t("bits.base")), h("dd", bytes(facts.float_bytes))));
}
