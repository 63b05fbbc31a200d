// A graph of what came from what, left to right; the list beneath says the same to those who cannot see it.

import { details } from "../lib/components.js";
import { h, s } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { hasView } from "../lib/router.js";

const BOX = { width: 190, height: 46, gapX: 54, gapY: 14 };

/** `graph`: {nodes: [{id, kind, label, href}], edges: [{from, to, kind}]} as the API answers it. */
export function lineage(graph) {
  const columns = byRank(graph);
  const most = Math.max(...columns.map((column) => column.length));
  const width = columns.length * (BOX.width + BOX.gapX) - BOX.gapX;
  const height = most * (BOX.height + BOX.gapY) - BOX.gapY;
  const places = new Map();
  columns.forEach((column, x) => column.forEach((node, y) => {
    const top = (height - (column.length * (BOX.height + BOX.gapY) - BOX.gapY)) / 2;
    places.set(node.id, { x: x * (BOX.width + BOX.gapX), y: top + y * (BOX.height + BOX.gapY) });
  }));
  const edges = graph.edges.filter((edge) => places.has(edge.from) && places.has(edge.to));
  return [
    h("div", { class: "lineage", tabindex: "0", role: "region", "aria-label": t("lineage.title") },
      s("svg", { width: width + 2, height: height + 2, viewBox: `-1 -1 ${width + 2} ${height + 2}` },
        edges.map((edge) => s("path", { class: "lineage-edge", d: bow(places.get(edge.from), places.get(edge.to)) })),
        graph.nodes.map((node) => box(node, places.get(node.id))))),
    details(t("lineage.as_list"), h("ul", { class: "lineage-list" }, edges.map((edge) => h("li", `${nameOf(graph, edge.from)} → ${nameOf(graph, edge.to)}`)))),
  ];
}

/** Each node right of all that it came from. */
export function byRank({ nodes, edges }) {
  const ranks = new Map(nodes.map((node) => [node.id, 0]));
  for (let round = 0; round < nodes.length; round += 1) {
    let isSettled = true;
    for (const edge of edges) {
      if (!ranks.has(edge.from) || !ranks.has(edge.to) || ranks.get(edge.to) > ranks.get(edge.from)) continue;
      ranks.set(edge.to, ranks.get(edge.from) + 1);
      isSettled = false;
    }
    if (isSettled) break;
  }
  const columns = [];
  for (const node of nodes) (columns[ranks.get(node.id)] ??= []).push(node);
  return columns.filter(Boolean);
}

function bow(from, to) {
  const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x, to.y + BOX.height / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

function box(node, { x, y }) {
  const label = node.label.length > 26 ? `${node.label.slice(0, 25)}…` : node.label;
  const content = [
    s("title", `${t(`lineage.${node.kind}`)}: ${node.label}`),
    s("rect", { x, y, width: BOX.width, height: BOX.height, rx: 8 }),
    s("text", { x: x + 12, y: y + 18, class: "lineage-kind" }, t(`lineage.${node.kind}`)),
    s("text", { x: x + 12, y: y + 35, class: "lineage-label" }, label),
  ];
  const target = pageOf(node);
  return target ? s("a", { href: target, class: `lineage-node kind-${node.kind}` }, content) : s("g", { class: `lineage-node kind-${node.kind}` }, content);
}

/** The page of these pages for what the API names by its own address. */
function pageOf(node) {
  const version = /^\/v1\/models\/([^/]+)\/versions\/(\d+)$/.exec(node.href ?? "");
  const job = /^\/v1\/fine_tuning\/jobs\/([^/]+)$/.exec(node.href ?? "");
  if (node.kind === "base" && node.href?.startsWith("/v1/models?")) return node.href.replace("/v1/", "/ui/");
  const page = version ? `/ui/models/${version[1]}/versions/${version[2]}` : job ? `/ui/jobs/${job[1]}` : null;
  return page && hasView(page) ? page : null;
}

function nameOf(graph, id) {
  const node = graph.nodes.find((one) => one.id === id);
  return node ? `${t(`lineage.${node.kind}`)} ${node.label}` : id;
}
