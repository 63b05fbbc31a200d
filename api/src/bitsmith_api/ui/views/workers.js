// Who does the work, and with what.

import { get, post } from "../lib/api.js";
import { badge, button, card, emptyState, load, page, skeleton, stat, stats, status, table, time, toast } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { bytes, integer } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { every, jobHref, whoAmI } from "../lib/jobs.js";

export const title = "workers.title";

export async function view({ signal }) {
  const session = await whoAmI(signal);
  const mayDrain = session.scopes.includes("workers:write");
  const place = load(() => get("/v1/workers", { params: { limit: 100 }, signal }), ({ data }) => content(data, mayDrain, () => place.refresh({ quietly: true })), { placeholder: () => skeleton("table", 4), signal });
  every(5, () => { if (!place.querySelector(":focus-within")) place.refresh({ quietly: true }); }, signal);
  return page({ title: t("workers.title"), description: t("workers.description") }, place);
}

function content(workers, mayDrain, refresh) {
  if (workers.length === 0) return card({}, emptyState({ icon: "workers", title: t("workers.none"), body: t("workers.none_body") }));
  const of = (state) => workers.filter((worker) => worker.status === state);
  const here = workers.filter((worker) => worker.status !== "lost");
  return h("div", { class: "stack" },
    stats(
      stat(t("workers.busy"), integer(of("busy").length), t("workers.of", { n: here.length })),
      stat(t("workers.idle"), integer(of("idle").filter((worker) => !worker.is_draining).length)),
      stat(t("workers.devices"), integer(here.reduce((sum, worker) => sum + worker.devices, 0))),
      stat(t("workers.lost"), integer(of("lost").length))),
    card({ flush: true }, table({
      caption: t("workers.title"),
      rows: workers,
      stack: true,
      columns: [
        { key: "name", label: t("workers.name"), header: true, render: (worker) => h("span", { class: "mono" }, worker.id) },
        { key: "status", label: t("jobs.status"), render: (worker) => h("span", { class: "row" }, status(worker.status, { tone: { idle: "good", busy: "accent", lost: "bad" }[worker.status], label: t(`workers.${worker.status}`) }), worker.is_draining && badge(t("workers.draining"), { tone: "warn" })) },
        { key: "pool", label: t("workers.pool"), render: (worker) => h("span", { class: "mono" }, worker.pool) },
        { key: "job", label: t("jobs.job"), class: "cell-wide", render: (worker) => (worker.job_id ? h("a", { href: jobHref(worker.job_id), class: "mono" }, worker.job_id) : worker.status === "busy" ? h("span", { class: "faint" }, t("workers.other_project")) : null) },
        { key: "device", label: t("workers.device"), render: (worker) => (worker.devices > 1 ? `${worker.devices} × ${worker.device}` : worker.device) },
        { key: "memory", label: t("workers.memory"), align: "end", render: (worker) => bytes(worker.memory_bytes) },
        { key: "seen", label: t("workers.seen"), align: "end", class: "cell-age", render: (worker) => time(worker.last_seen_at) },
        ...(mayDrain ? [{ key: "drain", label: "", align: "end", render: (worker) => (worker.status === "lost" && !worker.is_draining ? "" : drain(worker, refresh)) }] : []),
      ],
    })));
}

function drain(worker, refresh) {
  const deed = worker.is_draining ? "undrain" : "drain";
  return button(t(`workers.${deed}`), { title: t(`workers.${deed}_hint`), onclick: async () => {
    try {
      await post(`/v1/workers/${encodeURIComponent(worker.id)}/${deed}`);
      await refresh();
    } catch (error) {
      toast(error.message, { tone: "bad" });
    }
  } });
}
