// Sends a file in one request and says how far it is, which fetch cannot.

import { actingProject, ApiError } from "./api.js";

/** `onprogress` hears 0..1; at 1 the API is reading every line. Answers the file, throws an ApiError. */
export function upload(file, purpose, onprogress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const form = new FormData();
    form.append("purpose", purpose);
    form.append("file", file);
    request.open("POST", "/v1/files");
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/json");
    request.setRequestHeader("X-Bitsmith-CSRF", "1");
    if (actingProject()) request.setRequestHeader("X-Bitsmith-Project", actingProject());
    request.upload.onprogress = (event) => onprogress(event.lengthComputable ? event.loaded / event.total : 0);
    request.onload = () => {
      if (request.status < 300) resolve(request.response);
      else reject(new ApiError(request.status, request.response ?? { title: request.statusText }, request.getResponseHeader("X-Request-Id")));
    };
    request.onerror = () => reject(new ApiError(0, { code: "unreachable", detail: "" }, null));
    request.onabort = () => reject(new DOMException("left", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    request.send(form);
  });
}
