// Plots by plotly, which is fetched when the first one is shown. Behind every plot stands its table.

import { h, replace } from "./dom.js";
import { t } from "./i18n.js";
import { skeleton } from "./components.js";
import { table } from "./tables.js";

const SOURCE = "/ui/vendor/plotly.min.js";
const RULES = { rel: "stylesheet", id: "plotly.js-style-global", class: "no-inline-styles", href: "/ui/style/plotly.css" };
const MAP_RULES = "9f215cf04c5486422605d13261cb87401f4e7763b6296af81e98efbc0130da53";
let loading = null;

function plotly() {
  loading ??= new Promise((resolve, reject) => {
    // The pages' policy allows no style elements. Plotly leaves its own out where it finds these: its rules as a file,
    // and the mark of those for maps, which no page here draws.
    document.head.append(h("link", RULES), h("meta", { id: MAP_RULES }));
    const script = h("script", { src: SOURCE });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      loading = null;
      reject(new Error(t("plot.unavailable")));
    };
    document.head.append(script);
  });
  return loading;
}

/** A design token as a colour: `token("--accent")`. */
export function token(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return text.startsWith("light-dark(") ? resolved(name) : text;
}

/** What the browser makes of a colour that depends on the theme. */
function resolved(name) {
  const probe = h("i", { hidden: true, style: { color: `var(${name})` } });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** The nth colour of series; they tell apart in both themes and for colour-blind eyes. */
export function seriesColour(at) {
  return token(`--series-${(at % 8) + 1}`);
}

function base(height) {
  const axis = {
    gridcolor: token("--line"), zerolinecolor: token("--line-strong"), linecolor: token("--line-strong"),
    tickcolor: token("--line-strong"), ticklen: 4, automargin: true, title: { standoff: 8 },
  };
  return {
    height,
    autosize: true,
    margin: { l: 48, r: 16, t: 12, b: 44 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: token("--font"), size: 12, color: token("--muted") },
    hoverlabel: { bgcolor: token("--raised"), bordercolor: token("--line-strong"), font: { family: token("--font"), color: token("--text"), size: 12 }, align: "left" },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
    xaxis: axis,
    yaxis: axis,
    axis,
  };
}

function merged(under, over) {
  const result = { ...under };
  for (const [key, value] of Object.entries(over ?? {})) {
    const isPlain = value && typeof value === "object" && !Array.isArray(value);
    result[key] = isPlain ? merged(result[key] ?? {}, value) : value;
  }
  return result;
}

const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false, doubleClick: "reset" };

/**
 * A plot and its table.
 *
 * title, description: text. `draw()` answers plotly's {data, layout}; it is called again when the theme changes, so
 * take colours from `token` and `seriesColour` inside it. `table`: {columns, rows} as `table()` takes them.
 * `onclick(point)` is told plotly's point. `label`: what a screen reader hears in the plot's place. `legend`: the names
 * of the series in the order of their colours, where plotly's own would take a phone's whole plot.
 */
export function plot({ title, description, label = title, height = 300, draw, table: behind, onclick, actions = [], legend = [] }) {
  const place = h("div", { class: "plot-place", style: { "min-height": `${height}px` } }, skeleton("block", 1));
  const body = h("div", { class: "plot-body", role: "img", "aria-label": label }, place);
  const toggle = h("button", { type: "button", class: "button button-quiet", "aria-pressed": "false", onclick: () => flip() }, t("plot.table"));
  let showsTable = false;

  function flip() {
    showsTable = !showsTable;
    toggle.setAttribute("aria-pressed", String(showsTable));
    toggle.textContent = t(showsTable ? "plot.chart" : "plot.table");
    if (showsTable) body.removeAttribute("role");
    else body.setAttribute("role", "img");
    replace(body, showsTable ? table({ caption: label, ...behind }) : place);
    if (!showsTable) paint();
  }

  async function paint() {
    try {
      const engine = await plotly();
      if (!place.isConnected) return;
      const { data, layout } = draw();
      const under = base(height);
      const axes = Object.keys(layout ?? {}).filter((key) => /^[xy]axis\d+$/.test(key)).map((key) => [key, under.axis]);
      delete under.axis;
      if (!place.classList.contains("js-plotly-plot")) replace(place);
      await engine.react(place, data, merged({ ...under, ...Object.fromEntries(axes) }, layout), CONFIG);
      if (onclick && !place.dataset.clicks) {
        place.dataset.clicks = "1";
        place.on("plotly_click", ({ points }) => onclick(points[0]));
      }
    } catch (error) {
      console.error(error);
      if (!showsTable) flip(); // no plot, but no less to know
    }
  }

  watch(place, paint);
  const node = h(
    "figure",
    { class: "plot" },
    h("figcaption", { class: "plot-head" }, h("div", title && h("h2", { class: "plot-title" }, title), description && h("p", { class: "muted" }, description)), h("div", { class: "plot-actions" }, actions, toggle)),
    legend.length > 0 && h("ul", { class: "plot-legend" }, legend.map((name, at) => h("li", h("i", { class: `series-${(at % 8) + 1}`, "aria-hidden": "true" }), name))),
    body,
  );
  node.repaint = paint;
  return node;
}

/** Paint when the place is first seen, when its width changes and when the theme does; let go when it is gone. */
function watch(place, paint) {
  let width = 0;
  const sizes = new ResizeObserver(([entry]) => {
    if (!place.isConnected) return;
    const now = Math.round(entry.contentRect.width);
    if (now > 0 && now !== width) {
      width = now;
      requestAnimationFrame(paint);
    }
  });
  sizes.observe(place);
  const repaint = () => place.isConnected ? paint() : document.removeEventListener("bitsmith:theme", repaint);
  document.addEventListener("bitsmith:theme", repaint);
}
