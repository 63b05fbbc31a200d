// Elements without strings of HTML: text is always a text node, so data can never become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element. `props`: `class`, `dataset`, `style` (an object), `on<event>` listeners, boolean and text attributes;
 * null, undefined and false leave an attribute out. Children: nodes, text, numbers, arrays; null and false are nothing.
 */
export function h(tag, props, ...children) {
  return build(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props, ...children) {
  return build(document.createElementNS(SVG, tag), props, children);
}

function build(node, props, children) {
  if (isChild(props)) children = [props, ...children];
  else for (const [name, value] of Object.entries(props ?? {})) set(node, name, value);
  append(node, children);
  return node;
}

function isChild(value) {
  return value instanceof Node || Array.isArray(value) || typeof value === "string" || typeof value === "number";
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "dataset") Object.assign(node.dataset, value);
  else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
  else if (name === "value" && "value" in node) node.value = value;
  else node.setAttribute(name, value === true ? "" : String(value));
}

/** Append children as `h` takes them. */
export function append(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === true) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

/** Put these children in the place of what the node holds. */
export function replace(node, ...children) {
  node.replaceChildren();
  return append(node, children);
}

/** A function that runs `task` once calls have stopped for `ms`. */
export function debounced(task, ms = 250) {
  let timer;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => task(...given), ms);
  };
}

let numbered = 0;

/** A new id for aria-labelledby and its like. */
export function uid(prefix = "id") {
  numbered += 1;
  return `${prefix}-${numbered}`;
}
