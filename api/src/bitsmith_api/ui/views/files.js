// Uploaded files: training and validation data, eval packs.

import { del, get } from "../lib/api.js";
import { badge, button, card, confirm, digest, emptyState, iconButton, load, notice, page, pagedTable, progress, select, skeleton, time, toast } from "../lib/components.js";
import { h, replace, uid } from "../lib/dom.js";
import { bytes, integer } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { whoAmI } from "../lib/jobs.js";
import { setQuery } from "../lib/router.js";
import { upload } from "../lib/upload.js";

export const title = "files.title";

const PURPOSES = ["fine-tune", "evals"];

export async function view({ query, signal, onQuery }) {
  const session = await whoAmI(signal);
  const mayWrite = session.scopes.includes("files:write");
  const place = h("div");
  const choices = h("div", { class: "segmented", role: "group", "aria-label": t("files.which") });

  function show(now) {
    const purpose = now.get("purpose") ?? "";
    replace(choices, ["", ...PURPOSES].map((name) => button(t(name ? `files.purpose_${name}` : "files.all"), { "aria-pressed": String(name === purpose), onclick: () => { setQuery({ purpose: name || null }); } })));
    const params = { purpose, limit: 50 };
    place.list = load(() => get("/v1/files", { params, signal }), (first) => (first.data.length ? list(first, params, { mayWrite, signal, named: now.get("file"), refresh: () => place.list.refresh({ quietly: true }) }) : card({}, emptyState({ icon: "files", title: t("files.none"), body: t("files.none_body") }))), { placeholder: () => skeleton("table", 5), signal });
    replace(place, place.list);
  }

  onQuery(show);
  show(query);
  return page(
    { title: t("files.title"), description: t("files.description") },
    mayWrite && dropZone(() => place.list.refresh({ quietly: true }), signal),
    choices,
    place,
  );
}

/** A place to drop files, or to choose them from. */
function dropZone(onadded, signal) {
  const chosen = h("input", { type: "file", multiple: true, accept: ".jsonl,.json,application/jsonl", class: "sr-only", id: uid("upload") });
  const purpose = select(PURPOSES.map((name) => [name, t(`files.purpose_${name}`)]), { "aria-label": t("files.purpose"), class: "input input-small" });
  const said = h("div", { class: "stack", role: "status" });
  const zone = h("div", { class: "drop" },
    h("p", t("files.drop"), " ", h("label", { class: "button", for: chosen.id }, t("files.choose")), chosen),
    h("p", { class: "row muted small" }, t("files.as"), h("span", purpose), t("files.formats")));

  async function take(files) {
    for (const file of files) {
      const line = h("div", progress(0, file.name));
      said.append(line);
      try {
        const made = await upload(file, purpose.value, (share) => replace(line, progress(share, share < 1 ? file.name : t("files.checking", { name: file.name }))), signal);
        replace(line, notice("good", t("files.uploaded", { name: made.filename, n: integer(made.examples) })));
        onadded();
      } catch (error) {
        if (error.name === "AbortError") return;
        replace(line, notice("bad", h("strong", file.name), h("p", error.message), error.places?.length > 1 && h("ul", error.places.slice(0, 10).map((problem) => h("li", h("code", problem.pointer), " ", problem.detail)))));
      }
    }
    chosen.value = "";
  }

  chosen.addEventListener("change", () => take([...chosen.files]));
  zone.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("is-over");
  });
  zone.addEventListener("dragleave", () => zone.classList.remove("is-over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("is-over");
    take([...event.dataTransfer.files]);
  });
  return h("div", { class: "stack" }, zone, said);
}

function list(first, params, { mayWrite, signal, named, refresh }) {
  return card({ flush: true }, pagedTable({
    caption: t("files.title"),
    stack: true,
    first,
    more: (after) => get("/v1/files", { params: { ...params, after }, signal }),
    rowProps: (file) => (file.id === named ? { class: "is-named", "aria-current": "true" } : {}),
    columns: [
      { key: "name", label: t("files.name"), header: true, render: (file) => h("div", { class: "name-cell" }, h("span", { class: "strong truncate", title: file.filename }, file.filename), h("span", { class: "faint small mono truncate" }, file.id)) },
      { key: "purpose", label: t("files.purpose"), render: (file) => badge(t(`files.purpose_${file.purpose}`)) },
      { key: "examples", label: t("files.examples"), align: "end", render: (file) => integer(file.examples) },
      { key: "bytes", label: t("files.size"), align: "end", render: (file) => bytes(file.bytes) },
      { key: "sha256", label: "SHA-256", class: "cell-wide", render: (file) => digest(file.sha256, 8) },
      { key: "created", label: t("files.created"), align: "end", class: "cell-age", render: (file) => time(file.created_at) },
      { key: "actions", label: "", align: "end", render: (file) => h("span", { class: "row nowrap" },
        iconButton("download", t("files.download", { name: file.filename }), { href: `/v1/files/${file.id}/content`, download: file.filename }),
        mayWrite && iconButton("trash", t("files.delete", { name: file.filename }), { onclick: () => remove(file, refresh) })) },
    ],
  }));
}

async function remove(file, refresh) {
  const isSure = await confirm({ title: t("files.delete_title", { name: file.filename }), body: t("files.delete_body"), action: t("files.delete_it"), danger: true });
  if (!isSure) return;
  try {
    await del(`/v1/files/${file.id}`);
    toast(t("files.deleted"), { tone: "good" });
    refresh();
  } catch (error) {
    toast(error.message, { tone: "bad" });
  }
}
