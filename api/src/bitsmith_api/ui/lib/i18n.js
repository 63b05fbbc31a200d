// Words in the reader's language. One flat file a language: "view.key": "text with {holes}".
// A key with forms ends in .one and .other; `t("models.count", {count: 3})` chooses by count.

const LANGUAGES = ["en", "zh"];
let words = {};
let current = "en";

/** Which language is shown: what was chosen, else what the browser prefers. */
export function language() {
  return current;
}

/** The same as a locale for Intl. */
export function locale() {
  return current === "zh" ? "zh-CN" : "en-GB";
}

function preferred() {
  try {
    const chosen = localStorage.getItem("bitsmith.language");
    if (LANGUAGES.includes(chosen)) return chosen;
  } catch {
    // Storage may be forbidden.
  }
  return (navigator.languages ?? []).some((tag) => tag.toLowerCase().startsWith("zh"))
    && !(navigator.language ?? "").toLowerCase().startsWith("en") ? "zh" : "en";
}

/** Fetch the words; before the first `t`. */
export async function loadLanguage(name = preferred()) {
  const answer = await fetch(`/ui/i18n/${name}.json`);
  words = await answer.json();
  current = name;
  document.documentElement.lang = name === "zh" ? "zh-Hans" : "en";
}

/** Choose a language; the caller renders again. */
export async function chooseLanguage(name) {
  try {
    localStorage.setItem("bitsmith.language", name);
  } catch {
    // Then it holds for this page only.
  }
  await loadLanguage(name);
}

/** Whether there are words for this key. */
export function has(key) {
  return key in words;
}

/** The text of a key with its holes filled. A missing key shows itself: a test finds it before a reader does. */
export function t(key, holes = {}) {
  let text = words[key];
  if (text === undefined && "count" in holes) {
    const form = new Intl.PluralRules(locale()).select(Number(holes.count));
    text = words[`${key}.${form}`] ?? words[`${key}.other`];
  }
  return (text ?? key).replace(/\{(\w+)\}/g, (hole, name) => (name in holes ? String(holes[name]) : hole));
}

/** Words of the API (states, stages, codes), or the API's own where there are none. */
export function term(group, value) {
  return has(`${group}.${value}`) ? t(`${group}.${value}`) : String(value ?? "");
}
