"use strict";
// Redraws the charts from the points beside them: curves hidden and shown, a logarithmic axis,
// values under the pointer. Pictures of many steps get a slider.

const WIDTH = 360, HEIGHT = 210, LEFT = 50, RIGHT = 8, TOP = 8, BOTTOM = 24;

function shown(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e6 || size < 1e-3)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function evenTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    ticks.push(Number((i * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks(low, high) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.ceil((last - first) / 5), factors = last - first > 2 ? [1] : [1, 2, 5];
  const ticks = [];
  for (let power = first; power <= last; power += every) {
    ticks.push(...factors.map((factor) => Number((factor * 10 ** power).toPrecision(6))));
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  return inside.length > 1 ? inside : evenTicks(low, high, 4);
}

function nearest(line, x) {
  let best = 0;
  line.x.forEach((at, i) => {
    if (line.y[i] !== null && (line.y[best] === null ||
        Math.abs(at - x) < Math.abs(line.x[best] - x))) best = i;
  });
  return best;
}

class Chart {
  constructor(figure) {
    this.data = JSON.parse(figure.querySelector("script").textContent);
    this.svg = figure.querySelector("svg");
    this.buttons = [...figure.querySelectorAll(".legend button")];
    this.readout = figure.querySelector(".at");
    this.scale = figure.querySelector("button.scale");
    this.hidden = this.data.lines.map(() => false);
    this.isLog = false;
    this.cursor = null;
    this.buttons.forEach((button, i) => {
      button.disabled = false;
      button.onclick = () => this.hide(i, !this.hidden[i]);
    });
    this.scale.hidden = !this.data.lines.some((line) => line.y.some((y) => y > 0));
    this.scale.onclick = () => {
      this.isLog = !this.isLog;
      this.scale.setAttribute("aria-pressed", this.isLog);
      this.draw();
    };
    this.svg.onpointermove = (event) => this.point(event);
    this.svg.onpointerleave = () => { this.cursor = null; this.draw(); };
    this.draw();
  }

  hide(i, isHidden) {
    this.hidden[i] = isHidden;
    this.buttons[i].setAttribute("aria-pressed", !isHidden);
    this.draw();
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const across = (event.clientX - box.left) / box.width * WIDTH;
    const [low, high] = this.xRange;
    const x = low + (across - LEFT) / (WIDTH - LEFT - RIGHT) * (high - low);
    const first = this.data.lines.find((_, i) => !this.hidden[i]);
    if (first === undefined) return;
    this.cursor = first.x[nearest(first, x)];
    this.draw();
  }

  drawn(value) { return value !== null && (!this.isLog || value > 0); }

  ranges() {
    const lines = this.data.lines.filter((_, i) => !this.hidden[i]);
    const ys = lines.flatMap((line) => line.y.filter((y) => this.drawn(y)));
    const xs = this.data.lines.flatMap((line) => line.x);
    let low = ys.reduce((a, b) => Math.min(a, b), Infinity);
    let high = ys.reduce((a, b) => Math.max(a, b), -Infinity);
    if (low > high) [low, high] = this.isLog ? [1, 10] : [0, 1];
    if (low === high) {
      [low, high] = this.isLog ? [low / 2, low * 2]
        : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
    } else if (this.isLog) {
      const margin = (high / low) ** 0.04;
      [low, high] = [low / margin, high * margin];
    } else {
      const margin = (high - low) * 0.04;
      [low, high] = [low - margin, high + margin];
    }
    const left = xs.reduce((a, b) => Math.min(a, b), Infinity);
    const right = xs.reduce((a, b) => Math.max(a, b), -Infinity);
    return [[left, right > left ? right : left + 1], [low, high]];
  }

  draw() {
    const [xRange, yRange] = this.ranges();
    this.xRange = xRange;
    const f = this.isLog ? Math.log : (y) => y;
    const across = (x) => (LEFT + (x - xRange[0]) / (xRange[1] - xRange[0])
      * (WIDTH - LEFT - RIGHT)).toFixed(1);
    const down = (y) => (HEIGHT - BOTTOM - (f(y) - f(yRange[0])) / (f(yRange[1]) - f(yRange[0]))
      * (HEIGHT - TOP - BOTTOM)).toFixed(1);
    const parts = [];
    for (const y of this.isLog ? logTicks(...yRange) : evenTicks(...yRange, 5)) {
      parts.push(`<path class="grid" d="M${LEFT} ${down(y)}H${WIDTH - RIGHT}"/>`,
        `<text x="${LEFT - 5}" y="${Number(down(y)) + 4}" text-anchor="end">${shown(y)}</text>`);
    }
    for (const x of evenTicks(...xRange, 5)) {
      const place = across(x) > WIDTH - 30 ? "end" : "middle";
      parts.push(`<text x="${place === "end" ? WIDTH - RIGHT : across(x)}" y="${HEIGHT - 6}"`
        + ` text-anchor="${place}">${x.toLocaleString("en")}</text>`);
    }
    if (this.cursor !== null) {
      parts.push(`<path class="cursor" d="M${across(this.cursor)} ${TOP}V${HEIGHT - BOTTOM}"/>`);
    }
    this.data.lines.forEach((line, i) => {
      if (!this.hidden[i]) {
        parts.push(`<path style="stroke:${line.color}" d="${this.path(line, across, down)}"/>`);
      }
      const at = this.cursor === null ? line.y.findLastIndex((y) => y !== null)
        : nearest(line, this.cursor);
      this.buttons[i].querySelector("output").textContent = shown(line.y[at]);
    });
    this.readout.textContent = this.cursor === null ? ""
      : `step ${this.cursor.toLocaleString("en")}`;
    this.svg.innerHTML = parts.join("");
  }

  path(line, across, down) {
    // A rate holds over the stretch that it is the mean of; other values are of their steps.
    let text = "", isOpen = false;
    line.y.forEach((y, i) => {
      if (!this.drawn(y)) { isOpen = false; return; }
      const x = across(line.x[i]);
      if (this.data.isRate) {
        text += `${isOpen ? "V" : `M${across(line.x[Math.max(i - 1, 0)])} `}${down(y)}H${x}`;
      } else {
        text += `${isOpen ? "L" : "M"}${x} ${down(y)}${isOpen ? "" : "h0"}`;
      }
      isOpen = true;
    });
    return text;
  }
}

const charts = [...document.querySelectorAll(".chart")].map((figure) => new Chart(figure));

for (const button of document.querySelectorAll(".everywhere button")) {
  button.disabled = false;
  button.onclick = () => {
    const isHidden = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", !isHidden);
    for (const chart of charts) {
      chart.data.lines.forEach((line, i) => {
        if (line.name === button.dataset.name) chart.hide(i, isHidden);
      });
    }
  };
}

for (const figure of document.querySelectorAll(".slides-of")) {
  const frames = [...figure.querySelectorAll(".strip > div")];
  if (frames.length < 2) continue;
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: frames.length - 1 });
  slider.setAttribute("aria-label", "step");
  const show = () => {
    frames.forEach((frame, i) => frame.classList.toggle("shown", i === Number(slider.value)));
    slider.setAttribute("aria-valuetext", frames[slider.value].querySelector("span").textContent);
  };
  slider.value = frames.length - 1;
  slider.oninput = show;
  figure.querySelector(".strip").before(slider);
  figure.classList.add("slides");
  show();
}
