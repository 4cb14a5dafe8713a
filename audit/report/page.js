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

// Tables that sort by their headings, and narrow down to the rows that hold every word that is searched for.
(function () {
  "use strict";

  function key(row, column, number) {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent.trim().toLowerCase();
    return text === "" ? null : number ? Number(text) : text;
  }

  function sort(table, column, way) {
    const heads = Array.from(table.tHead.rows[0].cells);
    const number = heads[column].dataset.kind === "number";
    const turn = way === "descending" ? -1 : 1;
    const rows = Array.from(table.tBodies[0].rows, (row) => ({ row, key: key(row, column, number) }));
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      return a.key === b.key ? 0 : a.key < b.key ? -turn : turn;
    });
    table.tBodies[0].append(...rows.map((one) => one.row));
    heads.forEach((head, at) => head.setAttribute("aria-sort", at === column ? way : "none"));
  }

  function find(table, words) {
    const rows = Array.from(table.tBodies[0].rows);
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
    const left = rows.filter((row) => !row.hidden).length;
    const count = document.querySelector(`[data-count="${table.id}"]`);
    count.textContent = left === rows.length ? `${left} features` : `${left} of ${rows.length} features`;
  }

  document.querySelectorAll("table[data-sort]").forEach((table) => {
    const found = Array.from(table.tBodies[0].rows);
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const first = head.dataset.kind === "number" ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      sort(table, column, head.getAttribute("aria-sort") === first ? other : first);
    }));
    document.querySelector(`[data-order="${table.id}"]`).addEventListener("change", (event) => {
      const [column, way] = event.target.value.split(":");
      if (way) sort(table, Number(column), way);
      else {
        table.tBodies[0].append(...found);
        heads.forEach((head) => head.setAttribute("aria-sort", "none"));
      }
    });
    document.querySelector(`[data-find="${table.id}"]`).addEventListener("input", (event) => {
      find(table, event.target.value.toLowerCase().split(/\s+/).filter(Boolean));
    });
  });
})();
