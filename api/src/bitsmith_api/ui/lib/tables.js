// Tables: dense, with a caption for those who cannot see them, scrolling sideways where a screen is small.

import { h, replace } from "./dom.js";
import { t } from "./i18n.js";
import { icon } from "./icons.js";

/**
 * columns: [{key, label, render(row)?, align: "end"?, sort: "name"?, hint?, class?}]. `sort` names the order that the
 * column's head asks for; `sorted` is the present one ("-name" is descending) and `onsort` is told the next.
 * `empty` is shown where there are no rows. `caption` is read out, not shown. With `stack` a row becomes a card on a phone.
 */
export function table({ columns, rows, caption, empty, sorted = "", onsort, stack = false, rowProps = () => ({}) }) {
  if (rows.length === 0 && empty) return empty;
  const head = h("tr", columns.map((column) => headOf(column, sorted, onsort)));
  return h(
    "div",
    { class: "table-scroll", tabindex: "0", role: "region", "aria-label": caption },
    h(
      "table",
      { class: stack ? "table table-stack" : "table" },
      caption && h("caption", { class: "sr-only" }, caption),
      h("thead", head),
      h("tbody", rows.map((row) => rowOf(row, columns, rowProps))),
    ),
  );
}

function rowOf(row, columns, rowProps = () => ({})) {
  const cells = columns.map((column, at) => {
    const value = column.render ? column.render(row) : row[column.key];
    const props = { class: classOf(column), "data-label": column.label };
    return column.header ? h("th", { ...props, scope: "row" }, value ?? "–") : h("td", props, value ?? "–");
  });
  return h("tr", rowProps(row), cells);
}

function classOf(column) {
  return `${column.align === "end" ? "num" : ""} ${column.class ?? ""}`.trim() || null;
}

function headOf(column, sorted, onsort) {
  const props = { scope: "col", class: classOf(column), title: column.hint };
  if (!column.sort || !onsort) return h("th", props, column.label);
  const direction = sorted === column.sort ? "ascending" : sorted === `-${column.sort}` ? "descending" : null;
  const first = column.descendingFirst ? `-${column.sort}` : column.sort;
  const other = column.descendingFirst ? column.sort : `-${column.sort}`;
  return h(
    "th",
    { ...props, "aria-sort": direction ?? "none" },
    h(
      "button",
      { type: "button", class: "sorter", onclick: () => onsort(sorted === first ? other : first) },
      column.label,
      h("i", { class: direction ? `sort-${direction}` : "sort-none", "aria-hidden": "true" }, icon("down", { size: 12 })),
    ),
  );
}

/**
 * A table over a cursor list: `first` is its first page ({data, has_more, last_id}), `more(after)` fetches the next.
 * Other options are the table's.
 */
export function pagedTable({ first, more, columns, rowProps, ...options }) {
  const node = table({ columns, rows: first.data, rowProps, ...options });
  const body = node.querySelector("tbody");
  if (!first.has_more || !body) return node;
  let after = first.last_id;
  const next = h("button", {
    type: "button",
    class: "button",
    onclick: async () => {
      next.disabled = true;
      try {
        const found = await more(after);
        body.append(...found.data.map((row) => rowOf(row, columns, rowProps)));
        after = found.last_id;
        if (!found.has_more) foot.remove();
      } catch (error) {
        replace(problem, error.message);
      } finally {
        next.disabled = false;
      }
    },
  }, t("ui.more"));
  const problem = h("span", { class: "bad", role: "alert" });
  const foot = h("div", { class: "table-foot" }, next, problem);
  return h("div", { class: "paged" }, node, foot);
}
