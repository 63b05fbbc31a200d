// One job: where it is, what happened, what it measured, what it said, and what to do about it.

import { events, get, getTagged, patch, send } from "../lib/api.js";
import { badge, button, card, code, copyButton, details, dialog, emptyState, errorState, facts, field, input, load, notice, page, skeleton, stat, stats, table, tabs, time, toast } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { baseName, bytes, compact, duration, integer, number } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { act, canWrite, every, jobHref, jobName, jobPath, jobProgress, jobStatus, jobTook, JOBS, OVER, resultHref, STAGES, whoAmI } from "../lib/jobs.js";
import { setQuery } from "../lib/router.js";
import { eventList, stageStrip, Timeline } from "./job_timeline.js";
import { logPanel } from "./job_log.js";
import { curve } from "./version_training.js";

export const title = (params) => params.id;

export async function view({ params, query, signal, onQuery }) {
  const id = params.id;
  const [{ data: job, etag }, session] = await Promise.all([getTagged(jobPath(id), { signal }), whoAmI(signal)]);
  const live = { job, etag, session, timeline: new Timeline() };
  const head = h("div", { class: "stack" });
  const sheet = h("article", { class: "page" });
  const refresh = async () => {
    const found = await getTagged(jobPath(id), { signal });
    live.job = found.data;
    live.etag = found.etag;
    show();
  };
  const list = eventList(live.timeline);
  const panels = panelsOf(live, list, signal);

  function show() {
    const titled = page(
      {
        title: h("span", { class: "job-title" }, jobName(live.job), jobStatus(live.job)),
        breadcrumbs: [[t("jobs.title"), "/ui/jobs"], [id]],
        actions: actions(live, refresh),
      },
    );
    replace(head, titled.firstElementChild, ...summary(live));
  }

  show();
  replace(sheet, head, panels.node);
  panels.node.choose(query.get("tab") ?? "timeline");
  onQuery((now) => panels.node.choose(now.get("tab") ?? "timeline"));
  follow(live, { refresh, onevent: () => { list.update(); show(); }, onprogress: show, signal });
  every(15, () => { if (!OVER.has(live.job.status)) refresh().catch(() => {}); }, signal);
  return sheet;
}

/** The stream of events from the first one; begun again after the last one heard when it breaks. */
async function follow(live, { refresh, onevent, onprogress, signal }) {
  let last = 0;
  let pause = 1000;
  while (!signal.aborted) {
    try {
      const headers = last ? { "Last-Event-ID": String(last) } : {};
      for await (const told of events(jobPath(live.job.id, "/events"), { headers, signal })) {
        pause = 1000;
        if (told.event === "done") {
          await refresh();
          return;
        }
        const data = JSON.parse(told.data);
        if (told.event === "progress") {
          live.job.progress = { stage: data.stage, done: data.done, total: data.total, fraction: data.total ? data.done / data.total : null, eta_s: data.eta_s };
          live.job.stage = data.stage;
          live.measured = data.metrics;
          onprogress();
        } else {
          last = data.seq;
          live.timeline.add(data);
          onevent();
          if (/^job\./.test(data.data?.event ?? "")) refresh().catch(() => {});
        }
      }
    } catch (error) {
      if (error.name === "AbortError" || error.status === 404) return;
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 15000);
  }
}

function actions({ job, etag, session }, refresh) {
  const isOpen = !OVER.has(job.status);
  if (!canWrite(session)) return [];
  const doing = (deed, label, options) => button(t(label), { ...options, onclick: async () => { if (await act(job, deed)) await refresh(); } });
  const wantsPause = job.status === "paused" || job.desired_state === "pause";
  const mayCancel = isOpen && job.desired_state !== "cancel";
  return [
    mayCancel && (wantsPause ? doing("resume", "job.resume", { icon: "play" }) : doing("pause", "job.pause", { icon: "pause" })),
    mayCancel && doing("cancel", "job.cancel", { icon: "stop" }),
    isOpen && button(t("job.edit"), { icon: "edit", onclick: async () => { if (await edit(job, etag)) await refresh(); } }),
    button(t("job.clone"), { icon: "copy", href: `/ui/jobs/new?from=${encodeURIComponent(job.id)}` }),
  ];
}

/** Priority and notes; refused if somebody else changed them meanwhile. */
function edit(job, etag) {
  return dialog({ title: t("job.edit_title") }, (close) => {
    const priority = input({ type: "number", min: -100, max: 100, value: String(job.priority), required: true });
    const notes = input({ value: Object.entries(job.metadata).map(([key, value]) => `${key}=${value}`).join(", "), placeholder: "team=blue, run=7" });
    const asked = [field({ label: t("job.priority"), hint: t("job.priority_hint") }, priority), field({ label: t("job.notes"), hint: t("job.notes_hint"), optional: true }, notes)];
    return h("form", {
      class: "form",
      onsubmit: async (event) => {
        event.preventDefault();
        try {
          close(await patch(jobPath(job.id), { priority: Number(priority.value), metadata: parsedNotes(notes.value) }, { headers: { "If-Match": etag } }));
          toast(t("job.edited"), { tone: "good" });
        } catch (error) {
          const isNotes = error.places?.some((place) => place.pointer.startsWith("/metadata"));
          asked[isNotes ? 1 : 0].fail(error.message);
        }
      },
    }, asked, h("div", { class: "dialog-actions" }, button(t("ui.cancel"), { onclick: () => { close(); } }), button(t("ui.save"), { kind: "primary", type: "submit" })));
  });
}

function parsedNotes(text) {
  const pairs = text.split(",").map((pair) => pair.trim()).filter(Boolean).map((pair) => pair.split(/=(.*)/s));
  return Object.fromEntries(pairs.map(([key, value]) => [key.trim(), (value ?? "").trim()]));
}

function summary({ job, timeline, measured }) {
  const loss = measured?.loss ?? timeline.lastLoss;
  return [
    outcome(job),
    job.status === "queued" && queue(job),
    h("div", { class: "stack" }, stageStrip(job, timeline), job.status === "running" && jobProgress(job)),
    stats(
      stat(t("job.took"), duration(jobTook(job)), job.estimated_finish > Date.now() / 1000 && !OVER.has(job.status) ? [t("job.stage_ends"), " ", time(job.estimated_finish)] : null),
      stat(t("job.attempts"), integer(job.attempts), job.attempts > 1 ? t("job.attempts_hint") : null),
      stat(t("job.loss"), loss === undefined || loss === null ? "–" : number(loss, 4), measured?.tokens_per_s ? t("job.rate", { rate: integer(measured.tokens_per_s) }) : null),
      stat(t("job.tokens"), compact(job.trained_tokens)),
    ),
  ];
}

function outcome(job) {
  if (job.fine_tuned_model) return notice("good", t("job.made"), " ", h("a", { href: resultHref(job.fine_tuned_model) }, job.fine_tuned_model));
  if (job.eval_id && job.status === "succeeded") return notice("good", t("job.evaluated"), " ", h("a", { href: resultHref(job.method.evaluate.version) }, job.method.evaluate.version));
  if (job.error) return notice("bad", h("strong", job.error.code), h("p", job.error.message), evidence(job));
  if (job.status_reason) return notice("warn", h("strong", t("job.last_ended", { code: job.status_reason.code })), h("p", job.status_reason.message), evidence(job));
  return null;
}

function evidence(job) {
  const seen = job.status_reason?.evidence ?? {};
  const { log_end: end, ...rest } = seen;
  const rows = Object.entries(rest).map(([key, value]) => [key.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : String(value)]);
  if (rows.length === 0 && !end) return null;
  return details(t("job.evidence"), facts(rows), end && code(Array.isArray(end) ? end.join("\n") : String(end), { label: t("job.log_end") }));
}

function queue(job) {
  if (!job.queue) return notice("info", t("job.waits"));
  const { position, ahead, obstacle } = job.queue;
  return notice(obstacle ? "warn" : "info",
    h("strong", position === 1 ? t("job.next") : t("job.position", { n: position }), job.pool !== "default" && [" · ", h("span", { class: "mono" }, job.pool)]),
    obstacle && h("p", obstacle),
    h("p", t("job.queue_how")),
    ahead.length > 0 && h("p", t("job.ahead"), " ", ahead.map((id, at) => [at > 0 && ", ", h("a", { href: jobHref(id), class: "mono" }, id)])));
}

function panelsOf(live, list, signal) {
  const { job } = live;
  const path = (rest) => jobPath(job.id, rest);
  const node = tabs([
    { id: "timeline", label: t("job.timeline"), render: () => card({ flush: true }, list) },
    { id: "curves", label: t("job.curves"), render: () => curves(live, path, signal) },
    { id: "log", label: t("job.log"), render: () => logPanel(live, signal) },
    { id: "attempts", label: t("job.attempts_tab"), render: () => attempts(path, signal) },
    { id: "checkpoints", label: t("job.checkpoints"), render: () => checkpoints(path, signal) },
    { id: "memory", label: t("job.memory"), render: () => memory(job, path, signal) },
    { id: "request", label: t("job.request"), render: () => request(job) },
  ], { label: t("job.sections"), onchoose: (tab) => { setQuery({ tab: tab === "timeline" ? null : tab }); } });
  return { node };
}

const CURVES = ["loss", "held_out_loss", "flip_rate", "tokens_per_s", "lr", "divergence", "block_error"];

function curves(live, path, signal) {
  const found = load(
    () => get(path("/metrics"), { params: { max_points: 800 }, signal }),
    ({ series }) => {
      if (series.length === 0) return emptyState({ icon: "chart", title: t("job.no_curves"), body: t("job.no_curves_body") });
      const groups = new Map();
      for (const one of series) groups.set(`${one.stage} ${one.name}`, [...(groups.get(`${one.stage} ${one.name}`) ?? []), one]);
      const order = ([key]) => (CURVES.indexOf(key.split(" ")[1]) + CURVES.length + 1) % (CURVES.length + 1);
      return [...groups].sort((a, b) => order(a) - order(b)).map(([key, pieces]) => {
        const [stage, name] = key.split(" ");
        const label = term("metric", name);
        return curve({ title: `${label} · ${term("stage", stage)}`, series: [[label, pieces.sort((a, b) => a.attempt - b.attempt), name === "loss"]], format: name === "flip_rate" ? ".2%" : undefined, height: 220 });
      });
    },
    { placeholder: () => skeleton("block", 1), signal },
  );
  every(10, () => { if (live.job.status === "running" && found.isConnected && !found.contains(document.activeElement)) found.refresh({ quietly: true }); }, signal);
  return card({}, found);
}

function attempts(path, signal) {
  return card({ flush: true }, load(() => get(path("/attempts"), { params: { limit: 100 }, signal }), ({ data }) => table({
    caption: t("job.attempts_tab"),
    rows: data,
    empty: emptyState({ icon: "workers", title: t("job.no_attempts"), body: t("job.no_attempts_body") }),
    stack: true,
    columns: [
      { key: "number", label: t("job.attempt"), header: true },
      { key: "worker", label: t("job.worker") },
      { key: "outcome", label: t("job.outcome"), render: (row) => badge(term("outcome", row.outcome ?? "running"), { tone: row.outcome === "succeeded" ? "good" : row.outcome === null ? "accent" : ["paused", "cancelled", "yield"].includes(row.outcome) ? "neutral" : "bad", title: row.reason_message }) },
      { key: "reason", label: t("job.reason"), render: (row) => row.reason_code && h("span", { title: row.reason_message }, row.reason_code, row.exit_code !== null && h("span", { class: "faint" }, ` (${row.exit_code})`)) },
      { key: "steps", label: t("job.steps"), align: "end", render: (row) => (row.end_step === null ? null : `${row.start_step ?? 0}–${row.end_step}`) },
      { key: "memory", label: t("job.peak"), align: "end", render: (row) => bytes(row.peak_memory_bytes) },
      { key: "gpu", label: t("job.device_time"), align: "end", render: (row) => duration(row.gpu_seconds) },
      { key: "started", label: t("job.started"), align: "end", render: (row) => time(row.started_at) },
    ],
  }), { placeholder: () => skeleton("table", 3), signal }));
}

function checkpoints(path, signal) {
  return card({ flush: true }, load(() => get(path("/checkpoints"), { params: { limit: 100 }, signal }), ({ data }) => table({
    caption: t("job.checkpoints"),
    rows: data,
    empty: emptyState({ icon: "files", title: t("job.no_checkpoints"), body: t("job.no_checkpoints_body") }),
    stack: true,
    columns: [
      { key: "stage", label: t("job.stage"), header: true, render: (row) => term("stage", row.stage) },
      { key: "step", label: t("job.step"), align: "end", render: (row) => (row.step_number === 0 ? t("job.whole") : integer(row.step_number)) },
      { key: "loss", label: t("job.loss"), align: "end", render: (row) => number(row.metrics.train_loss, 4) },
      { key: "attempt", label: t("job.attempt"), align: "end" },
      { key: "bytes", label: t("job.size"), align: "end", render: (row) => bytes(row.bytes) },
      { key: "created", label: t("job.kept"), align: "end", render: (row) => time(row.created_at) },
    ],
  }), { placeholder: () => skeleton("table", 3), signal }));
}

/** What the estimate said beside what each stage took. */
function memory(job, path, signal) {
  const body = { model: job.model, training_file: job.training_file, validation_file: job.validation_file, method: job.method, seed: job.seed };
  const asked = send("POST", JOBS, { params: { dry_run: true }, body, signal }).then((answer) => answer.json()).catch((error) => ({ estimate: null, problem: error }));
  return card({ title: t("job.memory_title"), description: t("job.memory_how"), flush: true }, load(
    async () => [await asked, await get(path("/events"), { params: { limit: 100, order: "asc" }, signal })],
    ([dry, told]) => {
      const peaks = new Map();
      for (const event of told.data) if (event.data.event === "stage.finished" && event.data.peak_memory_bytes) peaks.set(event.data.stage, event.data.peak_memory_bytes);
      const estimated = new Map((dry.estimate?.stages ?? []).map((stage) => [stage.stage, stage]));
      const stages = STAGES.filter((stage) => estimated.has(stage) || peaks.has(stage));
      if (stages.length === 0) return dry.problem ? errorState(dry.problem) : emptyState({ icon: "chart", title: t("job.no_estimate"), body: dry.warnings?.[0] });
      return table({
        caption: t("job.memory_title"),
        rows: stages,
        columns: [
          { key: "stage", label: t("job.stage"), header: true, render: (stage) => term("stage", stage) },
          { key: "estimated", label: t("job.estimated"), align: "end", render: (stage) => h("span", { title: partsOf(estimated.get(stage)) }, bytes(estimated.get(stage)?.bytes)) },
          { key: "measured", label: t("job.measured"), align: "end", render: (stage) => bytes(peaks.get(stage)) },
        ],
      });
    },
    { placeholder: () => skeleton("table", 4), signal },
  ));
}

function partsOf(stage) {
  return (stage?.parts ?? []).map((part) => `${part.name.replaceAll("_", " ")}: ${bytes(part.bytes)}`).join("\n");
}

function request(job) {
  const asked = { model: job.model, training_file: job.training_file, validation_file: job.validation_file, suffix: job.suffix, seed: job.seed, method: job.method };
  return [
    card({ title: t("job.facts") }, facts([
      [t("job.id"), h("span", { class: "digest" }, h("code", job.id), copyButton(job.id))],
      [t("job.base"), baseName(job.model)],
      [t("job.training_file"), job.training_file && h("a", { href: `/ui/files?file=${job.training_file}`, class: "mono" }, job.training_file)],
      [t("job.validation_file"), job.validation_file ? h("a", { href: `/ui/files?file=${job.validation_file}`, class: "mono" }, job.validation_file) : job.training_file && t("job.held_out")],
      [t("job.priority"), integer(job.priority)],
      [t("job.notes"), Object.entries(job.metadata).map(([key, value]) => badge(`${key}=${value}`))],
      [t("job.created"), time(job.created_at)],
      [t("job.adjustments"), Object.keys(job.adjustments).length > 0 && h("code", JSON.stringify(job.adjustments))],
    ])),
    code(JSON.stringify(asked, null, 2), { label: t("job.request_label") }),
  ];
}
