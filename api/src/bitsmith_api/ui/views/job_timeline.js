// What happened to a job, in order, and how far its stages are.

import { emptyState, icon } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { duration, moment } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { OVER, STAGES } from "../lib/jobs.js";

/** The job's events as they come; `metrics` events only keep the last loss. */
export class Timeline {
  constructor() {
    this.told = [];
    this.took = new Map(); // stage -> seconds, of its newest attempt
    this.begun = new Set();
    this.lastLoss = null;
  }

  add(event) {
    if (event.type === "metrics") {
      this.lastLoss = event.data.metrics?.loss ?? event.data.train_loss ?? this.lastLoss;
      return;
    }
    this.told.push(event);
    const { event: name, stage, wall_s: seconds } = event.data;
    if (name === "job.started") {
      this.begun.clear();
      this.took.clear();
    }
    if (name === "stage.started") this.begun.add(stage);
    if (name === "stage.finished") this.took.set(stage, seconds);
  }
}

/** Which of the stages this job goes through. */
function stagesOf(job, timeline) {
  const isTrained = ["qsft", "lora", "qlora"].includes(job.method.type);
  const isQuantized = ["qsft", "quantize"].includes(job.method.type);
  return STAGES.filter((stage) => timeline.begun.has(stage)
    || (stage === "training" ? isTrained : ["measuring", "searching"].includes(stage) ? isQuantized && job.method[job.method.type].quantization.scheme !== "uniform"
      : ["quantizing", "calibrating"].includes(stage) ? isQuantized : stage === "exporting" ? job.method.type !== "evaluate" : true));
}

/** The stages as steps: done, now, to come. */
export function stageStrip(job, timeline) {
  const isOver = OVER.has(job.status);
  const now = STAGES.indexOf(job.stage);
  const steps = stagesOf(job, timeline).map((stage) => {
    const seconds = timeline.took.get(stage);
    const isNow = !isOver && job.status === "running" && job.stage === stage && seconds === undefined;
    const isBroken = job.status === "failed" && job.stage === stage && seconds === undefined;
    const isPassed = seconds !== undefined || job.status === "succeeded" || STAGES.indexOf(stage) < now;
    const state = isPassed ? "done" : isNow ? "now" : isBroken ? "broken" : "later";
    return h("li", { class: `step step-${state}`, "aria-current": isNow ? "step" : null },
      h("span", { class: "step-mark", "aria-hidden": "true" }, state === "done" && icon("check", { size: 12 }), state === "broken" && icon("close", { size: 12 })),
      h("span", { class: "step-name" }, term("stage", stage)),
      h("span", { class: "step-time" }, state === "done" ? seconds !== undefined && duration(seconds) : state === "later" ? "" : t(`job.step_${state}`)));
  });
  return h("ol", { class: "steps", tabindex: "0", "aria-label": t("job.stages") }, steps);
}

/** The list of events, newest first; `.update()` after the timeline has grown. */
export function eventList(timeline) {
  const list = h("ol", { class: "events", tabindex: "0", "aria-label": t("job.timeline") });
  const place = h("div", emptyState({ icon: "clock", title: t("job.no_events") }));
  let shown = 0;
  place.update = () => {
    if (shown === 0 && timeline.told.length > 0) replace(place, list);
    for (; shown < timeline.told.length; shown += 1) list.prepend(line(timeline.told[shown]));
  };
  return place;
}

function line(event) {
  const name = event.data.event ?? "";
  const tone = event.level === "error" ? "bad" : event.level === "warn" || event.level === "warning" ? "warn" : name === "job.succeeded" ? "good" : name.startsWith("job.") ? "accent" : "plain";
  return h("li", { class: `event event-${tone}` },
    h("time", { datetime: new Date(event.created_at * 1000).toISOString() }, moment(event.created_at)),
    h("span", { class: "event-mark", "aria-hidden": "true" }),
    h("span", { class: "event-text" }, event.message));
}
