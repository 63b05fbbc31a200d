// A new job: base, data, budget, training; beside it what the API says it would become and need, before anything is written.

import { all, ApiError, get, send } from "../lib/api.js";
import { badge, button, card, code, details, facts, field, input, notice, page, progress, select, skeleton, table, toast } from "../lib/components.js";
import { debounced, h, replace, uid } from "../lib/dom.js";
import { bytes, compact, duration, integer } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { jobHref, jobPath, JOBS } from "../lib/jobs.js";
import { navigate } from "../lib/router.js";
import { upload } from "../lib/upload.js";

export const title = "new.title";

const METHODS = ["qsft", "quantize", "lora", "qlora"];
const SCHEMES = ["layer-mix", "channel-mix", "uniform"];

export async function view({ query, signal }) {
  const from = query.get("from");
  const [files, { bases, pools }, cloned] = await Promise.all([
    all("/v1/files", { params: { purpose: "fine-tune" }, most: 500, signal }),
    known(signal),
    from ? get(jobPath(from), { signal }) : null,
  ]);
  const form = new JobForm({ files, bases, pools, cloned });
  const review = new Review(form, signal);
  form.node.addEventListener("input", () => review.later());
  form.node.addEventListener("change", () => review.later());
  review.now();
  return page(
    { title: t("new.title"), description: cloned ? t("new.cloned", { id: from }) : t("new.description"), breadcrumbs: [[t("jobs.title"), "/ui/jobs"], [t("new.title")]], wide: true },
    h("div", { class: "new-job" }, form.node, review.node),
  );
}

/** What people may mean: bases of models that are there, folders of workers, and their pools. */
async function known(signal) {
  const [facets, workers] = await Promise.all([
    get("/v1/models/facets", { signal }).catch(() => null),
    get("/v1/workers", { params: { limit: 100 }, signal }).catch(() => ({ data: [] })),
  ]);
  const local = workers.data.flatMap((worker) => worker.local_models.map((name) => `local:${name}`));
  const bases = (facets?.base_model ?? []).map((row) => row.value);
  return { bases: [...new Set([...local, ...bases])], pools: [...new Set(workers.data.map((worker) => worker.pool))].sort() };
}

class JobForm {
  constructor({ files, bases, pools, cloned }) {
    this.key = crypto.randomUUID();
    this.settings = cloned?.method[cloned.method.type] ?? {};
    this.rest = cloned?.method ?? null;
    const options = files.map((file) => [file.id, t("new.file", { name: file.filename, n: integer(file.examples) })]);
    const list = uid("bases");
    const poolList = uid("pools");
    const quantization = this.settings.quantization ?? {};
    const training = this.settings.training ?? {};
    this.model = input({ value: cloned?.model ?? bases[0] ?? "", list, required: true, placeholder: "hf:org/name" });
    this.training = select([["", t("new.choose_file")], ...options], { value: cloned?.training_file ?? "", required: true });
    this.validation = select([["", t("new.hold_out")], ...options], { value: cloned?.validation_file ?? "" });
    this.method = select(METHODS.map((name) => [name, t(`new.method_${name}`)]), { value: METHODS.includes(cloned?.method.type) ? cloned.method.type : "qsft" });
    this.scheme = select(SCHEMES.map((name) => [name, t(`new.scheme_${name}`)]), { value: quantization.scheme ?? "layer-mix" });
    this.budget = select([["bpw", t("new.by_bpw")], ["bytes", t("new.by_bytes")]], { value: quantization.budget_bytes ? "bytes" : "bpw" });
    this.bpw = input({ type: "number", min: 2, max: 8, step: 0.1, value: quantization.bpw ?? 3 });
    this.gigabytes = input({ type: "number", min: 0.01, step: 0.01, value: quantization.budget_bytes ? quantization.budget_bytes / 1e9 : 1 });
    this.bits = select([2, 3, 4, 8].map((bits) => [bits, t("new.bits", { n: bits })]), { value: quantization.bits ?? 4 });
    this.epochs = input({ type: "number", min: 1, max: 100, value: training.epochs ?? 1 });
    this.batch = input({ type: "number", min: 1, max: 4096, value: training.batch_size ?? 8 });
    this.length = input({ type: "number", min: 16, max: 131072, value: training.max_length ?? this.settings.max_length ?? 512 });
    this.suffix = input({ value: cloned?.suffix ?? "", placeholder: "support-bot", pattern: "[a-z0-9]([a-z0-9\\-]{0,38}[a-z0-9])?" });
    this.seed = input({ type: "number", min: 0, max: 2147483647, value: cloned?.seed ?? 0 });
    this.priority = input({ type: "number", min: -100, max: 100, value: cloned?.priority ?? 0 });
    this.pool = input({ value: this.settings.resources?.pool ?? "default", list: poolList, required: true, pattern: "[a-z0-9]([a-z0-9\\-]{0,61}[a-z0-9])?" });
    this.fields = {
      "/model": field({ label: t("new.model"), hint: t("new.model_hint") }, this.model),
      "/training_file": field({ label: t("new.training"), hint: t("new.training_hint") }, this.training),
      "/validation_file": field({ label: t("new.validation"), hint: t("new.validation_hint"), optional: true }, this.validation),
      "/suffix": field({ label: t("new.suffix"), hint: t("new.suffix_hint"), optional: true }, this.suffix),
      "/seed": field({ label: t("new.seed") }, this.seed),
      "/priority": field({ label: t("job.priority"), hint: t("job.priority_hint") }, this.priority),
      pool: field({ label: t("workers.pool"), hint: t("new.pool_hint") }, this.pool),
      bpw: field({ label: t("new.bpw"), hint: t("new.bpw_hint") }, this.bpw),
      budget_bytes: field({ label: t("new.gigabytes"), hint: t("new.gigabytes_hint") }, this.gigabytes),
      bits: field({ label: t("new.width") }, this.bits),
      epochs: field({ label: t("new.epochs") }, this.epochs),
      batch_size: field({ label: t("new.batch") }, this.batch),
      max_length: field({ label: t("new.length"), hint: t("new.length_hint") }, this.length),
    };
    const suggested = (id, names) => h("datalist", { id }, names.map((name) => h("option", { value: name })));
    this.quantization = h("div", { class: "form" }, h("div", { class: "grid-2" }, field({ label: t("new.scheme") }, this.scheme), this.budgetField = field({ label: t("new.budget") }, this.budget)), h("div", { class: "grid-2" }, this.fields.bpw, this.fields.budget_bytes, this.fields.bits));
    this.trainingFields = h("div", { class: "grid-3" }, this.fields.epochs, this.fields.batch_size, this.fields.max_length);
    this.node = h("form", { class: "stack", onsubmit: (event) => event.preventDefault() },
      step(1, t("new.step_base"), this.fields["/model"], suggested(list, bases)),
      step(2, t("new.step_data"), h("div", { class: "grid-2" }, this.fields["/training_file"], this.fields["/validation_file"]), this.uploader()),
      step(3, t("new.step_budget"), field({ label: t("new.method") }, this.method), this.quantization),
      step(4, t("new.step_training"), this.trainingFields, details(t("new.more"), h("div", { class: "form" }, this.fields["/suffix"], this.fields.pool, suggested(poolList, pools), h("div", { class: "grid-2" }, this.fields["/seed"], this.fields["/priority"])))),
    );
    this.node.addEventListener("change", () => this.adapt());
    this.adapt();
  }

  /** Show what the chosen method and scheme have. */
  adapt() {
    const method = this.method.value;
    const scheme = this.scheme.value;
    const isBytes = scheme === "layer-mix" && this.budget.value === "bytes";
    this.quantization.hidden = !["qsft", "quantize"].includes(method);
    this.budgetField.hidden = scheme !== "layer-mix";
    this.fields.bpw.hidden = scheme === "uniform" || isBytes;
    this.fields.budget_bytes.hidden = !isBytes;
    this.fields.bits.hidden = scheme !== "uniform";
    this.fields.epochs.hidden = this.fields.batch_size.hidden = method === "quantize";
  }

  uploader() {
    const chosen = h("input", { type: "file", accept: ".jsonl,.json,application/jsonl", class: "sr-only", id: uid("upload") });
    const said = h("div", { role: "status" });
    chosen.addEventListener("change", async (event) => {
      event.stopPropagation();
      const [file] = chosen.files;
      if (!file) return;
      try {
        const made = await upload(file, "fine-tune", (share) => replace(said, progress(share, share < 1 ? file.name : t("files.checking", { name: file.name }))));
        for (const place of [this.training, this.validation]) place.append(h("option", { value: made.id }, t("new.file", { name: made.filename, n: integer(made.examples) })));
        if (!this.training.value) this.training.value = made.id;
        replace(said, notice("good", t("files.uploaded", { name: made.filename, n: integer(made.examples) })));
        this.node.dispatchEvent(new Event("change"));
      } catch (error) {
        replace(said, notice("bad", error.message));
      } finally {
        chosen.value = "";
      }
    });
    return h("div", { class: "stack" }, h("label", { class: "button", for: chosen.id }, t("new.upload")), chosen, said);
  }

  /** The request as it will be sent. */
  request() {
    const asked = { model: this.model.value.trim(), training_file: this.training.value, method: this.methodAsked() };
    if (this.validation.value) asked.validation_file = this.validation.value;
    if (this.suffix.value.trim()) asked.suffix = this.suffix.value.trim();
    if (Number(this.seed.value)) asked.seed = Number(this.seed.value);
    if (Number(this.priority.value)) asked.priority = Number(this.priority.value);
    return asked;
  }

  methodAsked() {
    const type = this.method.value;
    const kept = this.rest?.type === type ? structuredClone(this.settings) : {};
    const settings = { ...kept };
    const pool = this.pool.value.trim() || "default";
    if (pool !== "default" || kept.resources) settings.resources = { ...kept.resources, pool };
    if (type === "qsft" || type === "quantize") settings.quantization = this.quantizationAsked(kept.quantization);
    if (type === "quantize") settings.max_length = Number(this.length.value);
    else settings.training = { ...kept.training, epochs: Number(this.epochs.value), batch_size: Number(this.batch.value), max_length: Number(this.length.value) };
    return { type, [type]: settings };
  }

  quantizationAsked(kept) {
    const scheme = this.scheme.value;
    const base = kept?.scheme === scheme ? { ...kept } : { scheme };
    if (scheme === "uniform") return { ...base, bits: Number(this.bits.value) };
    if (scheme === "channel-mix" || this.budget.value === "bpw") {
      const { budget_bytes: _, ...rest } = base;
      return { ...rest, bpw: Number(this.bpw.value) };
    }
    return { ...base, bpw: null, budget_bytes: Math.round(Number(this.gigabytes.value) * 1e9) };
  }

  /** Show each of the API's complaints at its field; answers those that have none. */
  complain(problems) {
    for (const place of Object.values(this.fields)) place.fail("");
    return problems.filter((problem) => {
      const place = this.fields[problem.pointer] ?? this.fields[problem.pointer.split("/").at(-1)];
      place?.fail(problem.detail);
      return !place;
    });
  }
}

function step(number, name, ...content) {
  return card({ title: [h("span", { class: "step-number", "aria-hidden": "true" }, number), name] }, h("div", { class: "form" }, content));
}

class Review {
  constructor(form, signal) {
    Object.assign(this, { form, signal });
    this.place = h("div", { class: "stack", "aria-live": "polite" }, skeleton());
    this.json = h("div");
    this.submit = button(t("new.submit"), { kind: "primary", onclick: () => this.send(), disabled: true });
    this.node = h("aside", { class: "review", "aria-label": t("new.review") }, card({ title: t("new.review") }, this.place, h("div", { class: "dialog-actions" }, this.submit)), this.json);
    this.later = debounced(() => this.now(), 350);
  }

  async now() {
    const asked = this.form.request();
    replace(this.json, details(t("new.json"), code(JSON.stringify(asked, null, 2), { label: "POST /v1/fine_tuning/jobs" })));
    if (!asked.training_file || !asked.model) {
      this.submit.disabled = true;
      this.form.complain([]);
      replace(this.place, notice("info", t("new.incomplete")));
      return;
    }
    this.round?.abort();
    this.round = new AbortController();
    const { signal } = this.round;
    this.signal.addEventListener("abort", () => this.round.abort(), { once: true });
    try {
      const dry = await (await send("POST", JOBS, { params: { dry_run: true }, body: asked, signal })).json();
      this.show(dry);
    } catch (error) {
      if (error.name === "AbortError") return;
      const left = this.form.complain(error.places ?? []);
      this.submit.disabled = true;
      replace(this.place, notice("bad", error instanceof ApiError && error.places.length > left.length ? t("new.see_fields") : error.message, left.map((problem) => h("p", h("code", problem.pointer), " ", problem.detail))));
    }
  }

  show(dry) {
    const left = this.form.complain(dry.errors);
    this.submit.disabled = dry.errors.length > 0;
    const { estimate } = dry;
    replace(
      this.place,
      dry.errors.length > 0 && notice("bad", t("new.refused"), left.map((problem) => h("p", problem.detail))),
      estimate ? estimated(estimate) : dry.warnings.length === 0 && notice("info", t("new.no_estimate")), // else a warning says it
      dry.warnings.map((warning) => notice("warn", warning)),
    );
  }

  async send() {
    try {
      const job = await (await send("POST", JOBS, { body: this.form.request(), headers: { "Idempotency-Key": this.form.key } })).json();
      toast(t("new.submitted"), { tone: "good" });
      navigate(jobHref(job.id));
    } catch (error) {
      if (error.status === 422 || error.status === 409) this.form.key = crypto.randomUUID();
      const left = this.form.complain(error.places ?? []);
      replace(this.place, notice("bad", error.message, left.map((problem) => h("p", problem.detail))));
    }
  }
}

function estimated(estimate) {
  const verdict = estimate.fits === null ? null : estimate.fits ? badge(t("new.fits"), { tone: "good" }) : badge(t("new.does_not_fit"), { tone: "bad" });
  return [
    facts([
      [t("new.peak"), [h("strong", bytes(estimate.peak_bytes)), " ", verdict]],
      [t("new.worker_has"), estimate.worker_memory_bytes && bytes(estimate.worker_memory_bytes)],
      [t("new.takes"), estimate.training_s > 0 && duration(estimate.training_s)],
      [t("new.steps"), estimate.steps > 0 && t("new.steps_tokens", { steps: integer(estimate.steps), tokens: compact(estimate.tokens) })],
      [t("new.confidence"), term("confidence", estimate.confidence)],
    ]),
    details(t("new.by_stage"), estimate.stages.map((stage) => details(`${term("stage", stage.stage)} · ${bytes(stage.bytes)}`, table({
      caption: term("stage", stage.stage),
      rows: stage.parts,
      columns: [
        { key: "name", label: t("new.part"), render: (part) => part.name.replaceAll("_", " ") },
        { key: "bytes", label: t("new.bytes"), align: "end", render: (part) => bytes(part.bytes) },
      ],
    })))),
  ];
}

