// How the registry's facts are shown, wherever they are: scores with their errors, sizes with what they fit.

import { badge } from "./components.js";
import { h } from "./dom.js";
import { bytes, fixed, number, percent, signed } from "./format.js";
import { has, t } from "./i18n.js";

export const DEVICES_GB = [8, 12, 16, 24];
const SPARE = { share: 0.1, bytes: 1e9 }; // of cache and buffers, on top of the weights: a guess that says so

/** Whether weights of so many bytes leave room to work on a device of so many GB. */
export function fits(weightsBytes, gigabytes) {
  return weightsBytes * (1 + SPARE.share) + SPARE.bytes <= gigabytes * 1e9;
}

/** The smallest common device that it fits; null for none. */
export function smallestDevice(weightsBytes) {
  return DEVICES_GB.find((gigabytes) => fits(weightsBytes, gigabytes)) ?? null;
}

/** Four marks, filled where it fits. */
export function fitMarks(weightsBytes) {
  const marks = DEVICES_GB.map((gigabytes) => h("span", { class: fits(weightsBytes, gigabytes) ? "fit is-fit" : "fit", "aria-hidden": "true" }, gigabytes));
  const smallest = smallestDevice(weightsBytes);
  const words = smallest ? t("registry.fits", { gb: smallest }) : t("registry.fits_none");
  return h("span", { class: "fits", title: `${words}. ${t("registry.fits_how")}`, role: "img", "aria-label": words }, marks);
}

/** Shares are shown as percent; a perplexity stays what it is. */
export function isShare(score) {
  return score.n_unit !== "tokens" && score.value >= 0 && score.value <= 1;
}

/** A score's number without its error. */
export function scoreText(score) {
  return isShare(score) ? fixed(score.value * 100, 1) : number(score.value, 4);
}

/** "87.9 ± 2.1" with what was counted behind it. */
export function scoreCell(score) {
  if (!score) return h("span", { class: "faint" }, "–");
  const scale = isShare(score) ? 100 : 1;
  const digits = isShare(score) ? 1 : 2;
  const error = score.stderr === null ? null : h("span", { class: "error" }, ` ± ${fixed(score.stderr * scale, digits)}`);
  const title = t("registry.score_hint", { metric: score.metric, n: score.n, unit: unitOf(score.n_unit) });
  return h("span", { class: "score", title }, isShare(score) ? fixed(score.value * 100, 1) : fixed(score.value, 2), error);
}

export function unitOf(unit) {
  return has(`unit.${unit}`) ? t(`unit.${unit}`) : unit;
}

/**
 * The change against the base, grey where the errors of both could explain it. Lists know no paired items, so this is
 * the cautious test; a version's own page has the paired one.
 */
export function changeCell(score) {
  if (!score?.base || score.difference === null) return h("span", { class: "faint", title: t("registry.no_base") }, "–");
  const scale = isShare(score) ? 100 : 1;
  const noise = 1.96 * Math.hypot(score.stderr ?? 0, score.base.stderr ?? 0);
  const isNoise = Math.abs(score.difference) <= noise;
  const isGood = score.difference > 0 === score.higher_is_better;
  const tone = isNoise ? "noise" : isGood ? "good" : "bad";
  const title = t(isNoise ? "registry.within_noise" : isGood ? "registry.better_than_base" : "registry.worse_than_base");
  return h("span", { class: `change change-${tone}`, title }, signed(score.difference * scale, isShare(score) ? 1 : 2));
}

/** What a task is called. */
export function taskName(task) {
  return has(`task.${task}`) ? t(`task.${task}`) : task;
}

/** The task that stands for a model: the one asked for, else a benchmark before perplexity. */
export function headlineOf(scores, wanted) {
  const byName = scores.find((score) => score.task === wanted);
  if (wanted) return byName ?? null;
  return scores.find(isShare) ?? scores[0] ?? null;
}

export function aliasBadges(aliases, only = null) {
  return Object.entries(aliases ?? {}).filter(([, number]) => only === null || number === only)
    .map(([name, at]) => badge(`@${name}`, { tone: "accent", title: t("registry.alias_at", { number: at }) }));
}

/** "2.8 bpw" with what it counts behind it. */
export function bits(version) {
  if (version.bpw_effective === null || version.bpw_effective === undefined) {
    return h("span", { class: "muted", title: t("registry.merged_hint") }, t("registry.merged"));
  }
  const title = t("registry.bpw_hint", { codes: fixed(version.bpw_codes, 2), effective: fixed(version.bpw_effective, 2) });
  return h("span", { title }, fixed(version.bpw_effective, 2));
}

/** What share of its base's score a version keeps: for shares above chance it is a plain ratio. */
export function kept(score) {
  if (!score?.base) return null;
  return score.higher_is_better ? score.value / score.base.value : score.base.value / score.value;
}

export function keptText(share) {
  return percent(share, share > 0.995 && share < 1.005 ? 1 : 0);
}

export function versionHref(name, number) {
  return `/ui/models/${encodeURIComponent(name)}/versions/${number}`;
}

export function modelHref(name) {
  return `/ui/models/${encodeURIComponent(name)}`;
}

export function compareHref(a, b) {
  return `/ui/compare?a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`;
}

export function sizeText(version) {
  return bytes(version.weights_bytes);
}
