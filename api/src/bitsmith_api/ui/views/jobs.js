// All jobs of the project, what waits and what runs first to see.

import { get } from "../lib/api.js";
import { button, card, emptyState, load, page, pagedTable, skeleton, time } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { baseName, duration } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { canWrite, every, jobHref, jobName, jobProgress, jobStatus, jobTook, JOBS, OVER, resultHref, whoAmI } from "../lib/jobs.js";
import { setQuery } from "../lib/router.js";

export const title = "jobs.title";

const CHOICES = [
  ["", []],
  ["open", ["queued", "running", "paused"]],
  ["succeeded", ["succeeded"]],
  ["failed", ["failed"]],
  ["cancelled", ["cancelled"]],
];

export async function view({ query, signal, onQuery }) {
  const session = await whoAmI(signal);
  const place = h("div");
  const choices = h("div", { class: "segmented", role: "group", "aria-label": t("jobs.which") });
  const start = canWrite(session) && button(t("jobs.new"), { kind: "primary", icon: "plus", href: "/ui/jobs/new" });

  function show(now) {
    const chosen = CHOICES.find(([name]) => name === (now.get("show") ?? "")) ?? CHOICES[0];
    replace(choices, CHOICES.map(([name]) => button(t(name ? `jobs.show_${name}` : "jobs.show_all"), {
      "aria-pressed": String(name === chosen[0]),
      onclick: () => { setQuery({ show: name || null }); },
    })));
    const params = { status: chosen[1], limit: 50 };
    const listed = load(
      () => get(JOBS, { params, signal }),
      (first) => {
        listed.isMoving = first.data.some((job) => !OVER.has(job.status));
        return first.data.length ? list(first, params, signal) : card({}, nothing(chosen[0], start));
      },
      { placeholder: () => skeleton("table", 6), signal },
    );
    place.listed = listed;
    replace(place, listed);
  }

  onQuery(show);
  show(query);
  every(5, () => {
    // A table that people opened further would fall back to its first page.
    if (place.listed.isMoving && !place.querySelector(":focus-within") && place.querySelectorAll("tbody tr").length <= 50) place.listed.refresh({ quietly: true });
  }, signal);
  return page({ title: t("jobs.title"), description: t("jobs.description"), actions: [start], wide: true }, choices, place);
}

function list(first, params, signal) {
  return card({ flush: true }, pagedTable({
    caption: t("jobs.title"),
    stack: true,
    first,
    more: (after) => get(JOBS, { params: { ...params, after }, signal }),
    columns: [
      { key: "job", label: t("jobs.job"), header: true, render: nameCell },
      { key: "status", label: t("jobs.status"), render: (job) => jobStatus(job) },
      { key: "progress", label: t("jobs.progress"), class: "cell-progress cell-wide", render: outcome },
      { key: "took", label: t("jobs.took"), align: "end", render: (job) => duration(jobTook(job)) },
      { key: "created", label: t("jobs.created"), align: "end", class: "cell-age", render: (job) => time(job.created_at) },
    ],
  }));
}

function nameCell(job) {
  const made = [baseName(job.model), term("method", job.method.type)];
  return h("div", { class: "name-cell" },
    h("a", { href: jobHref(job.id), class: "strong truncate" }, jobName(job)),
    h("span", { class: "faint small truncate" }, made.join(" · "), Object.entries(job.metadata).map(([key, value]) => h("span", { class: "tag" }, `${key}=${value}`))));
}

function outcome(job) {
  if (job.fine_tuned_model) return h("a", { href: resultHref(job.fine_tuned_model) }, job.fine_tuned_model);
  if (job.status === "failed") return h("span", { class: "bad truncate", title: job.error?.message }, job.error?.message ?? job.error?.code);
  if (job.status === "queued" && job.status_reason) return h("span", { class: "warn truncate", title: job.status_reason.message }, t("jobs.again", { reason: job.status_reason.code }));
  return jobProgress(job) ?? h("span", { class: "faint" }, "–");
}

function nothing(chosen, start) {
  if (chosen) return emptyState({ icon: "jobs", title: t("jobs.none_such"), actions: [button(t("jobs.show_all"), { onclick: () => { setQuery({ show: null }); } })] });
  return emptyState({ icon: "jobs", title: t("jobs.none"), body: t("jobs.none_body"), actions: [start] });
}
