// Which view an address shows. Everything a view shows comes from its address: back, forward and a copied link work.

import { ApiError } from "./api.js";
import { replace } from "./dom.js";
import { t } from "./i18n.js";

let table = [];
let outlet = null;
let onShown = () => {};
let shown = null; // {path, controller, onQuery}

/** `routes`: [{path: "/ui/jobs/:id", load: () => import(...)}]; the first that matches wins. */
export function start(routes, where, whenShown) {
  table = routes.map((route) => ({ ...route, pattern: compile(route.path) }));
  const isFirst = outlet === null;
  outlet = where;
  onShown = whenShown;
  shown?.controller.abort();
  shown = null;
  if (isFirst) {
    addEventListener("popstate", () => show());
    document.addEventListener("click", follow);
  }
  show();
}

function compile(path) {
  const names = [];
  const source = path.replace(/:(\w+)/g, (_, name) => {
    names.push(name);
    return "([^/]+)";
  });
  return { names, expression: new RegExp(`^${source}/?$`) };
}

function match(path) {
  for (const route of table) {
    const found = route.pattern.expression.exec(path);
    if (found) {
      const params = route.pattern.names.map((name, at) => [name, decodeURIComponent(found[at + 1])]);
      return { route, params: Object.fromEntries(params) };
    }
  }
  return null;
}

/** Whether an address of these pages shows something: for links to views of another version. */
export function hasView(path) {
  return match(path.split("?")[0]) !== null;
}

/** Go to an address of these pages. */
export function navigate(address, { replace: instead = false } = {}) {
  if (instead) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  return show();
}

/** Change the query of this address: null and [] take a parameter away. */
export function setQuery(changes, { replace: instead = true } = {}) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") query.append(name, one);
  }
  const text = query.toString();
  return navigate(text ? `${location.pathname}?${text}` : location.pathname, { replace: instead });
}

/** Show this address anew: the language changed, or something was written. */
export function reload() {
  const { scrollX, scrollY } = window;
  if (shown) shown.path = null;
  return show().then(() => scrollTo(scrollX, scrollY));
}

function follow(event) {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
  const link = event.target.closest?.("a[href]");
  if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  if (!link.pathname.startsWith("/ui/")) return;
  event.preventDefault();
  if (link.hash && link.pathname === location.pathname && link.search === location.search) {
    document.getElementById(link.hash.slice(1))?.scrollIntoView();
    return;
  }
  navigate(link.href);
}

async function show() {
  const query = new URLSearchParams(location.search);
  if (shown?.path === location.pathname && shown.onQuery) {
    shown.onQuery(query);
    onShown(location.pathname);
    return;
  }
  shown?.controller.abort();
  const mine = { path: location.pathname, controller: new AbortController(), onQuery: null };
  shown = mine;
  const found = match(location.pathname);
  outlet.setAttribute("aria-busy", "true");
  try {
    const module = await (found ? found.route.load() : import("../views/not_found.js"));
    const node = await module.view({
      params: found?.params ?? {},
      query,
      signal: mine.controller.signal,
      onQuery: (handler) => {
        mine.onQuery = handler; // the view takes changes of its query itself: nothing flickers, focus stays
      },
    });
    if (shown !== mine) return;
    present(node, typeof module.title === "function" ? module.title(found?.params ?? {}) : t(module.title));
  } catch (error) {
    if (shown !== mine || error.name === "AbortError") return;
    if (!(error instanceof ApiError)) console.error(error);
    const { errorState, page } = await import("./components.js");
    present(page({ title: t("error.title") }, errorState(error, reload)), t("error.title"));
  } finally {
    if (shown === mine) outlet.removeAttribute("aria-busy");
  }
}

function present(node, title) {
  replace(outlet, node);
  document.title = `${title} · Bitsmith`;
  scrollTo(0, 0);
  // A screen reader hears where it is now; a mouse sees no ring on it.
  const heading = outlet.querySelector("h1");
  if (heading && !outlet.querySelector("[autofocus]")) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
  outlet.querySelector("[autofocus]")?.focus();
  onShown(location.pathname);
}
