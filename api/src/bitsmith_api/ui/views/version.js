// One version: the verdict, what was measured and how sure that is, its bits, how it was trained, its files, and itself.

import { get } from "../lib/api.js";
import { badge, button, card, digest, facts, load, notice, page, select, stat, stats, tabs, time } from "../lib/components.js";
import { comparisonTable } from "../lib/comparison.js";
import { h, replace } from "../lib/dom.js";
import { baseName, bytes, compact, fixed, percent, short } from "../lib/format.js";
import { t, term } from "../lib/i18n.js";
import { hasView, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { aliasBadges, compareHref, fitMarks, isShare, kept, keptText, modelHref, smallestDevice } from "../lib/registry.js";
import { chatPanel } from "./chat_panel.js";
import { bitsTab } from "./version_bits.js";
import { filesTab } from "./version_files.js";
import { trainingTab } from "./version_training.js";
import { useTab } from "./version_use.js";

export const title = (params) => `${params.name}@${params.version}`;

export async function view({ params, query, signal, onQuery }) {
  const path = `/v1/models/${encodeURIComponent(params.name)}`;
  const [model, version] = await Promise.all([
    get(path, { signal }),
    get(`${path}/versions/${encodeURIComponent(params.version)}`, { signal }),
  ]);
  const sections = [
    { id: "overview", label: t("version.overview"), render: () => overview(model, version, new URLSearchParams(location.search), signal) },
    version.quantization && { id: "bits", label: t("version.bits"), render: () => bitsTab(version) },
    { id: "training", label: t("version.training"), render: () => trainingTab(version, signal) },
    { id: "files", label: t("version.files"), count: version.files.length, render: () => filesTab(version, signal) },
    { id: "use", label: t("version.use"), render: () => useTab(version) },
    may("chat:write") && { id: "chat", label: t("version.chat"), render: () => chatPanel(model, version, new URLSearchParams(location.search), signal) },
  ].filter(Boolean);
  const tabbed = tabs(sections, { chosen: query.get("tab") ?? "overview", onchoose: (tab) => setQuery({ tab: tab === "overview" ? null : tab, with: null }, { replace: false }) });
  let shown = query.get("tab") ?? "overview";
  onQuery((now) => {
    const wanted = now.get("tab") ?? "overview";
    if (wanted !== shown || wanted === "overview") tabbed.choose(wanted);
    shown = wanted;
  });
  return page(
    {
      title: [`${version.model}@${version.version}`, " ", h("span", { class: "title-badges" }, aliasBadges(model.aliases, version.version), version.version === model.latest.version && badge(t("version.newest")))],
      breadcrumbs: [[t("models.title"), "/ui/models"], [version.model, modelHref(version.model)], [`@${version.version}`]],
      description: h("p", { class: "verdict" }, verdict(version, model)),
      actions: actions(model, version),
    },
    figures(version),
    tabbed,
  );
}

/** "2.53 bpw, 3.44 GB, keeps 98 % of its base on 4 tasks, fits 8 GB." */
function verdict(version, model) {
  const parts = [];
  if (version.bpw_effective !== null) parts.push(t("version.says_bpw", { bpw: fixed(version.bpw_effective, 2) }));
  parts.push(bytes(version.weights_bytes));
  const shares = keptShares(version);
  if (shares.length > 0) {
    const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    parts.push(t("version.says_keeps", { share: keptText(mean), count: shares.length, base: baseName(model.base_model) }));
  }
  const device = smallestDevice(version.weights_bytes);
  parts.push(device ? t("version.says_fits", { gb: device }) : t("registry.fits_none"));
  return parts.join(t("ui.comma"));
}

/** Of each task where the float base was asked the same. */
function keptShares(version) {
  const own = subjectOf(version);
  const found = version.scores.filter((score) => score.subject === own && isShare(score)).map((score) => {
    const base = version.scores.find((other) => other.subject === "float" && other.task === score.task && other.metric === score.metric && other.comparable_key === score.comparable_key);
    return kept({ ...score, base });
  });
  return found.filter((share) => share !== null);
}

/** Which of the scored models the version itself is. */
function subjectOf(version) {
  return version.method === "quantize" ? "quantized" : version.method;
}

function figures(version) {
  const quantization = version.quantization;
  const shrunk = quantization ? 1 - quantization.model_bytes / quantization.float_bytes : null;
  return stats(
    stat(t("version.size"), bytes(version.weights_bytes), shrunk && t("version.smaller", { share: percent(shrunk) })),
    quantization && stat(t("version.bpw"), fixed(quantization.bpw_effective, 2), t("version.bpw_codes", { codes: fixed(quantization.bpw_codes, 2) })),
    stat(t("models.fits"), fitMarks(version.weights_bytes), t("registry.estimated")),
    version.training && stat(t("version.trained_on"), compact(version.training.tokens), t("version.tokens_examples", { examples: compact(version.training.examples) })),
    version.training && version.training.flips > 0 && stat(t("version.flips"), compact(version.training.flips), t("version.flip_rate", { rate: percent(version.training.flip_rate, 2) })),
    stat(t("models.age"), time(version.created_at), term("method", version.method)),
  );
}

function actions(model, version) {
  const older = model.versions.find((other) => other.version < version.version);
  return [
    older && button(t("version.compare_with", { number: older.version }), { icon: "compare", href: compareHref(version.id, older.id) }),
    hasView(`/ui/jobs/${version.job_id}`) && button(t("version.job"), { icon: "jobs", href: `/ui/jobs/${version.job_id}` }),
  ];
}

function overview(model, version, query, signal) {
  return h("div", { class: "overview" }, evaluation(model, version, query, signal), about(model, version));
}

/** What the version can be held against: its float base, itself before training, its siblings. */
function opponents(model, version) {
  const subjects = [...new Set(version.scores.map((score) => score.subject))];
  const own = subjectOf(version);
  const parts = subjects.filter((subject) => subject !== own).map((subject) => [`${version.id}:${subject}`, t(`subject.${subject}`)]);
  const siblings = model.versions.filter((other) => other.version !== version.version).map((other) => [other.id, `@${other.version}`]);
  return [...parts, ...siblings];
}

function evaluation(model, version, query, signal) {
  const against = opponents(model, version);
  if (version.scores.length === 0 || against.length === 0) return card({ title: t("version.scores") }, notice("info", t("version.no_scores")));
  const asked = query.get("against");
  const chosen = against.some(([id]) => id === asked) ? asked : against[0][0];
  const chooser = select(against, { value: chosen, "aria-label": t("version.against"), class: "input input-small" });
  const place = h("div");
  const fill = (opponent) => replace(place, load(
    () => get("/v1/evals/compare", { params: { a: version.id, b: opponent }, signal }),
    (found) => comparisonTable(found, { names: [`@${version.version}`, against.find(([id]) => id === opponent)[1]] }),
    { signal },
  ));
  chooser.addEventListener("change", () => setQuery({ against: chooser.value }));
  fill(chosen);
  return card({ title: t("version.scores"), description: t("version.scores_how"), flush: true, actions: [h("span", { class: "small muted" }, t("version.against")), chooser] }, place);
}

function about(model, version) {
  const file = version.dataset && h("span", digest(version.dataset, 16));
  // Its name, for those who may read files; whether it was deleted since is no fault of this page.
  if (file) get(`/v1/files/${encodeURIComponent(version.dataset)}`).then((found) => replace(file, h("span", { title: version.dataset }, found.filename)), () => {});
  return card({ title: t("version.about") }, facts([
    [t("facets.base_model"), baseName(model.base_model)],
    [t("facets.method"), [term("method", version.method), version.scheme && ` · ${version.scheme}`]],
    [t("facets.dataset"), file],
    [t("version.job"), hasView(`/ui/jobs/${version.job_id}`) ? h("a", { href: `/ui/jobs/${version.job_id}`, class: "mono" }, short(version.job_id, 18)) : digest(version.job_id, 18)],
    [t("models.licence"), model.licence],
    [t("version.optimizer"), version.training && `${version.training.optimizer} · ${version.training.mode}`],
    [t("version.environment"), `Bitsmith ${version.environment.engine} · torch ${version.environment.torch} · ${version.environment.device}`],
    [t("version.identity"), digest(version.manifest_sha256)],
  ]), h("a", { href: modelHref(model.id) }, t("version.all_versions", { count: model.latest.version })));
}
