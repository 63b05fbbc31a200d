import { button, field, input, page } from "../lib/components.js";
import { post } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { t } from "../lib/i18n.js";

export const title = "login.title";

/** The key goes to the API once; what comes back is a cookie that no script can read. */
export async function view({ query }) {
  const key = input({ type: "password", name: "key", autocomplete: "current-password", required: true, autofocus: true, placeholder: "bsk_…" });
  const asked = field({ label: t("login.key"), hint: t("login.hint") }, key);
  const form = h(
    "form",
    {
      class: "login",
      onsubmit: async (event) => {
        event.preventDefault();
        const go = form.querySelector("button[type=submit]");
        go.disabled = true;
        asked.fail("");
        try {
          await post("/v1/session", { key: key.value.trim() }, { anonymous: true });
          key.value = "";
          location.replace(next(query.get("next")));
        } catch (error) {
          asked.fail(error.status === 401 ? t("login.wrong") : error.message);
          go.disabled = false;
          key.select();
        }
      },
    },
    asked,
    button(t("login.go"), { kind: "primary", type: "submit" }),
  );
  const mark = h("img", { src: "/ui/style/mark.svg", alt: "", width: 36, height: 36, class: "login-mark" });
  return page({ title: [mark, t("login.title")], description: t("login.description") }, form, h("p", { class: "faint login-foot" }, t("login.how"), " ", h("code", "bitsmith keys create")));
}

/** Only to places of these pages, never to another site. */
function next(wanted) {
  return wanted?.startsWith("/ui/") && !wanted.includes("//") && !wanted.includes("\\") ? wanted : "/ui/models";
}
