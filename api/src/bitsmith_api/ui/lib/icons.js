// A few line icons on a 16 grid; `icon("check")`. Decoration only: words say what a button does.

import { s } from "./dom.js";

const PATHS = {
  models: "M2.5 5 8 2l5.5 3v6L8 14l-5.5-3zM2.5 5 8 8m0 0 5.5-3M8 8v6",
  compare: "M5 2.5v11M11 2.5v11M2 5.5h6M8 10.5h6",
  jobs: "M2.5 12.5 6 7l3 3 4.5-6.5M10 3.5h3.5V7",
  files: "M4 1.5h5l3.5 3.5v9.5H4zM9 1.5V5h3.5",
  workers: "M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.01M5 11h.01",
  keys: "M9.5 6.5a3 3 0 1 1-3-3 3 3 0 0 1 3 3zM8.6 8.6 13.5 13.5M11.5 11.5l1.5-1.5",
  webhooks: "M5 5a3 3 0 1 1 4.5 2.6M8 5l-3 6M5 11H2.8M11 11H5m6 0a2 2 0 1 0 .1 0",
  settings: "M2.5 4.5h7m3 0h1M2.5 11.5h1m3 0h7M11 3v3M5 10v3",
  search: "M11 7a4 4 0 1 1-8 0 4 4 0 0 1 8 0zM10 10l3.5 3.5",
  plus: "M8 3v10M3 8h10",
  check: "M3 8.5 6.5 12 13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  download: "M8 2.5v8M4.5 7.5 8 11l3.5-3.5M2.5 13.5h11",
  upload: "M8 11V3M4.5 6 8 2.5 11.5 6M2.5 13.5h11",
  arrow: "M3 8h10M9 4l4 4-4 4",
  chevron: "M6 4l4 4-4 4",
  down: "M4 6l4 4 4-4",
  external: "M9.5 2.5h4v4M13.5 2.5 8 8M6.5 3.5h-4v10h10v-4",
  menu: "M2.5 4.5h11M2.5 8h11M2.5 11.5h11",
  more: "M4 8h.01M8 8h.01M12 8h.01",
  edit: "M3 13l.6-2.9L11 2.7l2.3 2.3-7.4 7.4z",
  trash: "M3 4.5h10M6.5 4.5v-2h3v2M4.5 4.5l.6 9h5.8l.6-9",
  pause: "M5.5 3.5v9M10.5 3.5v9",
  play: "M5 3l7 5-7 5z",
  stop: "M4 4h8v8H4z",
  clock: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM8 4.5V8l2.5 1.5",
  warning: "M8 2.5 14.5 13.5h-13zM8 6.5v3.5M8 12h.01",
  info: "M14 8A6 6 0 1 1 2 8a6 6 0 0 1 12 0zM8 7.5V11M8 5h.01",
  sun: "M10.5 8a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0zM8 1.5v1.5M8 13v1.5M1.5 8H3M13 8h1.5M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5z",
  system: "M2 3h12v8H2zM6 13.5h4M8 11v2.5",
  language: "M2 4h7M5.5 2.5V4M3 10c3-1 4.5-3.500 5-6M3.500 6c.5 2 2 3.500 4 4M8 13.500 10.750 7l2.750 6.500M9 11.500h3.500",
  logout: "M6.5 2.5h-4v11h4M6.5 8h7M10.500 5l3 3-3 3",
  tag: "M2.500 2.500h5l6 6-5 5-6-6zM5 5h.01",
  table: "M2.500 3h11v10h-11zM2.500 6.500h11M6.500 6.500V13",
  chart: "M2.500 2.500v11h11M5 10l3-3 2 2 3-4",
  chat: "M2.500 3h11v7.500H7L4 13v-2.500H2.500z",
  refresh: "M13 3v3.500H9.500M13 6.500A5.500 5.500 0 1 0 13.300 9.500",
  alias: "M4 2v12M4 3h8l-2 3 2 3H4",
  branch: "M4.500 2.500v11M4.500 10c0-3 7-1.500 7-5.500M11.500 4.500v-2",
  inbox: "M2.500 9 4.500 3h7l2 6v4.500h-11zM2.500 9H6l.5 1.500h3L10 9h3.500",
};

/** Names that there are, for the test. */
export const ICONS = Object.keys(PATHS);

export function icon(name, { size = 16 } = {}) {
  return s(
    "svg",
    { class: "icon", width: size, height: size, viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" },
    s("path", { d: PATHS[name] ?? PATHS.info }),
  );
}
