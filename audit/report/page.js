(function () {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const twins = JSON.parse(document.getElementById("twins").textContent);
  const plots = Array.from(document.querySelectorAll("[data-plot]"));
  const settings = { displayModeBar: false, displaylogo: false, responsive: true };
  const narrow = (div) => div.clientWidth < 430;
  let printing = false;

  function dyed(value, night) {
    if (typeof value === "string") return (night && twins[value]) || value;
    if (Array.isArray(value)) return value.map((item) => dyed(item, night));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, dyed(item, night)]));
    }
    return value;
  }

  function place(spec, path, value) {
    const keys = path.split(".");
    const last = keys.pop();
    keys.reduce((node, key) => (node[key] = node[key] || {}), spec)[last] = value;
  }

  function draw(div) {
    const night = dark.matches && !printing;
    const spec = dyed(JSON.parse(document.getElementById(div.dataset.plot).textContent), night);
    if (narrow(div)) Object.entries(spec.narrow).forEach(([path, value]) => place(spec, path, value));
    div.dataset.narrow = narrow(div);
    Plotly.react(div, spec.data, spec.layout, settings);
  }

  plots.forEach(draw);
  dark.addEventListener("change", () => plots.forEach(draw));
  addEventListener("resize", () => plots.filter((div) => String(narrow(div)) !== div.dataset.narrow).forEach(draw));
  addEventListener("beforeprint", () => { printing = true; plots.forEach(draw); });
  addEventListener("afterprint", () => { printing = false; plots.forEach(draw); });
})();
