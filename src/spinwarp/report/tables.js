// The tables of results, what they are filtered by, and the distribution of the volumes.

const METRICS = [ // field, heading, decimal places, and whether more is better (null: neither)
  ["psnr", "PSNR / dB", 2, true], ["ssim", "SSIM", 4, true], ["nmse", "NMSE", 4, false],
  ["ssim_foreground", "SSIM fg", 4, true], ["acceleration", "R", 2, null], ["seconds_per_slice", "s/slice", 3, null],
  ["coverage", "cov.", 3, null], ["calibration_error", "ECE", 3, null], ["sparsification", "spars.", 3, null],
];
const TEXTS = [["volume", "volume"], ["method", "method"], ["contrast", "contrast"], ["mask", "mask"],
  ["dataset", "data"], ["split", "split"], ["provenance", "provenance"], ["crop", "size"],
  ["trained_on", "trained on its"], ["input_sha256", "input"]];
const sorting = { field: "", down: false };

const measured = (rows, field) => rows.map((row) => number(row[field])).filter((x) => !Number.isNaN(x));
const columns = () => METRICS.filter(([field], i) => i < 3 || measured(head.rows, field).length);
const unique = (values) => [...new Set(values)];

function chosenRows() {
  const part = $("find").value.toLowerCase();
  const filters = [...document.querySelectorAll("[data-filter]")].filter((select) => select.value !== "all");
  return head.rows.filter((row) => row.volume.toLowerCase().includes(part)
    && filters.every((select) => row[select.dataset.filter] === select.value.slice(1)));
}

// The mean of what was measured and its standard error, as the terminal's table has them.
function estimate(rows, field) {
  const values = measured(rows, field);
  const n = values.length;
  const mean = n ? values.reduce((sum, x) => sum + x, 0) / n : NaN;
  const squares = values.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, error: n > 1 ? Math.sqrt(squares / (n - 1) / n) : NaN };
}

function showResults() {
  const rows = chosenRows();
  const volumes = unique(rows.map((row) => `${row.dataset} ${row.volume}`)).length;
  $("count").textContent = `${rows.length} of ${head.rows.length} lines, ${volumes} volume${volumes === 1 ? "" : "s"}`;
  showMeans(rows);
  showRows(rows);
  $("distribution").replaceChildren(...unique(rows.map((row) => row.group)).flatMap((group) => {
    const mine = rows.filter((row) => row.group === group);
    return [element("h4", group), ...METRICS.slice(0, 3).map((metric) => strips(mine, metric))];
  }));
  const curves = head.reliability.filter((curve) =>
    rows.some((row) => row.group === curve.group && row.method === curve.method));
  $("intervals").hidden = !curves.length;
  $("reliability").replaceChildren(...unique(curves.map((curve) => curve.group)).flatMap((group) =>
    [element("h4", group), reliability(curves.filter((curve) => curve.group === group))]));
}

function line(cells, tag = "td") {
  const made = element("tr");
  for (const [text, className] of cells) {
    made.append(element(tag, text, className ?? ""));
    if (className === "text") made.lastChild.title = text; // long names are cut off
  }
  return made;
}

function table(target, heading, lines) {
  const [top, body] = [element("thead"), element("tbody")];
  top.append(heading);
  body.append(...lines);
  target.replaceChildren(top, body);
}

function showMeans(rows) {
  const groups = unique(rows.map((row) => row.group));
  const first = groups.length > 1 ? [["data", "text"]] : [];
  const heading = [...first, ["method", "text"], ["volumes"], ...columns().map(([, name]) => [name])];
  const lines = groups.flatMap((group) => {
    const methods = unique(rows.filter((row) => row.group === group).map((row) => row.method));
    const parts = methods.map((method) => rows.filter((row) => row.group === group && row.method === method));
    return methods.map((method, i) => line([
      ...first.map(() => [group, "text"]), [method, "text"], [String(parts[i].length)],
      ...columns().map(([field, , places, more]) => {
        const means = parts.map((part) => digits(estimate(part, field).mean, places));
        const known = means.filter((mean) => mean !== "–").map((mean) => (mean === "∞" ? Infinity : Number(mean)));
        const { error } = estimate(parts[i], field);
        const best = more !== null && parts.length > 1 && known.length > 0
          && means[i] === digits((more ? Math.max : Math.min)(...known), places);
        const around = more === null || Number.isNaN(error) ? "" : ` ± ${digits(error, places)}`;
        return [means[i] + around, best ? "best" : ""];
      }),
    ]));
  });
  table($("means"), line(heading, "th"), lines);
}

function showRows(rows) {
  const texts = TEXTS.filter(([field]) => head.rows.some((row) => row[field]));
  const all = [...texts.slice(0, 2).map((t) => [...t, "text"]), ...columns(), ...texts.slice(2).map((t) => [...t, "text"])];
  const heading = element("tr");
  for (const [field, name, kind] of all) {
    const [cell, button] = [element("th", "", kind === "text" ? "text" : ""), element("button", name)];
    const arrow = sorting.down ? " ↓" : " ↑";
    if (sorting.field === field) button.textContent += arrow;
    cell.setAttribute("aria-sort", sorting.field !== field ? "none" : sorting.down ? "descending" : "ascending");
    button.dataset.sort = field;
    button.addEventListener("click", () => {
      sorting.down = sorting.field === field ? !sorting.down : kind !== "text";
      sorting.field = field;
      showResults();
      document.querySelector(`[data-sort="${field}"]`).focus();
    });
    cell.append(button);
    heading.append(cell);
  }
  const isText = TEXTS.some(([field]) => field === sorting.field);
  const sorted = !sorting.field ? rows : [...rows].sort((a, b) => {
    const [x, y] = isText ? [a[sorting.field], b[sorting.field]] : [number(a[sorting.field]), number(b[sorting.field])];
    if (isText) return (sorting.down ? -1 : 1) * x.localeCompare(y, "en", { numeric: true });
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // unknown values come last
    return x === y ? 0 : (sorting.down ? -1 : 1) * (x < y ? -1 : 1);
  });
  table($("rows"), heading, sorted.map((row) => {
    const made = line(all.map(([field, , kind]) =>
      kind === "text" ? [row[field], "text"] : [digits(number(row[field]), kind)]));
    made.addEventListener("click", () => show(row));
    made.tabIndex = 0;
    made.addEventListener("keydown", (event) => { if (event.key === "Enter") show(row); });
    return made;
  }));
}

// Show the images of a line of the table.
function show(row) {
  const found = head.volumes.findIndex((volume) => volume.group === row.group && volume.name === row.volume);
  if (found < 0) return;
  openVolume(found);
  $("viewer").scrollIntoView({ behavior: "smooth" });
}

function svg(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// The fraction of pixels inside the predicted intervals over the fraction that should be: a curve for each method.
function reliability(curves) {
  const [left, above, side, step] = [46, 8, 220, 16];
  const [x, y] = [(share) => left + share * side, (share) => above + (1 - share) * side];
  const picture = svg("svg", { viewBox: `0 0 420 ${above + side + 38 + step * curves.length}`, role: "img" });
  for (const share of [0, 0.5, 1]) {
    picture.append(svg("line", { x1: x(share), x2: x(share), y1: y(0), y2: y(1), class: "grid" }));
    picture.append(svg("line", { x1: x(0), x2: x(1), y1: y(share), y2: y(share), class: "grid" }));
    picture.append(svg("text", { x: x(share), y: y(0) + 13, "text-anchor": "middle", class: "faint" }, `${100 * share} %`));
    picture.append(svg("text", { x: left - 4, y: y(share) + 4, "text-anchor": "end", class: "faint" }, `${100 * share} %`));
  }
  picture.append(svg("line", { x1: x(0), x2: x(1), y1: y(0), y2: y(1), class: "faint-line" }));
  curves.forEach((curve, i) => {
    const points = curve.levels.map((level, j) => `${x(level).toFixed(1)},${y(curve.observed[j]).toFixed(1)}`).join(" ");
    const style = `stroke: hsl(${(210 + 137 * i) % 360} 60% 50%)`;
    const at = y(0) + 34 + step * i;
    picture.append(svg("polyline", { points, style, class: "curve" }));
    picture.append(svg("line", { x1: left, x2: left + 20, y1: at - 4, y2: at - 4, style, class: "curve" }));
    picture.append(svg("text", { x: left + 26, y: at }, curve.method));
  });
  return picture;
}

// Round numbers of a range, with steps of 1, 2 or 5 times a power of ten: their values and labels.
function ticks(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 2));
  const step = power * [5, 2, 1].find((factor) => Math.floor(high / (factor * power)) > Math.ceil(low / (factor * power)));
  const places = Math.max(-Math.floor(Math.log10(step) + 1e-9), 0);
  const first = Math.ceil(low / step - 1e-9);
  const count = Math.floor(high / step + 1e-9) - first + 1;
  return Array.from({ length: count }, (_, i) => [(first + i) * step, ((first + i) * step).toFixed(places)]);
}

function strips(rows, [field, name, places, more]) {
  const methods = unique(rows.map((row) => row.method));
  const [width, step, above, foot] = [420, 38, 18, 22];
  const bottom = above + methods.length * step;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${bottom + foot}`, role: "img" });
  picture.append(svg("text", { x: 8, y: 12, class: "faint" }, `${name} (${more ? "more" : "less"} is better)`));
  const finite = measured(rows, field).filter(Number.isFinite);
  if (!finite.length) {
    picture.append(svg("text", { x: 8, y: 36 }, "no values"));
    return picture;
  }
  let [low, high] = [Math.min(...finite), Math.max(...finite)];
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
  const at = (x) => 22 + ((x - low) / (high - low)) * (width - 44);
  for (const [value, label] of ticks(low, high)) {
    const x = at(value);
    picture.append(svg("line", { x1: x, x2: x, y1: above, y2: bottom, class: "grid" }));
    picture.append(svg("text", { x, y: bottom + 15, "text-anchor": "middle", class: "faint" }, label));
  }
  methods.forEach((method, i) => {
    const y = above + (i + 0.68) * step;
    picture.append(svg("text", { x: 8, y: y - 13 }, method.length > 60 ? `${method.slice(0, 59)}…` : method));
    const mine = rows.filter((row) => row.method === method);
    mine.forEach((row, j) => {
      const value = number(row[field]);
      if (!Number.isFinite(value)) return;
      const dot = svg("circle", { cx: at(value), cy: y + ((j * 7) % 5) * 1.6 - 3.2, r: 3.2, class: "dot" });
      dot.append(svg("title", {}, `${row.volume}: ${digits(value, places)}`));
      dot.addEventListener("click", () => show(row));
      picture.append(dot);
    });
    const { mean, error } = estimate(mine, field);
    if (!Number.isFinite(mean)) return;
    const x = at(mean);
    if (Number.isFinite(error)) picture.append(svg("line", { x1: at(mean - error), x2: at(mean + error), y1: y, y2: y, class: "mean" }));
    picture.append(svg("path", { d: `M${x - 4} ${y}L${x} ${y - 4}L${x + 4} ${y}L${x} ${y + 4}Z`, class: "mean" }));
  });
  return picture;
}

function listenToTables() {
  for (const select of document.querySelectorAll("[data-filter]")) {
    const values = unique(head.rows.map((row) => row[select.dataset.filter])).sort();
    fill(select, [["all", "all"], ...values.map((value) => [`=${value}`, value || "unknown"])], "all");
    select.parentElement.hidden = values.length < 2;
    select.addEventListener("change", showResults);
  }
  $("find").addEventListener("input", showResults);
}
