// A model card's markdown as elements: headings, paragraphs, lists, tables, code, links. Never as HTML.

import { h } from "./dom.js";

/** A node for the text. Front matter is left out: it is for machines. */
export function markdown(text) {
  const body = text.replace(/^---[ \t]*\n[\s\S]*?\n---[ \t]*(\n|$)/, "");
  const lines = body.replaceAll("\r\n", "\n").split("\n");
  const node = h("div", { class: "prose" });
  let at = 0;
  while (at < lines.length) {
    const [block, next] = take(lines, at);
    if (block) node.append(block);
    at = next;
  }
  return node;
}

function take(lines, at) {
  const line = lines[at];
  if (line.trim() === "") return [null, at + 1];
  const heading = /^(#{1,6})\s+(.*)$/.exec(line);
  if (heading) return [h(`h${Math.min(heading[1].length + 1, 4)}`, inline(heading[2])), at + 1];
  if (/^```/.test(line)) return fenced(lines, at);
  if (/^\s*([-*]|\d+[.)])\s+/.test(line)) return listed(lines, at);
  if (/^\s*\|/.test(line) && /^\s*\|?[\s:|-]+\|[\s:|-]*$/.test(lines[at + 1] ?? "")) return tabled(lines, at);
  if (/^>\s?/.test(line)) return run(lines, at, /^>\s?/, (rows) => h("blockquote", inline(rows.map((row) => row.replace(/^>\s?/, "")).join(" "))));
  return run(lines, at, /^(?!\s*$|#{1,6}\s|```|\s*[-*]\s|\s*\d+[.)]\s|>\s?)/, (rows) => h("p", inline(rows.join(" "))));
}

function run(lines, at, wanted, build) {
  let end = at + 1;
  while (end < lines.length && wanted.test(lines[end]) && lines[end].trim() !== "") end += 1;
  return [build(lines.slice(at, end)), end];
}

function fenced(lines, at) {
  let end = at + 1;
  while (end < lines.length && !/^```/.test(lines[end])) end += 1;
  return [h("pre", { tabindex: "0" }, h("code", lines.slice(at + 1, end).join("\n"))), end + 1];
}

function listed(lines, at) {
  const isNumbered = /^\s*\d/.test(lines[at]);
  const items = [];
  let end = at;
  while (end < lines.length && lines[end].trim() !== "") {
    const item = /^\s*(?:[-*]|\d+[.)])\s+(.*)$/.exec(lines[end]);
    if (item) items.push(item[1]);
    else items.push(`${items.pop()} ${lines[end].trim()}`);
    end += 1;
  }
  return [h(isNumbered ? "ol" : "ul", items.map((item) => h("li", inline(item)))), end];
}

function tabled(lines, at) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  let end = at + 2;
  while (end < lines.length && /^\s*\|/.test(lines[end])) end += 1;
  const head = h("thead", h("tr", cells(lines[at]).map((cell) => h("th", { scope: "col" }, inline(cell)))));
  const body = h("tbody", lines.slice(at + 2, end).map((line) => h("tr", cells(line).map((cell) => h("td", inline(cell))))));
  return [h("div", { class: "table-scroll", tabindex: "0" }, h("table", { class: "table" }, head, body)), end];
}

const INLINE = /(`[^`]+`)|(\*\*[^*]+\*\*)|(\*[^*\s][^*]*\*)|\[([^\]]+)\]\(([^)\s]+)\)|(https?:\/\/[^\s<>()]+[^\s<>().,;:!?])/g;

function inline(text) {
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(INLINE)) {
    nodes.push(text.slice(from, found.index));
    nodes.push(inlined(found));
    from = found.index + found[0].length;
  }
  return [...nodes, text.slice(from)];
}

function inlined([whole, code, strong, emphasis, label, target, bare]) {
  if (code) return h("code", code.slice(1, -1));
  if (strong) return h("strong", strong.slice(2, -2));
  if (emphasis) return h("em", emphasis.slice(1, -1));
  const address = target ?? bare;
  // Only where a browser goes, and never to run anything.
  return /^(https?:\/\/|\/|#)/.test(address) ? h("a", { href: address, rel: "noopener noreferrer", target: /^http/.test(address) ? "_blank" : null }, label ?? bare) : whole;
}
