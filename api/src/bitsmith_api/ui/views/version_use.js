// How to ask this version from elsewhere: what to paste, with this installation's own address.

import { card, code, notice } from "../lib/components.js";
import { h } from "../lib/dom.js";
import { t } from "../lib/i18n.js";

export function useTab(version) {
  const hasExport = version.files.some((file) => file.path.startsWith("bf16/"));
  const parts = [
    ["curl", t("use.served"), curl(version)],
    ["Python · openai", t("use.served"), openai(version)],
    ["bitsmith", t("use.pull"), `bitsmith pull ${version.id}`],
    hasExport && ["Python · transformers", t("use.hub"), transformers(version)],
    hasExport && ["vLLM", t("use.hub"), vllm(version)],
    hasExport && ["llama.cpp", t("use.llama"), llama(version)],
  ].filter(Boolean);
  return [
    notice("info", t("use.key"), " ", h("code", "BITSMITH_API_KEY"), "."),
    !hasExport && notice("warn", t("use.no_export")),
    h("div", { class: "snippets" }, parts.map(([label, how, text]) => card({ title: label, description: how }, code(text)))),
  ].filter(Boolean);
}

const origin = () => location.origin;

function curl(version) {
  return `curl ${origin()}/v1/chat/completions \\
  -H "Authorization: Bearer $BITSMITH_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"model": "${version.id}",
       "messages": [{"role": "user", "content": "Hello?"}]}'`;
}

function openai(version) {
  return `import os
from openai import OpenAI

client = OpenAI(base_url="${origin()}/v1", api_key=os.environ["BITSMITH_API_KEY"])
answer = client.chat.completions.create(
    model="${version.id}",
    messages=[{"role": "user", "content": "Hello?"}],
)
print(answer.choices[0].message.content)`;
}

function transformers(version) {
  return `# export HF_ENDPOINT=${origin()}/hub HF_TOKEN=$BITSMITH_API_KEY
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("${version.model}", revision="${version.version}")
model = AutoModelForCausalLM.from_pretrained("${version.model}", revision="${version.version}")`;
}

function vllm(version) {
  return `HF_ENDPOINT=${origin()}/hub HF_TOKEN=$BITSMITH_API_KEY \\
  vllm serve ${version.model} --revision ${version.version}`;
}

function llama(version) {
  return `HF_ENDPOINT=${origin()}/hub HF_TOKEN=$BITSMITH_API_KEY \\
  hf download ${version.model} --revision ${version.version} --local-dir ${version.model}
python llama.cpp/convert_hf_to_gguf.py ${version.model} --outfile ${version.model}.gguf
llama-cli -m ${version.model}.gguf -p "Hello?"`;
}
