// A picture with a mask painted over it. The mask is the alpha channel of a canvas on top.

import { h } from "./dom.js";

const MOST_PIXELS = 64e6; // limit of a browser's canvas; the worker has its own limit
const MOST_UNDOS = 12;

/** The pixels of a picture file, on white where it is transparent. */
export async function fileToCanvas(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name} is not a picture that this browser can read.`);
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Error(`${file.name} is too large.`);
  const canvas = h("canvas", { width: bitmap.width, height: bitmap.height });
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0);
  return canvas;
}

/** A banner with a headline, and the mask of its letters. */
export function sample() {
  const picture = h("canvas", { width: 720, height: 420 });
  const mask = h("canvas", { width: 720, height: 420 });
  const pen = picture.getContext("2d");
  const sky = pen.createLinearGradient(0, 0, 720, 420);
  for (const [stop, shade] of [
    [0, "#20456f"],
    [0.5, "#6f8fb5"],
    [1, "#f0c9a0"],
  ])
    sky.addColorStop(stop, shade);
  pen.fillStyle = sky;
  pen.fillRect(0, 0, 720, 420);
  for (let hill = 0; hill < 4; hill += 1) {
    pen.fillStyle = ["#3d5a73", "#2f4a5c", "#243a46", "#182a31"][hill];
    pen.beginPath();
    pen.moveTo(0, 420);
    for (let x = 0; x <= 720; x += 8)
      pen.lineTo(
        x,
        250 +
          42 * hill +
          26 * Math.sin(x / (70 + 22 * hill) + 2 * hill) +
          10 * Math.sin(x / 23 + hill),
      );
    pen.lineTo(720, 420);
    pen.fill();
  }
  const brush = mask.getContext("2d");
  const lines = [
    ["SUMMER SALE", 150, 84],
    ["everything must go", 225, 38],
  ];
  for (const [text, y, size] of lines) {
    for (const one of [pen, brush]) {
      one.font = `700 ${size}px system-ui, sans-serif`;
      one.textAlign = "center";
      one.fillStyle = one.strokeStyle = "#fff";
      one.lineJoin = "round";
      one.lineWidth = 10;
      one.fillText(text, 360, y);
    }
    brush.strokeText(text, 360, y);
  }
  return { picture, mask };
}

export class Easel {
  constructor(picture, mask = null) {
    this.picture = picture;
    this.unpainting = false;
    this.brush = Math.round(
      Math.min(120, Math.max(12, Math.min(picture.width, picture.height) / 14)),
    );
    this.layer = h("canvas", { className: "mask", width: picture.width, height: picture.height });
    this.pen = this.layer.getContext("2d", { willReadFrequently: true });
    this.undos = [];
    this.element = h("div", { className: "easel" }, picture, this.layer);
    this.colour = getComputedStyle(document.documentElement).getPropertyValue("--hole").trim();
    if (mask) this.paste(mask);
    this.layer.addEventListener("pointerdown", (event) => this.down(event));
    this.layer.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"])
      this.layer.addEventListener(end, () => {
        this.last = null;
      });
  }

  /** Uses a mask file; pixels that are not black are the hole. */
  take(mask) {
    if (mask.width !== this.picture.width || mask.height !== this.picture.height) {
      throw new Error(
        `The mask is ${mask.width}×${mask.height}, the picture ${this.picture.width}×${this.picture.height}: they must have the same size.`,
      );
    }
    const pixels = mask.getContext("2d").getImageData(0, 0, mask.width, mask.height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] =
        Math.max(pixels.data[i], pixels.data[i + 1], pixels.data[i + 2]) > 0 ? 255 : 0;
    }
    const holes = h("canvas", { width: mask.width, height: mask.height });
    holes.getContext("2d").putImageData(pixels, 0, 0);
    this.remember();
    this.erase();
    this.paste(holes);
  }

  /** The mask as the URL of a PNG: white holes on black. */
  mask() {
    const made = h("canvas", { width: this.layer.width, height: this.layer.height });
    const pen = made.getContext("2d");
    pen.drawImage(this.layer, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, made.width, made.height);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, made.width, made.height);
    return made.toDataURL("image/png");
  }

  isEmpty() {
    const { data } = this.pen.getImageData(0, 0, this.layer.width, this.layer.height);
    for (let i = 3; i < data.length; i += 4) if (data[i]) return false;
    return true;
  }

  clear() {
    this.remember();
    this.erase();
  }

  undo() {
    const before = this.undos.pop();
    if (before) this.pen.putImageData(before, 0, 0);
  }

  remember() {
    this.undos.push(this.pen.getImageData(0, 0, this.layer.width, this.layer.height));
    if (this.undos.length > MOST_UNDOS) this.undos.shift();
  }

  erase() {
    this.pen.clearRect(0, 0, this.layer.width, this.layer.height);
  }

  /** Draws the alpha of a canvas in the mask's colour. */
  paste(holes) {
    this.pen.save();
    this.pen.drawImage(holes, 0, 0);
    this.pen.globalCompositeOperation = "source-in";
    this.pen.fillStyle = this.colour;
    this.pen.fillRect(0, 0, this.layer.width, this.layer.height);
    this.pen.restore();
  }

  place(event) {
    const box = this.layer.getBoundingClientRect();
    const scale = this.layer.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  down(event) {
    if (event.button) return;
    this.layer.setPointerCapture(event.pointerId);
    this.remember();
    this.last = this.place(event);
    this.stroke(this.last);
  }

  move(event) {
    if (!this.last) return;
    const here = this.place(event);
    this.stroke(here);
    this.last = here;
  }

  stroke({ x, y }) {
    this.pen.globalCompositeOperation = this.unpainting ? "destination-out" : "source-over";
    this.pen.strokeStyle = this.colour;
    this.pen.lineWidth = this.brush;
    this.pen.lineCap = this.pen.lineJoin = "round";
    this.pen.beginPath();
    this.pen.moveTo(this.last.x, this.last.y);
    this.pen.lineTo(x, y + 0.01); // a point alone would draw nothing
    this.pen.stroke();
    this.pen.globalCompositeOperation = "source-over";
  }
}
