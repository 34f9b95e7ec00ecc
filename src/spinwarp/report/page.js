// The head of the page, its theme, data and protocol; then everything starts.

function changeTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
}

const range = (values, places) => {
  const [low, high] = [Math.min(...values), Math.max(...values)].map((x) => x.toFixed(places));
  return low === high ? low : `${low} to ${high}`;
};

function counted(rows, field) {
  const counts = new Map();
  for (const row of rows) counts.set(row[field], (counts.get(row[field]) ?? new Set()).add(row.volume));
  return [...counts].map(([value, volumes]) => `${value || "unknown"} (${volumes.size})`).join(", ");
}

function protocolOf(group) {
  const rows = head.rows.filter((row) => row.group === group);
  const [first] = rows;
  const volumes = [...new Map(rows.map((row) => [row.volume, row])).values()];
  const slices = volumes.reduce((sum, row) => sum + row.n_slices, 0);
  const nominal = number(first.acceleration_nominal);
  const facts = [
    ["data", `${first.dataset}, split ${first.split}${first.selection ? ` (${first.selection})` : ""}`],
    ["volumes", `${volumes.length}, with ${slices} slice${slices === 1 ? "" : "s"}`],
    ["provenance", counted(rows, "provenance")],
    ["contrast", counted(rows, "contrast")],
    ["mask", first.mask === "none" ? "none, as measured" : first.mask],
    ["acceleration", `${Number.isNaN(nominal) ? "" : `nominal ${nominal}, `}realised ${range(measured(rows, "acceleration"), 2)}`],
    ["target", unique(rows.map((row) => row.target_type)).join(", ")],
    ["size judged", unique(rows.map((row) => row.crop)).join(", ")],
    ...unique(rows.map((row) => row.method)).map((method) => {
      const mine = rows.filter((row) => row.method === method);
      const versions = unique(mine.map((row) => row.version)).join(", ");
      return [method, `${range(measured(mine, "seconds_per_slice"), 3)} s per slice, spinwarp ${versions}`];
    }),
  ];
  const list = element("dl");
  for (const [name, value] of facts) list.append(element("dt", name), element("dd", value));
  return [element("h3", group), list];
}

function start() {
  document.title = `${head.title} – spinwarp report`;
  $("title").textContent = head.title;
  $("made").textContent = `made by spinwarp ${head.version}`;
  $("warnings").replaceChildren(...head.warnings.map((text) => element("li", text)));
  $("encoding").textContent = head.encoding;
  $("theme").addEventListener("click", changeTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("viewer").hidden = !head.volumes.length;
  $("no-images").hidden = head.volumes.length > 0;
  $("results").hidden = $("measures").hidden = !head.rows.length;
  $("groups").replaceChildren(...(head.rows.length
    ? unique(head.rows.map((row) => row.group)).flatMap(protocolOf)
    : unique(head.volumes.map((volume) => volume.group)).map((group) => element("p",
      `${group}. There is no reference image, so no error is known and nothing is measured.`))));
  listenToKeys();
  listenToTables();
  showResults();
  if (!head.volumes.length) return;
  const groups = unique(head.volumes.map((volume) => volume.group));
  const nameIn = (volume) => (groups.length > 1 ? `${volume.name} (${volume.group})` : volume.name);
  fill($("volume"), head.volumes.map((volume, i) => [i, nameIn(volume)]), 0);
  listenToControls();
  openVolume(0);
}

start();
