// Mouse, fingers, keys and the bars of controls.

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
let frame = 0;
let byMouse = false;

// Draw at the next frame: a mouse moves more often than a screen shows.
function soon() {
  if (!frame) frame = requestAnimationFrame(() => { frame = 0; update(); });
}

function goTo(slice) {
  state.slice = clamp(slice, 0, about().slices.length - 1);
  soon();
}

function setWindow(level, width) {
  const wide = clamp(width, about().top / 500, 2 * about().top);
  const middle = clamp(level, 0, about().top);
  [state.low, state.high] = [middle - wide / 2, middle + wide / 2];
  soon();
}

function changeWindow(wider, higher) {
  const [level, width] = [(state.low + state.high) / 2, state.high - state.low];
  setWindow(level + higher * about().grey, width * Math.exp(wider));
}

// Zoom about a point, given as a fraction of the image, which stays where it is.
function zoomAt(factor, x = state.x, y = state.y) {
  const zoom = clamp(state.zoom * factor, 1, 40);
  const part = 1 - state.zoom / zoom;
  [state.x, state.y] = [state.x + (x - state.x) * part, state.y + (y - state.y) * part];
  state.zoom = zoom;
  keepInside();
  soon();
}

function keepInside() {
  const edge = 0.5 / state.zoom;
  [state.x, state.y] = [clamp(state.x, edge, 1 - edge), clamp(state.y, edge, 1 - edge)];
}

// The fraction of the image under the mouse.
function pointOf(event) {
  const canvas = event.target;
  const box = canvas.getBoundingClientRect();
  const { scale, left, top } = placement(canvas);
  const [h, w] = about().shape;
  const ratio = canvas.width / box.width;
  return [((event.clientX - box.left) * ratio - left) / (w * scale), ((event.clientY - box.top) * ratio - top) / (h * scale)];
}

function setOverlay(overlay) {
  state.overlay = overlay;
  soon();
}

function setMode(mode) {
  if (allMethods().length < 2) return;
  state.mode = mode;
  play(false);
  layOut();
}

function play(on) {
  clearInterval(playing);
  playing = on && state.mode === "flicker" ? setInterval(() => { state.second = !state.second; soon(); }, 500) : 0;
  $("play").setAttribute("aria-pressed", playing !== 0);
}

const fingers = new Map();

function listenToPanes() {
  const area = $("panes");
  let turned = 0;
  area.addEventListener("wheel", (event) => {
    if (event.target.tagName !== "CANVAS") return;
    event.preventDefault();
    if (event.ctrlKey) return zoomAt(Math.exp(-event.deltaY / 300), ...pointOf(event));
    turned += event.deltaMode ? 40 * event.deltaY : event.deltaY;
    const steps = Math.trunc(turned / 40);
    turned -= 40 * steps;
    if (steps) goTo(state.slice + clamp(steps, -3, 3));
  }, { passive: false });
  area.addEventListener("pointerdown", (event) => {
    if (event.target.tagName !== "CANVAS") return;
    event.target.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, (event) => fingers.delete(event.pointerId));
  area.addEventListener("pointermove", (event) => {
    if (event.target.tagName !== "CANVAS") return;
    readOut(event);
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (fingers.size > 1) {
      const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
      const apart = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY);
      zoomAt(apart(event) / Math.max(apart(before), 1), ...pointOf(event));
      move(event.target, dx / 2, dy / 2);
    } else if (event.shiftKey || event.buttons & 6) move(event.target, dx, dy);
    else changeWindow(dx / 150, dy / 300);
    fingers.set(event.pointerId, event);
  });
  area.addEventListener("pointerleave", () => ($("readout").textContent = ""));
  area.addEventListener("contextmenu", (event) => event.preventDefault());
  area.addEventListener("dblclick", () => { resetView(); soon(); });
}

function move(canvas, dx, dy) {
  const { scale } = placement(canvas);
  const ratio = canvas.width / canvas.clientWidth;
  const [h, w] = about().shape;
  state.x -= (dx * ratio) / (w * scale);
  state.y -= (dy * ratio) / (h * scale);
  keepInside();
  soon();
}

const percent = (x) => `${(100 * x / about().unit).toPrecision(3)} %`;

function readOut(event) {
  const [h, w] = about().shape;
  const [x, y] = pointOf(event);
  const [column, row] = [Math.floor(x * w), Math.floor(y * h)];
  if (column < 0 || row < 0 || column >= w || row >= h) return;
  const pane = panes.find((p) => p.canvas === event.target);
  const at = (kind, top) => {
    const bytes = codes(state.volume, methodOf(pane), state.slice, kind)?.bytes;
    if (!bytes) return null;
    const code = bytes[row * w + column];
    return (code === 255 ? "at least " : "") + percent(valuesOf(top)[code]); // larger values are stored as the largest
  };
  const parts = [`row ${row}, column ${column}`, `${nameOf(methodOf(pane))} ${at("image", about().top) ?? "–"}`];
  for (const [kind, word] of [["error", "error"], ["half", "half width"]]) {
    const value = state.overlay === kind ? at(kind, about().errorTop) : null;
    if (value) parts.push(`${word} ${value}`);
  }
  $("readout").textContent = parts.join(" · ");
}

const OVERLAYS = ["none", "error", "half", "outside"];
const KEYS = {
  ArrowLeft: () => goTo(state.slice - 1), ArrowRight: () => goTo(state.slice + 1),
  ArrowUp: () => goTo(state.slice - 1), ArrowDown: () => goTo(state.slice + 1),
  Home: () => goTo(0), End: () => goTo(about().slices.length - 1),
  n: () => openVolume(Math.min(state.volume + 1, head.volumes.length - 1)),
  b: () => openVolume(Math.max(state.volume - 1, 0)),
  o: () => setOverlay(OVERLAYS[(OVERLAYS.indexOf(state.overlay) + 1) % OVERLAYS.length]),
  e: () => setOverlay(state.overlay === "error" ? "none" : "error"),
  u: () => setOverlay(state.overlay === "half" ? "none" : "half"),
  x: () => setOverlay(state.overlay === "outside" ? "none" : "outside"),
  f: () => setMode(state.mode === "side" ? "flicker" : "side"),
  " ": () => swap(), p: () => play(!playing),
  a: () => changeWindow(-0.1, 0), d: () => changeWindow(0.1, 0),
  s: () => changeWindow(0, -0.03), w: () => changeWindow(0, 0.03),
  "+": () => zoomAt(1.25), "=": () => zoomAt(1.25), "-": () => zoomAt(0.8),
  0: () => { resetView(); soon(); },
};

function swap() {
  if (state.mode !== "flicker") return setMode("flicker");
  state.second = !state.second;
  soon();
}

function listenToKeys() {
  document.addEventListener("pointerdown", () => (byMouse = true), true);
  document.addEventListener("keydown", (event) => {
    byMouse = false;
    const typing = event.target.closest("input, select, dialog");
    const pressing = event.target.closest("button") && [" ", "Enter"].includes(event.key);
    if (event.ctrlKey || event.metaKey || event.altKey || typing || pressing) return;
    if (event.key === "t") return changeTheme();
    if (event.key === "?") return $("keys").showModal();
    if (!head.volumes.length || !Object.hasOwn(KEYS, event.key)) return;
    const { top, bottom } = $("panes").getBoundingClientRect();
    const inSight = bottom > 0 && top < innerHeight;
    if (!inSight && /^Arrow|^Home$|^End$|^ $/.test(event.key)) return; // these keys then scroll the page
    event.preventDefault();
    KEYS[event.key]();
  });
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = element("option", text);
    option.value = value;
    return option;
  }));
  select.value = chosen;
}

function listenToControls() {
  const on = (id, kind, act) => $(id).addEventListener(kind, () => {
    act($(id).value);
    if (byMouse && $(id).tagName === "SELECT") $(id).blur(); // keys then go to the images again
  });
  on("volume", "change", (value) => openVolume(Number(value)));
  on("slice", "input", (value) => goTo(Number(value)));
  on("mode", "change", setMode);
  for (const id of ["a", "b"]) on(id, "change", (value) => { state[id] = Number(value); state.second = id === "b"; soon(); });
  on("swap", "click", swap);
  on("play", "click", () => play(!playing));
  on("overlay", "change", setOverlay);
  on("opacity", "input", (value) => { state.opacity = Number(value); soon(); });
  on("scale", "input", (value) => { state.shown = about().errorShown / 2 ** Number(value); soon(); });
  on("reset", "click", () => { resetView(); soon(); });
  listenToPanes();
  let width = 0;
  new ResizeObserver(() => {
    if ($("panes").clientWidth === width) return;
    width = $("panes").clientWidth;
    arrange();
    soon();
  }).observe($("panes"));
}

// Let the controls show the state.
function showControls() {
  const volume = about();
  $("volume").value = state.volume;
  $("slice").max = volume.slices.length - 1;
  $("slice").value = state.slice;
  $("slice-name").textContent = `${volume.slices[state.slice]} (${state.slice + 1} of ${volume.slices.length})`;
  $("mode").value = state.mode;
  $("mode").disabled = allMethods().length < 2;
  $("flicker").hidden = state.mode !== "flicker";
  $("shown").hidden = state.mode === "flicker";
  $("overlay").value = state.overlay;
  const graded = ["error", "half"].includes(state.overlay);
  $("opacity-label").hidden = state.overlay === "none";
  $("scale-label").hidden = $("colors").hidden = !graded;
  $("opacity").value = state.opacity;
  $("scale").value = Math.log2(volume.errorShown / state.shown);
  $("window").textContent = `window ${percent(state.low)} to ${percent(state.high)}, zoom ${state.zoom.toFixed(1)}`;
  $("ramp").style.background = `linear-gradient(90deg, ${INFERNO.join(", ")})`;
  const kinds = unique(volume.intervals.filter((kind) => kind)).join(" or "); // such as 2 std
  const word = state.overlay === "error" ? "error" : `half width (${kinds})`;
  $("colors-name").textContent = `${word} 0 to ${percent(state.shown)}`;
}

// The methods of a volume: which are shown, and the two to flicker between.
function showMethods() {
  const options = allMethods().map((method) => [method, nameOf(method)]);
  for (const id of ["a", "b"]) fill($(id), options, state[id]);
  $("shown").replaceChildren(...allMethods().map((method) => {
    const [label, box] = [element("label"), element("input")];
    box.type = "checkbox";
    box.checked = !state.hidden.has(method);
    box.addEventListener("change", () => {
      state.hidden[box.checked ? "delete" : "add"](method);
      if (state.hidden.size === allMethods().length) state.hidden.delete(method);
      layOut();
    });
    label.append(box, nameOf(method));
    return label;
  }));
}
