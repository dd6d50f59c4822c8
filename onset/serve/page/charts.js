// Drawings: the engine's time line, and bars of seconds. Plain functions over SVG elements.
'use strict';

const shape = (name, attributes) => {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

const milliseconds = (seconds) => seconds >= 1 ? `${seconds.toFixed(2)} s` : `${(seconds * 1000).toFixed(seconds < 0.01 ? 1 : 0)} ms`;

// One column for each step, as wide as it took, against the time at which it ran. Each prompt chunk is a block, and so are the answers
// together; heights are square roots, so that one answer is seen beside a chunk of a thousand tokens.
function drawLine(svg, steps, windowSeconds) {
  const { width, height } = svg.viewBox.baseVal;
  const end = steps.length ? steps[steps.length - 1].at : 0;
  const unit = height / Math.sqrt(2048);
  const drawn = [];
  for (const step of steps) {
    const left = width * (1 - (end - step.at + step.seconds) / windowSeconds);
    const wide = Math.max(1, width * step.seconds / windowSeconds - 0.5);
    if (left + wide < 0) continue;
    let top = height;
    const block = (rows, kind) => {
      const tall = Math.min(top, Math.max(2, unit * Math.sqrt(rows)));
      top -= tall;
      drawn.push(shape('rect', { x: left, y: top, width: wide, height: Math.max(1, tall - 0.5), class: kind }));
    };
    if (step.answers) block(step.answers, 'answer');
    for (const rows of step.prompts) block(rows, 'prompt');
  }
  svg.replaceChildren(...drawn);
  const last = steps[steps.length - 1];
  if (last) svg.setAttribute('aria-label', `${drawn.length} blocks; the last step took ${milliseconds(last.seconds)}`);
}

// Bars from left to right, the latest at the right end.
function drawBars(svg, values, kind, most) {
  const { width, height } = svg.viewBox.baseVal;
  const shown = values.slice(-most);
  const largest = Math.max(...shown, 1e-6);
  const each = width / Math.max(shown.length, 24);
  svg.replaceChildren(...shown.map((value, i) => shape('rect', {
    x: i * each, y: height - Math.max(1, (height - 6) * value / largest), width: Math.max(0.5, each - 1), height: Math.max(1, (height - 6) * value / largest), class: kind,
  })));
}

const quantile = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))];
