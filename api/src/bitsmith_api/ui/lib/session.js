// Who is signed in, as the frame learned it: what they may not do is not offered. The API decides all the same.

let present = null;

/** The frame's word, before any view is shown. */
export function remember(session) {
  present = session;
}

/** Whether the signed-in key has this scope, such as "models:write". */
export function may(scope) {
  return present?.scopes.includes(scope) ?? false;
}
