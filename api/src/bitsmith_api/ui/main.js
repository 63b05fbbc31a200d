// The frame around every view: the routes, the sidebar, who is signed in, and the keys of the keyboard.

import { actIn, get, onSignedOut } from "./lib/api.js";
import { h, replace } from "./lib/dom.js";
import { loadLanguage, t } from "./lib/i18n.js";
import { errorState } from "./lib/components.js";
import { remember } from "./lib/session.js";
import { marked, shell } from "./lib/shell.js";
import { start } from "./lib/router.js";

// First match wins. `nav` puts a view into the sidebar, `key` is what follows "g" on the keyboard.
const ROUTES = [
  { path: "/ui/models", load: () => import("./views/models.js"), nav: "models", key: "m", scope: "models:read" },
  { path: "/ui/models/:name", load: () => import("./views/model.js") },
  { path: "/ui/models/:name/versions/:version", load: () => import("./views/version.js") },
  { path: "/ui/compare", load: () => import("./views/compare.js"), nav: "compare", key: "c", scope: "models:read" },
  { path: "/ui/jobs", load: () => import("./views/jobs.js"), nav: "jobs", key: "j", scope: "jobs:read" },
  { path: "/ui/jobs/new", load: () => import("./views/job_new.js"), scope: "jobs:write" },
  { path: "/ui/jobs/:id", load: () => import("./views/job.js") },
  { path: "/ui/files", load: () => import("./views/files.js"), nav: "files", key: "f", scope: "files:read" },
  { path: "/ui/workers", load: () => import("./views/workers.js"), nav: "workers", key: "w", scope: "workers:read" },
  { path: "/ui/keys", load: () => import("./views/keys.js"), nav: "keys", key: "k", scope: "keys:read" },
  { path: "/ui/login", load: () => import("./views/login.js") },
];

const app = document.getElementById("app");

async function begin() {
  await loadLanguage();
  let session = null;
  try {
    session = await get("/v1/session", { anonymous: true });
  } catch (error) {
    if (error.status !== 401) {
      replace(app, errorState(error, begin));
      return;
    }
  }
  remember(session);
  const isLogin = location.pathname.startsWith("/ui/login");
  if (!session && !isLogin) history.replaceState(null, "", loginAddress());
  if (session && !session.is_installation) actIn(null);
  if (session && isLogin) history.replaceState(null, "", "/ui/");
  if (location.pathname === "/ui/" || location.pathname === "/ui") history.replaceState(null, "", ROUTES.find((route) => route.nav)?.path ?? "/ui/login");
  const outlet = h("main", { id: "main", tabindex: "-1" });
  const frame = session ? shell({ session, routes: ROUTES, outlet, restart: begin }) : h("div", { class: "bare" }, outlet);
  replace(app, frame);
  start(ROUTES, outlet, (path) => marked(frame, path));
}

function loginAddress() {
  const next = location.pathname + location.search;
  return next === "/ui/" || next === "/ui" ? "/ui/login" : `/ui/login?next=${encodeURIComponent(next)}`;
}

onSignedOut(() => {
  if (!location.pathname.startsWith("/ui/login")) location.assign(loginAddress());
});

begin();
