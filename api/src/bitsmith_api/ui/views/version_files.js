// Where a version comes from, and the files it consists of.

import { get } from "../lib/api.js";
import { button, card, digest, load, table } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { lineage } from "./version_lineage.js";

export function filesTab(version, signal) {
  const path = `/v1/models/${encodeURIComponent(version.model)}/versions/${version.version}`;
  const total = version.files.reduce((sum, file) => sum + file.bytes, 0);
  return [
    card({ title: t("lineage.title"), description: t("lineage.description") }, load(() => get(`${path}/lineage`, { signal }), lineage, { signal })),
    card({ title: t("files_of.title", { count: version.files.length }), description: t("files_of.description", { total: bytes(total) }), flush: true }, table({
      caption: t("version.files"),
      stack: true,
      rows: version.files,
      columns: [
        { key: "path", label: t("files_of.path"), header: true, render: (file) => h("code", file.path) },
        { key: "bytes", label: t("models.size"), align: "end", render: (file) => bytes(file.bytes) },
        { key: "sha256", label: "SHA-256", class: "cell-wide", render: (file) => digest(file.sha256, 16) },
        { key: "get", label: "", class: "num", render: (file) => button(t("files_of.download"), { kind: "quiet", icon: "download", href: `${path}/files/${file.path.split("/").map(encodeURIComponent).join("/")}`, download: file.path.split("/").at(-1) }) },
      ],
    })),
  ];
}
