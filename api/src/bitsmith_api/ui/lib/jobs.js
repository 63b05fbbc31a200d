// What several views say about jobs.

import { get, post } from "./api.js";
import { badge, confirm, progress, status, toast } from "./components.js";
import { h } from "./dom.js";
import { baseName, duration, percent } from "./format.js";
import { t, term } from "./i18n.js";
import { versionHref } from "./registry.js";

export const JOBS = "/v1/fine_tuning/jobs";
export const OVER = new Set(["succeeded", "failed", "cancelled"]);
export const STAGES = [
  "fetching", "measuring", "searching", "quantizing", "calibrating", "training", "evaluating", "exporting", "publishing",
];

export function jobHref(id) {
  return `/ui/jobs/${encodeURIComponent(id)}`;
}

export function jobPath(id, rest = "") {
  return `${JOBS}/${encodeURIComponent(id)}${rest}`;
}

/** The page of name@3. */
export function resultHref(id) {
  const [name, number] = id.split("@");
  return versionHref(name, number);
}

/** What people call it: the suffix, else the base and the method. */
export function jobName(job) {
  return job.suffix ?? `${baseName(job.model).split("/").at(-1)} · ${term("method", job.method.type)}`;
}

/** Its state, and the wish that it does not know of yet. */
export function jobStatus(job) {
  const wish = !OVER.has(job.status) && job.desired_state !== "run" && job.status !== "paused";
  return h("span", { class: "row" }, status(job.status), wish && badge(t(`jobs.wish_${job.desired_state}`), { tone: "warn" }));
}

/** "Training, 40 %, 3 min left", as a bar; null where there is nothing to say. */
export function jobProgress(job) {
  if (job.status === "queued") return job.queue ? h("span", { class: "muted" }, t("jobs.place", { n: job.queue.position })) : null;
  if (job.status !== "running" || !job.stage) return null;
  const { fraction, eta_s: left } = job.progress ?? {};
  const isSame = job.progress?.stage === job.stage;
  const words = [term("stage", job.stage), isSame && fraction !== null && fraction !== undefined && percent(fraction), isSame && left && t("jobs.left", { time: duration(left) })];
  return progress(isSame ? fraction : 0, words.filter(Boolean).join(" · "));
}

/** How long it has worked, or did. */
export function jobTook(job) {
  if (!job.started_at) return null;
  return (job.finished_at ?? Date.now() / 1000) - job.started_at;
}

export function canWrite(session) {
  return session.scopes.includes("jobs:write");
}

/** Who is signed in; asked once a page. */
export function whoAmI(signal) {
  return get("/v1/session", { signal });
}

/** Pause, resume or cancel; asks first where something is lost. Answers the job as it is then, null if people said no. */
export async function act(job, deed) {
  if (deed === "cancel") {
    const isSure = await confirm({ title: t("job.cancel_title"), body: t("job.cancel_body"), action: t("job.cancel"), danger: true });
    if (!isSure) return null;
  }
  try {
    const changed = await post(jobPath(job.id, `/${deed}`));
    toast(t(`job.${deed}_done`), { tone: "good" });
    return changed;
  } catch (error) {
    toast(error.message, { tone: "bad" });
    return null;
  }
}

/** Call `task` every `seconds` until `signal` says that people left; a hidden page waits. */
export function every(seconds, task, signal) {
  const timer = setInterval(() => !document.hidden && task(), seconds * 1000);
  signal.addEventListener("abort", () => clearInterval(timer), { once: true });
}
