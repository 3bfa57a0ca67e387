// Text of numbers, and elements made from data: nothing here ever parses text as markup.

const ABSENT = "–";
const SVG = "http://www.w3.org/2000/svg";

const exists = (value) => value !== null && value !== undefined && Number.isFinite(value);
const fixed = (decimals) => (value) =>
  exists(value) ? value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }) : ABSENT;
const whole = fixed(0);
const signed = (decimals) => (value) => (exists(value) ? (value < 0 ? "−" : "+") + fixed(decimals)(Math.abs(value)) : ABSENT);
const percent = (share) => (exists(share) ? `${Math.round(100 * share)}%` : ABSENT);

function tiny(value) {
  if (!exists(value)) return ABSENT;
  if (value === 0) return "0";
  return Math.abs(value) >= 0.001 && Math.abs(value) < 1000 ? String(Number(value.toPrecision(2))) : value.toExponential(1);
}

function duration(seconds) {
  if (!exists(seconds)) return ABSENT;
  if (seconds < 0.001) return `${(1e6 * seconds).toFixed(0)} µs`;
  if (seconds < 0.1) return `${(1000 * seconds).toFixed(0)} ms`;
  return `${seconds < 9.995 ? seconds.toFixed(2) : seconds < 99.95 ? seconds.toFixed(1) : whole(seconds)} s`;
}

function clock(seconds) {
  if (!exists(seconds)) return ABSENT;
  const total = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(total / 3600);
  const minutes = Math.floor(total / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(total % 60)}` : `${minutes}:${two(total % 60)}`;
}

const arrow = (direction) => (direction === "TrainToInfer" ? "train → infer" : "infer → train");

function make(namespace, tag, attributes, children) {
  const node = namespace ? document.createElementNS(namespace, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) node.setAttribute(name, value);
  node.append(...children);
  return node;
}
const html = (tag, attributes = {}, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes = {}, ...children) => make(SVG, tag, attributes, children);

const tip = document.getElementById("tip");

function showTip(event, title, pairs) {
  const list = html("dl");
  for (const [name, text] of pairs) list.append(html("dt", {}, name), html("dd", {}, text));
  tip.replaceChildren(html("b", {}, title), list);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 12 : event.clientX + 16;
  const top = Math.min(event.clientY + 14, innerHeight - box.height - 8);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() {
  tip.hidden = true;
}

// Calls draw(width) now and whenever the width of an element changes.
function drawToWidth(element, draw) {
  let drawn = 0;
  const redraw = () => {
    const width = Math.floor(element.getBoundingClientRect().width);
    if (width && width !== drawn) draw((drawn = width));
  };
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(element);
  redraw();
}
