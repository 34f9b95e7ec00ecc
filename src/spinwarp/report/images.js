"use strict";
// What the page holds: a head, and the images of each volume, which are read when they are needed.

const $ = (id) => document.getElementById(id);
const head = JSON.parse($("head").textContent);
const number = (x) => (x === null || x === undefined ? NaN : x === "inf" ? Infinity : x === "-inf" ? -Infinity : x);
const opened = new Map();
const decoded = new Map(); // from key to codes, the latest last
const MOST = 192e6; // bytes of decoded images in memory
let held = 0;
const scratch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function imagesOf(volume) {
  if (!opened.has(volume)) {
    const element = $(`volume-${volume}`);
    opened.set(volume, JSON.parse(element.textContent));
    element.remove(); // its text is kept once
  }
  return opened.get(volume);
}

// The codes of one map (image, error, half, outside) of a slice, a byte a pixel; null if there is none. Method -1 is
// the target.
function codes(volume, method, slice, kind) {
  const images = imagesOf(volume);
  const uri = method < 0 ? (kind === "image" ? images.target[slice] : null) : images.methods[method][slice]?.[kind];
  if (!uri) return null;
  const key = `${volume} ${method} ${slice} ${kind}`;
  let found = decoded.get(key);
  if (found) decoded.delete(key);
  else {
    found = { bytes: null, promise: decode(uri) };
    const size = head.volumes[volume].shape[0] * head.volumes[volume].shape[1];
    held += size;
    found.size = size;
    found.promise.then((bytes) => (found.bytes = bytes));
  }
  decoded.set(key, found);
  for (const [old, entry] of decoded) {
    if (held <= MOST) break;
    decoded.delete(old);
    held -= entry.size;
  }
  return found;
}

async function decode(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const { width, height } = image;
  scratch.canvas.width = width;
  scratch.canvas.height = height;
  scratch.drawImage(image, 0, 0);
  const rgba = scratch.getImageData(0, 0, width, height).data;
  const bytes = new Uint8Array(width * height);
  for (let i = 0; i < bytes.length; i++) bytes[i] = rgba[4 * i];
  return bytes;
}

// The value that each code stands for.
function valuesOf(top) {
  return Float64Array.from({ length: 256 }, (_, code) => top * (code / 255) ** (1 / head.gamma));
}

// Matplotlib's inferno, from ten of its colours.
const INFERNO = ["#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d",
  "#fcffa4"];

function inferno(share) {
  const place = Math.min(Math.max(share, 0), 1) * (INFERNO.length - 1);
  const i = Math.min(Math.floor(place), INFERNO.length - 2);
  const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [low, high] = [parts(INFERNO[i]), parts(INFERNO[i + 1])];
  return low.map((x, c) => x + (place - i) * (high[c] - x));
}
