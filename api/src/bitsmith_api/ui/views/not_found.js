import { button, emptyState, page } from "../lib/components.js";
import { t } from "../lib/i18n.js";

export const title = "not_found.title";

export async function view() {
  const home = button(t("not_found.home"), { href: "/ui/models", kind: "primary" });
  return page({ title: t("not_found.title") }, emptyState({ icon: "search", title: t("not_found.nothing"), body: t("not_found.body"), actions: [home] }));
}
