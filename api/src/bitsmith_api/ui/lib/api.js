// The REST API as the signed-in person: a cookie says who, a header says that these pages ask.

/** What the API refused, with its own words. */
export class ApiError extends Error {
  constructor(status, problem, requestId) {
    super(problem.detail ?? problem.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = problem.code ?? "";
    this.problem = problem;
    this.places = problem.errors ?? [];
    this.requestId = requestId;
    this.retryable = problem.retryable ?? status === 0;
  }
}

const listeners = new Set();

/** Told when the session is over; the router shows the login. */
export function onSignedOut(listener) {
  listeners.add(listener);
}

const PROJECT = "bitsmith.project";

/** The project that the installation's own key acts in; null for its default. */
export function actingProject() {
  return sessionStorage.getItem(PROJECT);
}

export function actIn(project) {
  if (project) sessionStorage.setItem(PROJECT, project);
  else sessionStorage.removeItem(PROJECT);
}

/** `path` with a query; arrays repeat a parameter, null and "" leave it out. */
export function url(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of params instanceof URLSearchParams ? params : Object.entries(params)) {
    for (const one of [value].flat()) if (one !== null && one !== undefined && one !== "") query.append(name, one);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/**
 * The answer itself, an ApiError if it is a refusal.
 * options: params, body (sent as JSON; FormData as it is), headers, signal, anonymous (a 401 does not end the session).
 */
export async function send(method, path, { params, body, headers = {}, signal, anonymous = false } = {}) {
  const sent = { Accept: "application/json", ...headers };
  if (method !== "GET") sent["X-Bitsmith-CSRF"] = "1";
  if (actingProject() && !anonymous) sent["X-Bitsmith-Project"] = actingProject();
  const isForm = body instanceof FormData || body instanceof Blob;
  if (body !== undefined && !isForm) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url(path, params), {
      method,
      headers: sent,
      body: body === undefined || isForm ? body : JSON.stringify(body),
      signal,
      credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { code: "unreachable", detail: error.message }, null);
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ title: answer.statusText }));
  if (answer.status === 401 && !anonymous) for (const listener of listeners) listener();
  throw new ApiError(answer.status, problem, answer.headers.get("X-Request-Id"));
}

async function content(answer) {
  if (answer.status === 204) return null;
  return (answer.headers.get("Content-Type") ?? "").includes("json") ? answer.json() : answer.text();
}

export const get = async (path, options) => content(await send("GET", path, options));
export const post = async (path, body, options) => content(await send("POST", path, { body, ...options }));
export const put = async (path, body, options) => content(await send("PUT", path, { body, ...options }));
export const patch = async (path, body, options) => content(await send("PATCH", path, { body, ...options }));
export const del = async (path, options) => content(await send("DELETE", path, options));

/** What is there and its ETag, for a later write with If-Match. */
export async function getTagged(path, options) {
  const answer = await send("GET", path, options);
  return { data: await content(answer), etag: answer.headers.get("ETag") };
}

/** Server-sent events: {id, event, data} one by one. POST bodies work too, as chat completions need. */
export async function* events(path, { method = "GET", headers, ...options } = {}) {
  const answer = await send(method, path, { headers: { Accept: "text/event-stream", ...headers }, ...options });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const found = parseEvent(block);
      if (found) yield found;
    }
  }
}

function parseEvent(block) {
  const found = { id: null, event: "message", data: "" };
  const data = [];
  for (const line of block.split("\n")) {
    const match = /^(id|event|data): ?(.*)$/.exec(line);
    if (match?.[1] === "data") data.push(match[2]);
    else if (match) found[match[1]] = match[2];
  }
  found.data = data.join("\n");
  return data.length || found.event !== "message" ? found : null;
}

/** Every row of a cursor list, at most `most`. */
export async function all(path, { params = {}, most = 1000, ...options } = {}) {
  const rows = [];
  let after;
  do {
    const page = await get(path, { params: { limit: 100, ...params, after }, ...options });
    rows.push(...page.data);
    after = page.has_more ? page.last_id : undefined;
  } while (after && rows.length < most);
  return rows;
}
