// The panes: one canvas for each method, all with the same slice, window, zoom and overlay.

const MISS = [255, 48, 32]; // colour of the pixels outside the interval
const state = {
  volume: 0, slice: 0, mode: "side", a: -1, b: 0, second: false, hidden: new Set(), overlay: "none", opacity: 1,
  low: 0, high: 1, shown: 1, zoom: 1, x: 0.5, y: 0.5,
};
const native = document.createElement("canvas").getContext("2d");
let panes = [];
let asked = 0;
let painted = 0;
let playing = 0;

const about = () => head.volumes[state.volume];
const nameOf = (method) => (method < 0 ? "target" : about().methods[method]);
const allMethods = () => [...(about().targets ? [-1] : []), ...about().methods.keys()];

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

// Go to a volume; window, zoom and colour scale start anew, for their units are its own.
function openVolume(volume) {
  const before = head.volumes[state.volume].methods;
  const chosen = (method) => (method < 0 ? "" : before[method]);
  const [hidden, a, b] = [new Set([...state.hidden].map(chosen)), chosen(state.a), chosen(state.b)];
  state.volume = volume;
  const names = about().methods;
  const again = (name, other) => (name === "" && about().targets ? -1 : Math.max(names.indexOf(name), other));
  state.hidden = new Set(allMethods().filter((method) => hidden.has(method < 0 ? "" : names[method])));
  if (state.hidden.size === allMethods().length) state.hidden.clear();
  [state.a, state.b] = [again(a, 0), again(b, 0)];
  if (state.a === state.b) [state.a, state.b] = [allMethods()[0], allMethods().at(-1)];
  if (allMethods().length < 2) state.mode = "side";
  state.slice = Math.floor(about().slices.length / 2);
  resetView();
  state.shown = about().errorShown;
  layOut();
}

function resetView() {
  Object.assign(state, { low: 0, high: about().grey, zoom: 1, x: 0.5, y: 0.5 });
}

// Make the panes anew; called when their number changes.
function layOut() {
  const single = state.mode === "flicker";
  const methods = single ? [null] : allMethods().filter((method) => !state.hidden.has(method));
  const [h, w] = about().shape;
  panes = methods.map((method) => {
    const [figure, canvas, caption] = ["figure", "canvas", "figcaption"].map((tag) => element(tag));
    canvas.style.aspectRatio = `${w} / ${h}`;
    canvas.style.width = `min(100%, ${(66 * w) / h}vh)`; // the whole image and its caption are in sight
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    figure.append(canvas, caption);
    return { method, figure, canvas, caption };
  });
  $("panes").replaceChildren(...panes.map((pane) => pane.figure));
  showMethods();
  arrange();
  update();
}

function arrange() {
  const width = $("panes").clientWidth;
  const most = Math.max(Math.min(panes.length, Math.floor(width / (width < 600 ? 140 : 210))), 1);
  const columns = Math.ceil(panes.length / Math.ceil(panes.length / most)); // rows of equal length
  $("panes").style.setProperty("--columns", columns);
}

const methodOf = (pane) => pane.method ?? (state.second ? state.b : state.a);
const kindsOf = (method) => (method < 0 || state.overlay === "none" ? ["image"] : ["image", state.overlay]);

// Draw what the state says. A slice that was asked for later is never covered by an earlier one.
async function update() {
  const turn = ++asked;
  const { volume, slice } = state;
  const wanted = panes.map((pane) => {
    const method = methodOf(pane);
    return { pane, method, maps: kindsOf(method).map((kind) => codes(volume, method, slice, kind)) };
  });
  showControls();
  const missing = wanted.flatMap(({ maps }) => maps.filter((map) => map && !map.bytes).map((map) => map.promise));
  if (missing.length) await Promise.all(missing);
  if (turn < painted || volume !== state.volume) return;
  painted = turn;
  for (const { pane, method, maps } of wanted) {
    paint(pane, maps.map((map) => map?.bytes ?? null), method);
    writeCaption(pane, method, slice, maps[1] ?? null);
  }
  document.body.dataset.painted = `${volume} ${slice} ${turn}`;
  if (turn === asked) lookAhead();
}

function lookAhead() {
  const n = about().slices.length;
  for (const step of [1, -1, 2, -2, 3, -3]) {
    const slice = state.slice + step;
    if (slice < 0 || slice >= n) continue;
    const methods = state.mode === "flicker" ? [state.a, state.b] : panes.map((pane) => pane.method);
    for (const method of methods) for (const kind of kindsOf(method)) codes(state.volume, method, slice, kind);
  }
}

function paint(pane, [image, overlay], method) {
  const { canvas } = pane;
  const [h, w] = about().shape;
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const [wide, tall] = [canvas.clientWidth, canvas.clientHeight].map((x) => Math.max(Math.round(x * ratio), 1));
  if (canvas.width !== wide || canvas.height !== tall) [canvas.width, canvas.height] = [wide, tall];
  const context = canvas.getContext("2d");
  context.fillStyle = "#000";
  context.fillRect(0, 0, wide, tall);
  if (!image) {
    context.fillStyle = "#bbb";
    context.font = `${12 * ratio}px system-ui, sans-serif`;
    context.fillText("no image of this slice", 10 * ratio, 22 * ratio);
    return;
  }
  if (native.canvas.width !== w || native.canvas.height !== h) [native.canvas.width, native.canvas.height] = [w, h];
  native.putImageData(colored(image, overlay, w, h), 0, 0);
  const { scale, left, top } = placement(canvas);
  context.imageSmoothingEnabled = scale < 8; // single pixels are seen as such
  context.imageSmoothingQuality = "high";
  context.drawImage(native.canvas, left, top, w * scale, h * scale);
  canvas.setAttribute("aria-label", `${nameOf(method)}, slice ${about().slices[state.slice]}`);
}

// Where the image lies in a canvas, in its pixels.
function placement(canvas) {
  const [h, w] = about().shape;
  const scale = Math.min(canvas.width / w, canvas.height / h) * state.zoom;
  return { scale, left: canvas.width / 2 - state.x * w * scale, top: canvas.height / 2 - state.y * h * scale };
}

function colored(image, overlay, w, h) {
  const greys = valuesOf(about().top).map((x) => 255 * Math.min(Math.max((x - state.low) / (state.high - state.low), 0), 1));
  const result = new ImageData(w, h);
  const pixels = new Uint32Array(result.data.buffer); // red is the lowest byte on every machine with a browser
  const packed = (r, g, b) => (255 << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
  const plain = Uint32Array.from(greys, (grey) => packed(grey, grey, grey) >>> 0);
  for (let i = 0; i < pixels.length; i++) pixels[i] = plain[image[i]];
  if (!overlay) return result;
  const part = state.opacity;
  if (state.overlay === "outside") {
    const marked = Uint32Array.from(greys, (grey) => packed(...MISS.map((x) => part * x + (1 - part) * grey)) >>> 0);
    for (let i = 0; i < pixels.length; i++) if (overlay[i] > 127) pixels[i] = marked[image[i]];
    return result;
  }
  const colors = Array.from(valuesOf(about().errorTop), (x) => inferno(x / state.shown).map((c) => c * part));
  const [red, green, blue] = [0, 1, 2].map((c) => Float64Array.from(colors, (color) => color[c]));
  const rest = greys.map((grey) => (1 - part) * grey);
  for (let i = 0; i < pixels.length; i++) {
    const under = rest[image[i]];
    const code = overlay[i];
    pixels[i] = packed(red[code] + under, green[code] + under, blue[code] + under);
  }
  return result;
}

function writeCaption(pane, method, slice, overlay) {
  const volume = about();
  const name = state.mode === "flicker" ? `${state.second ? "B" : "A"}: ${nameOf(method)}` : nameOf(method);
  const notes = [];
  if (method >= 0) {
    const row = head.rows.find((r) => r.group === volume.group && r.volume === volume.name && r.method === nameOf(method));
    const psnr = number(volume.psnr[method][slice]);
    if (!Number.isNaN(psnr)) notes.push(`slice: PSNR\u00a0${digits(psnr, 2)}\u00a0dB`);
    if (row) {
      const inside = number(row.ssim_foreground); // results of older versions lack it
      const [word, ssim] = Number.isNaN(inside) ? ["SSIM", number(row.ssim)] : ["SSIM\u00a0fg", inside];
      notes.push(`volume: PSNR\u00a0${digits(number(row.psnr), 2)}\u00a0dB, ${word}\u00a0${digits(ssim, 4)}`);
    }
    const missed = number(volume.missed[method][slice]);
    if (!Number.isNaN(missed)) notes.push(`${digits(100 * missed, 1)} % outside ${volume.intervals[method]}`);
    if (state.overlay !== "none" && !overlay) notes.push(`no ${WORDS[state.overlay]} here`);
  }
  pane.caption.replaceChildren(element("b", name), element("span", notes.join(" · ")));
}

const WORDS = { error: "error: no target", half: "predicted interval", outside: "interval with a target" };

function digits(x, places) {
  return Number.isNaN(x) ? "–" : Number.isFinite(x) ? x.toFixed(places) : "∞";
}
