// Colours, and everything set going.
const THEMES = [["", "as the system", "◐"], ["light", "light", "☀"], ["dark", "dark", "☾"]];

function themeButton() {
  const button = byId("theme");
  const stored = () => { try { return localStorage.getItem("karst_bench.theme") || ""; } catch { return ""; } };
  const apply = (name) => {
    const at = Math.max(0, THEMES.findIndex((theme) => theme[0] === name));
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    button.textContent = THEMES[at][2];
    button.setAttribute("aria-label", `Colours: ${THEMES[at][1]}`);
    button.title = `Colours: ${THEMES[at][1]}`;
    return at;
  };
  let at = apply(stored());
  button.addEventListener("click", () => {
    at = apply(THEMES[(at + 1) % THEMES.length][0]);
    try { localStorage.setItem("karst_bench.theme", THEMES[at][0]); } catch { /* a file may keep nothing: then the choice lasts as long as the page */ }
  });
  button.hidden = false;
}

function start() {
  themeButton();
  document.querySelectorAll("table[data-table]").forEach(enhance);
  const draws = Object.entries(FIGURES).map(([name, build]) => build(byId(`plot-${name}`)));
  const drawAll = () => draws.forEach((draw) => draw());
  drawAll();
  listing();
  let width = window.innerWidth;
  let waiting = 0;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(drawAll);
  });
  window.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  window.addEventListener("scroll", hideTip, { passive: true });
  route();
  document.documentElement.dataset.ready = "yes";
}

start();
