// A classic script, run before the first paint: a chosen theme must not flash the other one.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("bitsmith.theme");
  } catch {
    // Storage may be forbidden; then the system's theme it is.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
