// The sidebar: where one can go, who one is, how it looks.

import { actIn, actingProject, all, del } from "./api.js";
import { dialog, icon, iconButton, select, toast } from "./components.js";
import { h } from "./dom.js";
import { chooseLanguage, language, t, term } from "./i18n.js";
import { navigate } from "./router.js";

/** The frame around `outlet`. `restart` builds it anew, in another language or project. */
export function shell({ session, routes, outlet, restart }) {
  const places = routes.filter((route) => route.nav && (!route.scope || session.scopes.includes(route.scope)));
  const links = places.map((route) => h(
    "a",
    { href: route.path, dataset: { nav: route.path }, "aria-keyshortcuts": route.key ? `g ${route.key}` : null },
    icon(route.icon ?? route.nav),
    h("span", t(`nav.${route.nav}`)),
    route.key && h("kbd", { "aria-hidden": "true" }, `g ${route.key}`),
  ));
  const side = h(
    "div",
    { class: "side", id: "side" },
    h("nav", { class: "side-nav", "aria-label": t("nav.main") }, links),
    h("div", { class: "side-foot" }, who(session, restart), looks(restart)),
  );
  const toggle = iconButton("menu", t("nav.menu"), {
    class: "button button-icon side-toggle", "aria-expanded": "false", "aria-controls": "side",
    onclick: () => open(!frame.classList.contains("is-open")),
  });
  function open(isOpen) {
    frame.classList.toggle("is-open", isOpen);
    toggle.setAttribute("aria-expanded", String(isOpen));
  }
  const frame = h(
    "div",
    { class: "frame" },
    h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); outlet.focus(); } }, t("nav.skip")),
    h("header", { class: "bar" }, h("a", { class: "brand", href: "/ui/" , onclick: (event) => { event.preventDefault(); navigate(places[0]?.path ?? "/ui/login"); } }, h("img", { src: "/ui/style/mark.svg", alt: "", width: 22, height: 22 }), "Bitsmith"), toggle),
    side,
    h("div", { class: "scrim", onclick: () => open(false) }),
    outlet,
  );
  frame.close = () => open(false);
  keyboard(places, frame);
  return frame;
}

/** Say which place is the present one. */
export function marked(frame, path) {
  frame.close?.();
  for (const link of frame.querySelectorAll("[data-nav]")) {
    const isHere = path === link.dataset.nav || path.startsWith(`${link.dataset.nav}/`);
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function who(session, restart) {
  const name = session.is_installation ? t("nav.installation") : session.key_name ?? session.key_id;
  const leave = iconButton("logout", t("nav.logout"), {
    onclick: async () => {
      await del("/v1/session", { anonymous: true }).catch(() => {});
      actIn(null);
      location.assign("/ui/login");
    },
  });
  return h(
    "div",
    { class: "who" },
    h("div", { class: "who-text" }, session.is_installation ? projects(session, restart) : h("strong", session.project_name), h("span", { class: "muted" }, `${name} · ${term("role", session.role)}`)),
    leave,
  );
}

/** The installation's own key acts in any project: which one is chosen here. */
function projects(session, restart) {
  const node = select([[session.project, session.project_name]], { value: session.project, "aria-label": t("nav.project"), class: "input input-small" });
  node.addEventListener("change", () => {
    actIn(node.value);
    restart();
  });
  all("/v1/projects").then((found) => {
    for (const one of found) if (one.id !== session.project && one.status === "active") node.append(h("option", { value: one.id }, one.name));
    node.value = actingProject() ?? session.project;
  }).catch((error) => toast(error.message, { tone: "bad" }));
  return node;
}

const THEMES = ["system", "light", "dark"];
const THEME_ICONS = { system: "system", light: "sun", dark: "moon" };

function looks(restart) {
  const present = document.documentElement.dataset.theme ?? "system";
  const themes = THEMES.map((name) => iconButton(THEME_ICONS[name], t(`theme.${name}`), {
    "aria-pressed": String(name === present),
    onclick: () => {
      chooseTheme(name);
      for (const [at, node] of themes.entries()) node.setAttribute("aria-pressed", String(THEMES[at] === name));
    },
  }));
  const other = language() === "zh" ? ["en", "English"] : ["zh", "中文"];
  const tongue = h("button", {
    type: "button", class: "button button-quiet", lang: other[0] === "zh" ? "zh-Hans" : "en",
    onclick: async () => {
      await chooseLanguage(other[0]);
      restart();
    },
  }, other[1]);
  return h("div", { class: "looks" }, h("div", { class: "segmented", role: "group", "aria-label": t("theme.label") }, themes), tongue);
}

function chooseTheme(name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  try {
    if (name === "system") localStorage.removeItem("bitsmith.theme");
    else localStorage.setItem("bitsmith.theme", name);
  } catch {
    // Then it holds for this page only.
  }
  document.dispatchEvent(new Event("bitsmith:theme"));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("bitsmith:theme")));

let heard = null;

/** "g m" goes to models and so on, "/" to the search, "?" shows them all. Never while somebody types. */
function keyboard(places, frame) {
  if (heard) document.removeEventListener("keydown", heard);
  let isGoing = false;
  heard = (event) => {
    const isTyping = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "Escape") frame.close();
    if (isTyping || event.metaKey || event.ctrlKey || event.altKey || document.querySelector("dialog[open]")) return;
    const place = isGoing && places.find((route) => route.key === event.key);
    isGoing = event.key === "g";
    if (place) navigate(place.path);
    else if (event.key === "/") focusSearch(event);
    else if (event.key === "?") help(places);
  };
  document.addEventListener("keydown", heard);
}

function focusSearch(event) {
  const search = document.querySelector("main input[type=search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
}

function help(places) {
  const rows = [
    ...places.filter((route) => route.key).map((route) => [`g ${route.key}`, t(`nav.${route.nav}`)]),
    ["/", t("keys_help.search")], ["?", t("keys_help.help")], ["Esc", t("keys_help.close")],
  ];
  dialog({ title: t("keys_help.title") }, () => h("dl", { class: "facts" }, rows.map(([key, what]) => h("div", h("dt", h("kbd", key)), h("dd", what)))));
}
