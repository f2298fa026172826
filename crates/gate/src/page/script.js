'use strict';
// Whatever comes from the server becomes text of an element, never markup.
const at = id => document.getElementById(id);
const make = (name, text, kind) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const prose = (element, text) => {
  text.split('`').forEach((piece, i) => element.append(i % 2 ? make('code', piece) : piece));
  return element;
};
const fill = (element, ...children) => { element.replaceChildren(...children); return element; };
const option = (value, text) => { const o = make('option', text ?? value); o.value = value; return o; };
const row = (...cells) => { const r = make('tr'); r.append(...cells.map(c => c instanceof Node ? c : make('td', c))); return r; };
const hasOwn = (object, name) => object !== null && typeof object === 'object' && Object.hasOwn(object, name);
const dig = (value, ...names) => names.reduce((v, name) => hasOwn(v, name) ? v[name] : undefined, value);

let credential = ''; // In this page's memory only.
let models = [];
let described = {}; // The document for the chosen model.
let file = null;
let shown = null;
let turn = 0;

const trouble = text => { at('trouble').textContent = text ?? ''; at('trouble').hidden = !text; };
const ask = (path, options = {}) => {
  const headers = new Headers(options.headers);
  if (credential) headers.set('authorization', 'Bearer ' + credential);
  return fetch(path, { ...options, headers, credentials: 'omit', redirect: 'error' });
};
const complaint = async response => {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    return `${response.status}: ${dig(body, 'error', 'message') ?? body.error ?? text}`;
  } catch { return `${response.status}: ${text}`; }
};
const read = async path => {
  const response = await ask(path);
  if (!response.ok) throw new Error(await complaint(response));
  return response.json();
};

const SURFACES = [
  ['predict', 'predict: tensors', m => `/v1/models/${m}:predict`],
  ['infer', 'infer: Open Inference Protocol', m => `/v2/models/${m}/infer`],
  ['file', 'predict: a file', m => `/v1/models/${m}:predict`],
  ['content', 'predict: content in JSON', m => `/v1/models/${m}:predict`],
  ['embeddings', 'embeddings: OpenAI', () => '/v1/embeddings'],
  ['batch', 'batchPredict: several at once', m => `/v1/models/${m}:batchPredict`],
  ['explain', 'explain: what mattered', m => `/v1/models/${m}:explain`],
];
const chosen = () => models.find(m => m.name === at('model').value);
const path = () => {
  const model = encodeURIComponent(at('model').value);
  const version = at('version').value;
  const surface = at('surface').value;
  const below = version ? `${model}/versions/${encodeURIComponent(version)}` : model;
  const found = SURFACES.find(([id]) => id === surface);
  return found ? found[2](surface === 'embeddings' ? model : below) : '';
};
const bodyOf = (surface, model) => {
  const entry = SURFACES.find(([id]) => id === surface);
  return dig(described, 'paths', entry[2](model), 'post', 'requestBody', 'content');
};
const offers = (surface, model) => {
  const content = bodyOf(surface, model.name);
  if (!content) return false;
  if (surface === 'file' || surface === 'content') return Boolean(model.adapter);
  if (surface === 'embeddings') return hasOwn(dig(content, 'application/json', 'examples'), model.name);
  return true;
};
const pretty = value => {
  const text = JSON.stringify(value, null, 1) ?? '';
  // Rows of numbers on one line.
  return text.replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner) => '[' + inner.replace(/\s*\n\s*/g, ' ') + ']');
};
const exampleOf = (surface, model) => {
  const examples = dig(bodyOf(surface, model.name), 'application/json', 'examples') ?? {};
  if (surface === 'content') return examples.content?.value ?? { content: [{ type: 'text', text: '' }] };
  if (surface === 'embeddings') return examples[model.name]?.value;
  return (examples.tensors ?? examples.one ?? Object.values(examples)[0])?.value;
};

const showPorts = model => {
  const table = (title, ports) => {
    const t = make('table');
    t.append(row(...[title, 'type', 'shape', 'range', ''].map(c => make('th', c))));
    for (const p of ports ?? []) {
      const range = [p.minimum, p.maximum].some(b => b !== undefined) ? `${p.minimum ?? ''} … ${p.maximum ?? ''}` : '';
      t.append(row(make('code', p.name), p.datatype ?? '', `[${(p.shape ?? []).join(', ')}]`, range, p.description ?? ''));
    }
    return t;
  };
  const rest = Object.entries({ ...model.limits, ...Object.fromEntries(Object.entries(model.axes ?? {}).map(([k, v]) => [`axis ${k}`, `${v.min} … ${v.max ?? ''} ${v.description ?? ''}`])) });
  const limits = make('table');
  for (const [name, value] of rest) limits.append(row(name, String(value)));
  fill(at('ports'), table('input', model.inputs), table('output', model.outputs), limits);
};

const showSurface = () => {
  const byFile = at('surface').value === 'file';
  at('with-file').hidden = !byFile;
  at('with-text').hidden = byFile;
  at('example').click();
  showRequest();
};
const showModel = async () => {
  const model = chosen();
  if (!model) return;
  const mine = ++turn;
  try {
    const document = await read('/openapi.json?model=' + encodeURIComponent(model.name));
    if (mine !== turn) return;
    described = document;
    trouble();
  } catch (error) { trouble(error.message); return; }
  at('about').textContent = model.error ?? model.description ?? '';
  const names = [...(model.aliases ?? []).map(a => a.name ?? a), ...(model.versions ?? [])];
  fill(at('version'), option('', 'as the server chooses'), ...names.map(v => option(String(v))));
  const kept = at('surface').value;
  const offered = SURFACES.filter(([id]) => offers(id, model));
  fill(at('surface'), ...offered.map(([id, text]) => option(id, text)));
  if (offered.some(([id]) => id === kept)) at('surface').value = kept;
  else if (model.adapter && offered.some(([id]) => id === 'file')) at('surface').value = 'file';
  showPorts(model);
  showSurface();
};

const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`;
const prepared = () => {
  const headers = {};
  const key = at('idempotency').value.trim();
  if (key) headers['idempotency-key'] = key;
  if (at('surface').value === 'file') {
    headers['content-type'] = at('type').value.trim() || 'application/octet-stream';
    return { headers, body: file };
  }
  headers['content-type'] = 'application/json';
  return { headers, body: at('body').value };
};
const showRequest = () => {
  const { headers, body } = prepared();
  const lines = [`curl ${quoted(location.origin + path())}`];
  if (credential) lines.push('-H "Authorization: Bearer $API_KEY"');
  for (const [name, value] of Object.entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body instanceof Blob) lines.push(`--data-binary ${quoted('@' + body.name)}`);
  else if (body === null) lines.push('--data-binary @FILE');
  else if (body.length > 4000) lines.push('--data-binary @body.json   # the body above');
  else {
    let short = body;
    try { short = JSON.stringify(JSON.parse(body)); } catch { /* Sent as it stands, for the server to judge. */ }
    lines.push(`--data-binary ${quoted(short)}`);
  }
  at('request').textContent = lines.join(' \\\n  ');
};

const showLimits = headers => {
  const parse = text => Object.fromEntries([...(text ?? '').matchAll(/"([^"]*)"((?:;[a-z]+=[^,;]*)*)/g)].map(([, name, rest]) =>
    [name, Object.fromEntries([...rest.matchAll(/;([a-z]+)=([^,;]*)/g)].map(([, k, v]) => [k, v]))]));
  const policy = parse(headers.get('ratelimit-policy'));
  const now = parse(headers.get('ratelimit'));
  const names = [...new Set([...Object.keys(policy), ...Object.keys(now)])];
  at('limits-title').hidden = names.length === 0;
  fill(at('limits'), ...(names.length ? [row(...['limit', 'left', 'of', 'window', 'resets in'].map(c => make('th', c)))] : []),
    ...names.map(n => row(n, now[n]?.r ?? '', policy[n]?.q ?? '', policy[n]?.w ? policy[n].w + ' s' : '', now[n]?.t ? now[n].t + ' s' : '')));
};
const showAnswer = async (response, ms) => {
  const text = await response.text();
  const status = fill(at('status'), make('span', `${response.status} ${response.statusText}`.trim(), response.ok ? 'good' : 'bad'),
    ` in ${ms.toFixed(1)} ms, ${text.length} characters`);
  const version = response.headers.get('x-model-version');
  if (version) status.append(`, version ${version}`);
  let out = text;
  try { out = pretty(JSON.parse(text)); } catch { /* Shown as it came. */ }
  at('answer').textContent = out.length > 100000 ? out.slice(0, 100000) + '\n…' : out;
  fill(at('headers'), ...[...response.headers].map(([name, value]) => row(make('th', name), value)));
  at('headers-box').hidden = false;
  showLimits(response.headers);
};
const send = async () => {
  const { headers, body } = prepared();
  if (body === null) { at('status').textContent = 'Choose a file first.'; at('drop').focus(); return; }
  at('send').disabled = true;
  at('status').textContent = 'Waiting…';
  const began = performance.now();
  try {
    const response = await ask(path(), { method: 'POST', headers, body });
    await showAnswer(response, performance.now() - began);
  } catch (error) {
    fill(at('status'), make('span', 'No answer: ' + error.message, 'bad'));
  } finally { at('send').disabled = false; }
};

const take = chosenFile => {
  if (!chosenFile) return;
  file = chosenFile;
  at('drop-text').textContent = `${file.name}, ${file.size} bytes`;
  at('type').value = file.type || 'application/octet-stream';
  if (shown) URL.revokeObjectURL(shown);
  shown = /^image\/(png|jpeg|gif|webp)$/.test(file.type) ? URL.createObjectURL(file) : null;
  at('preview').hidden = !shown;
  if (shown) at('preview').src = shown; else at('preview').removeAttribute('src');
  showRequest();
};

const resolve = (document, part) => {
  const place = dig(part, '$ref');
  return typeof place === 'string' ? dig(document, ...place.slice(2).split('/')) ?? part : part;
};
const showOperation = (document, verb, where, operation) => {
  const box = make('details');
  const head = make('summary');
  head.append(make('span', verb.toUpperCase(), 'verb'), make('code', where), ' – ', operation.summary ?? '');
  box.append(head);
  box.addEventListener('toggle', () => {
    if (!box.open || box.children.length > 1) return;
    if (operation.description) box.append(prose(make('p'), operation.description));
    const table = make('table');
    for (const one of operation.parameters ?? []) {
      const p = resolve(document, one);
      table.append(row(make('code', p.name), p.in, p.required ? 'required' : '', prose(make('td'), p.description ?? '')));
    }
    if (table.children.length) box.append(make('h4', 'Parameters'), table);
    for (const [type, content] of Object.entries(dig(operation, 'requestBody', 'content') ?? {})) {
      box.append(make('h4', `Body, ${type}`), make('pre', pretty(resolve(document, content.schema))));
    }
    const answers = make('table');
    for (const [status, one] of Object.entries(operation.responses ?? {})) {
      const cell = make('td');
      const response = resolve(document, one);
      for (const line of (response.description ?? '').split('\n\n')) cell.append(prose(make('p'), line));
      const type = Object.keys(response.content ?? {})[0];
      if (/^2/.test(status) && type) cell.append(make('pre', pretty(resolve(document, response.content[type].schema))));
      answers.append(row(make('th', status), cell));
    }
    box.append(make('h4', 'Answers'), answers);
  });
  return box;
};
const showApi = document => {
  at('release').textContent = dig(document, 'info', 'version') ?? '';
  fill(at('intro'));
  prose(at('intro'), dig(document, 'info', 'description') ?? '');
  const groups = (document.tags ?? []).map(tag => {
    const group = make('div');
    group.append(make('h3', tag.description ?? tag.name));
    for (const [where, item] of Object.entries(document.paths ?? {})) {
      for (const [verb, operation] of Object.entries(item)) {
        // Those of one model are the general ones with its own schemas, which are shown above.
        if (operation.tags?.[0] === tag.name && !hasOwn(operation, 'x-model')) group.append(showOperation(document, verb, where, operation));
      }
    }
    return group;
  });
  fill(at('api'), ...groups);
};
const start = async () => {
  trouble();
  try {
    const kept = at('model').value;
    models = (await read('/v1/models')).models ?? [];
    fill(at('model'), ...models.map(m => option(m.name)));
    if (models.some(m => m.name === kept)) at('model').value = kept;
    if (models.length) await showModel();
    else { trouble('There is no model that these credentials may know of.'); described = await read('/openapi.json'); }
    showApi(described);
  } catch (error) { trouble(error.message + (credential ? '' : ' – an API key may help')); }
};

at('form').addEventListener('submit', event => { event.preventDefault(); send(); });
at('model').addEventListener('change', showModel);
at('version').addEventListener('change', showRequest);
at('surface').addEventListener('change', showSurface);
for (const id of ['body', 'idempotency', 'type']) at(id).addEventListener('input', showRequest);
at('example').addEventListener('click', () => {
  const model = chosen();
  const surface = at('surface').value;
  if (!model || !surface || surface === 'file') return;
  const value = exampleOf(surface, model);
  at('body').value = value === undefined ? '' : pretty(value);
  showRequest();
});
at('fresh').addEventListener('click', () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  at('idempotency').value = [...bytes].map(b => b.toString(16).padStart(2, '0')).join('');
  showRequest();
});
at('use').addEventListener('click', () => { credential = at('key').value.trim(); start(); });
at('key').addEventListener('keydown', event => { if (event.key === 'Enter') at('use').click(); });
at('copy').addEventListener('click', async () => {
  try { await navigator.clipboard.writeText(at('request').textContent); at('copy').textContent = 'Copied'; }
  catch { getSelection().selectAllChildren(at('request')); }
});
at('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
});
at('file').addEventListener('change', () => take(at('file').files[0]));
at('drop').addEventListener('keydown', event => { if (event.target === at('drop') && (event.key === 'Enter' || event.key === ' ')) { event.preventDefault(); at('file').click(); } });
for (const [name, over] of [['dragover', true], ['dragleave', false], ['drop', false]]) {
  at('drop').addEventListener(name, event => {
    event.preventDefault();
    at('drop').classList.toggle('over', over);
    if (name === 'drop') take(event.dataTransfer.files[0]);
  });
}
start();
