// The engine's log: its end, then what comes.

import { send } from "../lib/api.js";
import { button, card, checkbox } from "../lib/components.js";
import { h, replace } from "../lib/dom.js";
import { t } from "../lib/i18n.js";
import { every, jobPath, OVER } from "../lib/jobs.js";

const TAIL = 500;
const MOST_CHARACTERS = 1_000_000; // a browser stays quick with so much

export function logPanel(live, signal) {
  const text = h("pre", { class: "log", role: "region", tabindex: "0", "aria-label": t("job.log") });
  const said = h("span", { class: "faint small", role: "status" });
  const path = jobPath(live.job.id, "/logs");
  let cursor = null;
  let isReading = false;
  const sticky = checkbox(t("job.log_follow"), { checked: true });

  async function read() {
    if (isReading) return;
    isReading = true;
    try {
      const params = cursor ? { after: cursor } : { tail: TAIL };
      const answer = await send("GET", path, { params, headers: { Accept: "text/plain" }, signal });
      const attemptBefore = cursor?.split(":")[0];
      cursor = answer.headers.get("X-Log-Cursor") ?? cursor;
      const found = await answer.text();
      if (attemptBefore && cursor.split(":")[0] !== attemptBefore) replace(text, `${t("job.log_attempt", { n: cursor.split(":")[0] })}\n`);
      if (found) text.append(found);
      if (text.textContent.length > MOST_CHARACTERS) replace(text, text.textContent.slice(-MOST_CHARACTERS / 2));
      if (sticky.querySelector("input").checked) text.scrollTop = text.scrollHeight;
      text.hidden = !text.textContent;
      replace(said, text.hidden ? t(OVER.has(live.job.status) ? "job.no_log_ever" : "job.no_log") : "");
    } catch (error) {
      if (error.name !== "AbortError") replace(said, error.message);
    } finally {
      isReading = false;
    }
  }

  read();
  every(3, () => { if (text.isConnected && !OVER.has(live.job.status)) read(); }, signal);
  const whole = button(t("job.log_whole"), { icon: "download", href: path, target: "_blank" });
  return card({ title: t("job.log"), actions: [sticky, whole] }, text, said);
}
