// The page: a conversation whose answers are streamed, and what the engine does meanwhile.
'use strict';

const part = (id) => document.getElementById(id);
const conversation = [];
const firsts = [];        // seconds to the first token of each answer
let steps = [];           // of the chosen model
let stopper = null;       // ends the answer that is being read
const windowSeconds = 10;

const headers = (more = {}) => part('key').value ? { ...more, Authorization: `Bearer ${part('key').value}` } : more;

function say(text, bad = false) {
  part('state').textContent = text;
  part('state').classList.toggle('bad', bad);
}

async function loadModels() {
  const answer = await fetch('v1/models', { headers: headers() });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const chosen = part('model').value;
  const options = (await answer.json()).data.map((model) => new Option(model.id, model.id));
  part('model').replaceChildren(...options);
  if (options.some((option) => option.value === chosen)) part('model').value = chosen;
}

function addMessage(role, text) {
  const element = document.createElement('div');
  element.className = `message ${role}`;
  element.textContent = text;
  part('messages').append(element);
  element.scrollIntoView({ block: 'end' });
  return element;
}

// The events of a stream, each the text after "data: ".
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = '';
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    for (let end; (end = waiting.indexOf('\n\n')) >= 0; waiting = waiting.slice(end + 2)) {
      if (waiting.startsWith('data: ')) yield waiting.slice(6, end);
    }
  }
}

async function readAnswer(element) {
  const began = performance.now();
  const gaps = [];
  let last = 0, text = '', finish = null;
  stopper = new AbortController();
  const answer = await fetch('v1/chat/completions', {
    method: 'POST', signal: stopper.signal, headers: headers({ 'Content-Type': 'application/json' }),
    body: JSON.stringify({ model: part('model').value, messages: conversation, stream: true,
      temperature: Number(part('temperature').value), max_completion_tokens: Number(part('most').value) }),
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  for await (const event of events(answer.body)) {
    if (event === '[DONE]') break;
    const chunk = JSON.parse(event);
    if (chunk.error) throw new Error(chunk.error.message);
    const choice = chunk.choices[0];
    if (choice.finish_reason) finish = choice.finish_reason;
    if (!choice.delta.content) continue;
    const now = performance.now();
    if (last) gaps.push((now - last) / 1000); else firsts.push((now - began) / 1000);
    last = now;
    text += choice.delta.content;
    element.textContent = text;
    part('messages').scrollTop = part('messages').scrollHeight;
    showTimes(gaps);
  }
  return { text, finish };
}

function showTimes(gaps) {
  drawBars(part('first'), firsts, 'prompt', 48);
  part('firsttext').textContent = `Last ${milliseconds(firsts[firsts.length - 1])}, median ${milliseconds(quantile(firsts, 0.5))}.`;
  part('first').setAttribute('aria-label', part('firsttext').textContent);
  if (!gaps.length) return;
  drawBars(part('between'), gaps, 'answer', 240);
  part('betweentext').textContent = `Median ${milliseconds(quantile(gaps, 0.5))}, 99th percentile ${milliseconds(quantile(gaps, 0.99))}, worst ${milliseconds(Math.max(...gaps))}.`;
  part('between').setAttribute('aria-label', part('betweentext').textContent);
}

async function send(event) {
  event.preventDefault();
  const text = part('text').value.trim();
  if (!text || stopper) return;
  part('text').value = '';
  conversation.push({ role: 'user', content: text });
  addMessage('user', text);
  const element = addMessage('assistant', '…');
  part('send').disabled = true;
  part('stop').disabled = false;
  try {
    const { text: said, finish } = await readAnswer(element);
    conversation.push({ role: 'assistant', content: said });
    if (!said) element.textContent = '';
    if (finish === 'length') note(element, 'Stopped at the most tokens allowed.');
    say('');
  } catch (problem) {
    if (problem.name === 'AbortError') {
      conversation.push({ role: 'assistant', content: element.textContent });
      note(element, 'Stopped.');
    } else {
      conversation.pop();
      element.classList.add('error');
      element.textContent = problem.message;
    }
  }
  stopper = null;
  part('send').disabled = false;
  part('stop').disabled = true;
  part('text').focus();
}

function note(element, text) {
  const small = document.createElement('small');
  small.textContent = text;
  element.append(small);
}

// Asks for the steps since the last one, four times a second while the page is seen.
async function follow() {
  if (!document.hidden && part('model').value) {
    try {
      const after = steps.length ? steps[steps.length - 1].number : 0;
      const answer = await fetch(`onset/steps?model=${encodeURIComponent(part('model').value)}&after=${after}`, { headers: headers() });
      if (!answer.ok) throw new Error((await answer.json()).error.message);
      showSteps(await answer.json());
      if (part('state').classList.contains('bad')) say('');
    } catch (problem) {
      say(problem instanceof TypeError ? 'The server does not answer.' : problem.message, true);
    }
  }
  setTimeout(follow, 250);
}

function showSteps({ pages, steps: more }) {
  if (!more.length) return;
  steps = steps.concat(more);
  const last = steps[steps.length - 1];
  steps = steps.filter((step) => step.at > last.at - windowSeconds).slice(-2000);
  drawLine(part('line'), steps, windowSeconds);
  const rows = last.prompts.reduce((sum, count) => sum + count, 0);
  part('step').textContent = `Step ${last.number}: ${milliseconds(last.seconds)}, ${rows} prompt tokens, ${last.answers} answers; ${last.running} running, ${last.waiting} waiting.`;
  part('pool').value = pages ? last.pages_used / pages : 0;
  part('pooltext').textContent = `${last.pages_used} of ${pages} pages after that step.`;
}

part('form').addEventListener('submit', send);
part('text').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) part('form').requestSubmit();
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) event.preventDefault();
});
part('stop').addEventListener('click', () => stopper?.abort());
document.addEventListener('keydown', (event) => { if (event.key === 'Escape') stopper?.abort(); });
part('clear').addEventListener('click', () => {
  stopper?.abort();
  conversation.length = 0;
  part('messages').replaceChildren();
  part('text').focus();
});
part('model').addEventListener('change', () => { steps = []; });
part('key').addEventListener('change', () => loadModels().catch((problem) => say(problem.message, true)));

loadModels().then(() => say('')).catch((problem) => say(problem.message, true));
follow();
part('text').focus();
