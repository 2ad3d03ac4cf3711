// Colours chosen on an earlier visit, before the first paint: the page would flash otherwise.
try {
  const theme = localStorage.getItem("janus-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // A browser without storage follows the system.
}
