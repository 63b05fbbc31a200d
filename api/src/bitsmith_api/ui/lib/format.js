// Quantities as people read them, in the chosen language.

import { locale, t } from "./i18n.js";

export const NONE = "–";

/** 3 significant digits or so, without noise. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  return new Intl.NumberFormat(locale(), { maximumSignificantDigits: Math.max(digits, 1) }).format(value);
}

/** Exactly so many decimals. */
export function fixed(value, decimals = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return NONE;
  const options = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return new Intl.NumberFormat(locale(), options).format(value);
}

export function integer(value) {
  if (value === null || value === undefined) return NONE;
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: 0 }).format(value);
}

/** 1.2 M, 3.4 B: counts of tokens and weights. */
export function compact(value) {
  if (value === null || value === undefined) return NONE;
  return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value);
}

/** Decimal units, as disks and Hugging Face count: 3.1 GB. */
export function bytes(value) {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let power = 0;
  let left = value;
  while (left >= 999.5 && power < units.length - 1) {
    left /= 1000;
    power += 1;
  }
  return `${power === 0 ? left : number(left, 3)} ${units[power]}`;
}

export function percent(fraction, decimals = 0) {
  if (fraction === null || fraction === undefined) return NONE;
  const options = { style: "percent", minimumFractionDigits: decimals, maximumFractionDigits: decimals };
  return new Intl.NumberFormat(locale(), options).format(fraction);
}

/** With its sign, and a true minus. */
export function signed(value, decimals = 2) {
  if (value === null || value === undefined) return NONE;
  return `${value > 0 ? "+" : value < 0 ? "−" : "±"}${fixed(Math.abs(value), decimals)}`;
}

/** 42 s, 3 min 10 s, 5 h 2 min, 3 d 4 h. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${number(seconds * 1000, 2)} ms`;
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 2 : 3)} s`;
  const whole = Math.round(seconds);
  const [days, hours] = [Math.floor(whole / 86400), Math.floor((whole % 86400) / 3600)];
  const [minutes, rest] = [Math.floor((whole % 3600) / 60), whole % 60];
  if (days) return hours ? `${days} d ${hours} h` : `${days} d`;
  if (hours) return minutes ? `${hours} h ${minutes} min` : `${hours} h`;
  return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
}

/** Unix seconds as "3 hours ago". */
export function ago(unix) {
  if (unix === null || unix === undefined) return NONE;
  const seconds = unix - Date.now() / 1000;
  const steps = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [86400 * 14, "day", 86400],
    [86400 * 60, "week", 86400 * 7], [86400 * 700, "month", 86400 * 30.44], [Infinity, "year", 86400 * 365.25]];
  const [, unit, size] = steps.find(([limit]) => Math.abs(seconds) < limit);
  if (unit === "second" && Math.abs(seconds) < 10) return t("time.now");
  const words = new Intl.RelativeTimeFormat(locale(), { numeric: "auto", style: "short" });
  return words.format(Math.trunc(seconds / size), unit);
}

/** Unix seconds, to the second, in the reader's zone. */
export function moment(unix) {
  if (unix === null || unix === undefined) return NONE;
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "medium" }).format(unix * 1000);
}

/** hf:org/name@rev → org/name. */
export function baseName(reference) {
  return String(reference ?? "").replace(/^(hf|local):/, "").replace(/@[0-9a-f]{40}$/, "");
}

/** The first and last of a digest or an id. */
export function short(text, length = 12) {
  return text && text.length > length + 1 ? `${text.slice(0, length)}…` : text ?? NONE;
}
