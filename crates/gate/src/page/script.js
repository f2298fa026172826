'use strict';
// Data from the server is only inserted as an element's text, never as markup.
const at = id => document.getElementById(id);
const make = (name, text, kind) => {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
};
const put = (element, ...children) => { element.append(...children); return element; };
const fill = (element, ...children) => { element.replaceChildren(...children); return element; };
const prose = (element, text) => put(element, ...String(text ?? '').split('`').map((piece, i) => i % 2 ? make('code', piece) : piece));
const paragraphs = text => String(text ?? '').split('\n\n').filter(Boolean).map(one => prose(make('p'), one));
const option = (value, text) => { const o = make('option', text ?? value); o.value = value; return o; };
const hasOwn = (object, name) => object !== null && typeof object === 'object' && Object.hasOwn(object, name);
const dig = (value, ...names) => names.reduce((v, name) => hasOwn(v, name) ? v[name] : undefined, value);
const entries = value => Object.entries(value !== null && typeof value === 'object' ? value : {});
const list = value => Array.isArray(value) ? value : [];

const MAX_SHOWN_CHARS = 100000; // The most characters of an answer that are shown.
const MAX_FOUND = 60; // The most results of a search.
const MAX_CURL_CHARS = 4000; // The curl command reads a longer body from a file.
const JSON_TYPE = 'application/json';

let credential = ''; // Kept only in the page's memory.
let described = {}; // The OpenAPI document.
let models = [];
let operations = [];
let now = null; // The shown operation: { base, model, version, form }.
let file = null;
let preview = null;
let turn = 0;

const trouble = text => { at('trouble').textContent = text ?? ''; at('trouble').hidden = !text; };
const ask = (path, options = {}) => {
  const headers = new Headers(options.headers);
  if (credential) headers.set('authorization', 'Bearer ' + credential);
  return fetch(path, { ...options, headers, credentials: 'omit', redirect: 'error' });
};
const read = async path => {
  const response = await ask(path);
  if (response.ok) return response.json();
  const text = await response.text();
  let message = text;
  try { const body = JSON.parse(text); message = dig(body, 'error', 'message') ?? dig(body, 'error') ?? text; } catch { /* Not JSON: keep the text. */ }
  throw new Error(`${response.status}: ${message}`);
};
const pretty = value => {
  const text = JSON.stringify(value, null, 1) ?? '';
  // Write a row of numbers on one line.
  return text.replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner) => '[' + inner.replace(/\s*\n\s*/g, ' ') + ']');
};

// Operations. Those of one model or version are shown as the general operation with that model or version selected.
const PINNED = '/versions/{version}';
const gather = () => {
  operations = entries(described.paths).flatMap(([path, item]) => entries(item).map(([verb, op]) => ({
    path, verb, op, id: String(op.operationId ?? ''), own: op['x-model'], tag: list(op.tags)[0], summary: String(op.summary ?? path),
  })));
  for (const one of operations) {
    const wanted = one.own === undefined ? one.path.replace(PINNED, '')
      : one.path.replace(`/models/${one.own}`, () => '/models/{model}');
    one.base = operations.find(o => o.path === wanted && o.verb === one.verb && o.own === undefined) ?? one;
    if (one.path !== wanted && one.own === undefined) one.base.pinned = one;
    one.text = [one.id, one.verb, one.path, one.summary, one.op.description, one.tag].join(' ').toLowerCase();
  }
};
const ownOf = (base, model) => operations.find(o => o.base === base && o.own === model && model !== undefined);
const current = () => (now.version && now.base.pinned) || ownOf(now.base, now.model) || now.base;
const resolve = part => {
  const place = dig(part, '$ref');
  return typeof place === 'string' ? dig(described, ...place.slice(2).split('/')) ?? part : part;
};
const parameters = one => list(one.op.parameters).map(resolve);
const takesModel = base => base.path.includes('{model}');

// Samples. Each is a form of the body with a name.
const samples = (base, model) => {
  // A method that answers later takes the body of the one that answers at once.
  const prompt = base.path.endsWith('Async') ? operations.find(o => o.base === o && `${o.path}Async` === base.path) : undefined;
  const own = ownOf(base, model) ?? (prompt && ownOf(prompt, model));
  const content = dig(own ?? base, 'op', 'requestBody', 'content');
  if (!content) return [];
  let found = entries(dig(content, JSON_TYPE, 'examples'));
  if (!own && takesModel(base)) {
    // Operations with the same schema share a sample.
    const schema = dig(content, JSON_TYPE, 'schema', '$ref');
    const alike = operations.find(o => hasOwn(dig(o, 'op', 'requestBody', 'content', JSON_TYPE, 'examples'), model)
      && dig(o, 'op', 'requestBody', 'content', JSON_TYPE, 'schema', '$ref') === schema);
    const value = dig(alike, 'op', 'requestBody', 'content', JSON_TYPE, 'examples', model);
    found = value ? [[model, { ...value, summary: 'JSON' }]] : [];
  }
  const forms = found.map(([name, example]) => ({ name: String(dig(example, 'summary') ?? name), text: pretty(dig(example, 'value')) }));
  if (!forms.length) forms.push({ name: 'JSON', text: base.op.requestBody.required ? '' : '{}' });
  forms.sort((a, b) => (a.text === '') - (b.text === '') || a.text.length - b.text.length);
  const types = list(dig(own, 'op', 'requestBody', 'x-content-types')).map(type => type === '*/*' ? 'application/octet-stream' : String(type));
  // Do not offer bytes after JSON; only programs send them.
  const raw = types.length && !base.path.endsWith('/infer');
  if (raw) forms.push({ name: 'File', types, sample: list(dig(content, JSON_TYPE, 'examples', 'content', 'value', 'content'))[0] });
  return forms;
};
const fits = (base, model) => !base.op.requestBody?.required || samples(base, model.name).some(form => form.text);
const offered = base => {
  // Offer a method that only some models have for those models only.
  const some = operations.some(o => o.base === base && o.own !== undefined);
  const all = operations.filter(o => o.own !== undefined).map(o => o.own);
  return models.filter(m => !some || ownOf(base, m.name) || !all.includes(m.name));
};
const firstModel = base => {
  const usable = offered(base).filter(m => !m.error && m.ready !== false);
  return (usable.find(m => fits(base, m)) ?? usable[0] ?? offered(base)[0])?.name;
};

// Deep links: #operation/<operationId>?model=<name>&version=<version>
const hashOf = () => {
  const one = current();
  const query = new URLSearchParams();
  if (takesModel(one) && now.model !== undefined) query.set('model', now.model);
  if (one === now.base.pinned) query.set('version', now.version);
  const rest = query.toString();
  return `#operation/${encodeURIComponent(one.id)}${rest ? '?' + rest : ''}`;
};
const fromHash = () => {
  const [, id, rest] = /^#operation\/([^?]*)\??(.*)$/.exec(location.hash) ?? [];
  let wanted;
  try { wanted = decodeURIComponent(id ?? ''); } catch { return null; }
  const one = operations.find(o => o.id === wanted);
  if (!one) return null;
  const query = new URLSearchParams(rest);
  const base = one.base;
  const known = name => offered(base).some(m => m.name === name);
  const kept = known(now?.model) ? now.model : undefined;
  const model = takesModel(base) ? [one.own, query.get('model')].find(known) ?? kept ?? firstModel(base) : undefined;
  const versions = list(models.find(m => m.name === model)?.versions).map(String);
  const version = one === base.pinned ? query.get('version') ?? versions[0] : undefined;
  return { base, model, version };
};
const go = next => {
  now = { form: 0, ...next };
  const hash = hashOf();
  if (location.hash !== hash) history.pushState(null, '', hash);
  show();
};

// The list of operations.
const link = one => {
  const a = put(make('a', one.summary), put(make('small', one.verb.toUpperCase() + ' '), one.path));
  a.href = '#operation/' + encodeURIComponent(one.id);
  if (now && (one === now.base || one === current())) a.setAttribute('aria-current', 'page');
  return put(make('li'), a);
};
const showList = () => {
  const words = at('search').value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = operations.filter(o => words.length ? words.every(w => o.text.includes(w)) : o.base === o);
  const tags = list(described.tags);
  const groups = tags.map(tag => [tag.description ?? tag.name, found.filter(o => o.tag === tag.name)]);
  groups.push(['Others', found.filter(o => !tags.some(tag => tag.name === o.tag))]);
  let room = MAX_FOUND;
  fill(at('list'), ...groups.filter(([, all]) => all.length).map(([title, all]) => {
    const some = all.slice(0, room);
    room -= some.length;
    return put(make('div'), make('h3', title), put(make('ul'), ...some.map(link)));
  }));
  at('found').textContent = !words.length ? '' : found.length ? `${found.length} found` : 'No operation matches.';
};

// The form.
const field = (name, input, hint) => {
  const label = put(make('label', name), input);
  if (hint) label.title = hint;
  return label;
};
const inputs = new Map(); // Maps parameters to elements.
const showFields = one => {
  inputs.clear();
  const fields = [];
  const options = [];
  const { base, model } = now;
  if (takesModel(base)) {
    const select = put(make('select'), ...offered(base).map(m => option(m.name)));
    select.id = 'model';
    select.value = model ?? '';
    select.addEventListener('change', () => go({ base, model: select.value }));
    fields.push(field('Model', select));
  }
  if (base.pinned) {
    const about = models.find(m => m.name === model);
    const select = put(make('select'), option('', 'the server chooses'), ...list(about?.versions).map(v => option(String(v))));
    select.id = 'version';
    select.value = now.version ?? '';
    select.addEventListener('change', () => go({ ...now, version: select.value || undefined }));
    fields.push(field('Version', select));
  }
  for (const p of parameters(one)) {
    if (p.in === 'path' && (p.name === 'model' || p.name === 'version')) continue;
    const values = dig(p, 'schema', 'enum');
    let input;
    if (Array.isArray(values)) {
      input = put(make('select'), ...(p.required ? [] : [option('', '–')]), ...values.map(v => option(String(v))));
    } else {
      input = make('input');
      input.autocomplete = 'off';
      input.spellcheck = false;
      input.placeholder = p.required ? '' : 'none';
    }
    input.id = `param-${p.name}`;
    input.addEventListener('input', showRequest);
    inputs.set(p, input);
    (p.in === 'path' || (p.in === 'query' && one.verb === 'get') ? fields : options).push(field(p.name, input, p.description));
    if (p.name === 'Idempotency-Key') {
      const fresh = make('button', 'New key');
      fresh.type = 'button';
      fresh.id = 'fresh';
      fresh.addEventListener('click', () => {
        input.value = [...crypto.getRandomValues(new Uint8Array(16))].map(b => b.toString(16).padStart(2, '0')).join('');
        showRequest();
      });
      options.push(fresh);
    }
  }
  fill(at('params'), ...fields);
  fill(at('options'), ...options);
  at('more').hidden = !options.length;
};
const formNow = () => samples(now.base, now.model)[now.form];
const useForm = index => {
  now.form = index;
  const forms = samples(now.base, now.model);
  const form = forms[index];
  at('with-body').hidden = !form;
  at('example').hidden = !form;
  if (!form) { showRequest(); return; }
  fill(at('forms'), ...forms.map((one, i) => {
    const button = make('button', one.name);
    button.type = 'button';
    button.setAttribute('aria-pressed', String(i === index));
    button.addEventListener('click', () => { useForm(i); list([...at('forms').children])[i]?.focus(); });
    return button;
  }));
  at('forms').hidden = forms.length < 2;
  const raw = Boolean(form.types);
  at('with-file').hidden = !raw;
  at('with-text').hidden = raw;
  if (raw) {
    file = null;
    at('file').value = '';
    at('type').value = form.types[0];
    const { sample } = form;
    try {
      const bytes = sample?.data !== undefined ? Uint8Array.from(atob(sample.data), c => c.charCodeAt(0)) : sample?.text;
      const type = sample?.media_type ?? form.types[0];
      if (bytes !== undefined) take(new File([bytes], 'sample.' + (/\/(png|jpeg|wav)/.exec(type)?.[1] ?? 'txt'), { type }));
      else showFile();
    } catch { showFile(); }
  } else {
    at('body-type').textContent = '(JSON)';
    at('body').value = form.text;
  }
  showRequest();
};

// The request to send.
const prepared = () => {
  const one = current();
  const headers = {};
  const query = [];
  let path = one.path;
  const known = { model: one.own === undefined ? now.model : undefined, version: now.version };
  for (const [name, value] of entries(known)) if (value !== undefined) path = path.replaceAll(`{${name}}`, () => encodeURIComponent(value));
  for (const [p, input] of inputs) {
    const value = input.value.trim();
    if (p.in === 'path') path = path.replaceAll(`{${p.name}}`, () => encodeURIComponent(value));
    else if (value && p.in === 'query') query.push(`${encodeURIComponent(p.name)}=${encodeURIComponent(value)}`);
    else if (value && p.in === 'header') headers[p.name.toLowerCase()] = value;
  }
  if (query.length) path += '?' + query.join('&');
  const form = formNow();
  const method = one.verb.toUpperCase();
  if (!form) return { path, method, headers };
  if (form.types) {
    headers['content-type'] = at('type').value.trim() || 'application/octet-stream';
    return { path, method, headers, body: file };
  }
  headers['content-type'] = JSON_TYPE;
  return { path, method, headers, body: at('body').value };
};
const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`;
const showRequest = () => {
  if (!now) return;
  const { path, method, headers, body } = prepared();
  const lines = [`curl ${method === 'GET' || body !== undefined ? '' : `-X ${method} `}${quoted(location.origin + path)}`];
  if (credential) lines.push('-H "Authorization: Bearer $API_KEY"');
  for (const [name, value] of entries(headers)) lines.push(`-H ${quoted(`${name}: ${value}`)}`);
  if (body instanceof Blob) lines.push(`--data-binary ${quoted('@' + body.name)}`);
  else if (body === null) lines.push('--data-binary @FILE');
  else if (body !== undefined && body.length > MAX_CURL_CHARS) lines.push('--data-binary @body.json   # the body above');
  else if (body !== undefined) {
    let short = body;
    try { short = JSON.stringify(JSON.parse(body)); } catch { /* Not JSON: send the text, and let the server report the error. */ }
    lines.push(`--data-binary ${quoted(short)}`);
  }
  at('request').textContent = lines.join(' \\\n  ');
};

// The answer.
const showLimits = headers => {
  const parse = text => Object.fromEntries([...(text ?? '').matchAll(/"([^"]*)"((?:;[a-z]+=[^,;]*)*)/g)].map(([, name, rest]) =>
    [name, Object.fromEntries([...rest.matchAll(/;([a-z]+)=([^,;]*)/g)].map(([, k, v]) => [k, v]))]));
  const policy = parse(headers.get('ratelimit-policy'));
  const left = parse(headers.get('ratelimit'));
  const names = [...new Set([...Object.keys(policy), ...Object.keys(left)])];
  const row = (kind, cells) => put(make('tr'), ...cells.map(c => make(kind, c)));
  at('limits').hidden = !names.length;
  fill(at('limits-table'), row('th', ['limit', 'left', 'of', 'window', 'resets in']), ...names.map(n =>
    row('td', [n, left[n]?.r ?? '', policy[n]?.q ?? '', policy[n]?.w ? policy[n].w + ' s' : '', left[n]?.t ? left[n].t + ' s' : ''])));
};
const showAnswer = async (response, began) => {
  const blob = await response.blob();
  const ms = performance.now() - began;
  const type = response.headers.get('content-type') ?? '';
  const status = fill(at('status'), make('span', `${response.status} ${response.statusText}`.trim(), response.ok ? 'good' : 'bad'),
    ` in ${ms.toFixed(1)} ms, ${blob.size} bytes`);
  const version = response.headers.get('x-model-version');
  if (version) status.append(`, version ${version}`);
  let out;
  if (/^(text\/|application\/([a-z.-]+\+)?json)/.test(type) || !blob.size) {
    out = await blob.text();
    try { out = pretty(JSON.parse(out)); } catch { /* Not JSON: show the text. */ }
  } else {
    const bytes = new Uint8Array(await blob.slice(0, 256).arrayBuffer());
    out = `${type}, from the beginning:\n` + [...bytes].map(b => b.toString(16).padStart(2, '0')).join(' ');
  }
  at('answer').textContent = out.length > MAX_SHOWN_CHARS ? out.slice(0, MAX_SHOWN_CHARS) + '\n…' : out || '(no body)';
  at('answer').hidden = false;
  fill(at('headers'), ...[...response.headers].flatMap(([name, value]) => [put(make('dt'), make('code', name)), make('dd', value)]));
  at('headers-box').hidden = false;
  showLimits(response.headers);
};
const send = async () => {
  const { path, method, headers, body } = prepared();
  if (body === null) { fill(at('status'), 'Choose a file first.'); at('drop').focus(); return; }
  at('send').disabled = true;
  at('status').textContent = 'Waiting…';
  const mine = ++turn;
  try {
    const began = performance.now();
    const response = await ask(path, { method, headers, body });
    if (mine === turn) await showAnswer(response, began);
  } catch (error) {
    fill(at('status'), make('span', 'No answer: ' + error.message, 'bad'));
  } finally {
    at('send').disabled = false;
    at('send').focus();
    if (at('result').getBoundingClientRect().top > innerHeight / 2) at('result').scrollIntoView();
  }
};
const clearAnswer = () => {
  turn++;
  at('status').textContent = 'Nothing sent yet.';
  for (const id of ['answer', 'limits', 'headers-box']) at(id).hidden = true;
};

const showFile = () => {
  at('drop-text').textContent = file ? `${file.name}, ${file.size} bytes. Drop another here, or choose one` : 'Drop a file here, or choose one';
  if (preview) URL.revokeObjectURL(preview);
  preview = file && /^image\/(png|jpeg|gif|webp)$/.test(file.type) ? URL.createObjectURL(file) : null;
  at('preview').hidden = !preview;
  if (preview) at('preview').src = preview; else at('preview').removeAttribute('src');
};
const take = chosen => {
  if (!chosen) return;
  file = chosen;
  at('type').value = file.type || 'application/octet-stream';
  showFile();
  showRequest();
};

// The reference. Schemas are written out, and the targets of `$ref` open on demand.
const rangeOf = s => {
  // Omit the bounds of a datatype, because its name implies them.
  const said = bound => Math.abs(bound) < 1e15 ? bound : undefined;
  const least = said(s.minimum) ?? s.minItems ?? s.minLength;
  const most = said(s.maximum) ?? s.maxItems ?? s.maxLength;
  if (least === undefined && most === undefined) return '';
  return least === most ? ` (${least})` : ` (${least ?? ''} … ${most ?? ''})`;
};
const kindOf = (schema, depth = 0) => {
  const s = schema ?? {};
  if (typeof s.$ref === 'string') {
    const target = resolve(s);
    return target.properties || target.anyOf || target.oneOf ? s.$ref.split('/').pop() : kindOf(target, depth + 1);
  }
  if (depth > 12) return '…';
  if (hasOwn(s, 'const')) return JSON.stringify(s.const);
  if (Array.isArray(s.enum)) return s.enum.length > 16 ? `one of ${s.enum.length} values` : s.enum.map(v => JSON.stringify(v)).join(' or ');
  for (const key of ['anyOf', 'oneOf']) if (Array.isArray(s[key])) return s[key].map(one => kindOf(one, depth + 1)).join(' or ');
  if (Array.isArray(s.prefixItems)) return `[${s.prefixItems.map(one => kindOf(one, depth + 1)).join(', ')}]`;
  const types = [s.type ?? 'any'].flat().join(' or ');
  if (types === 'array') return `array${rangeOf(s)} of ${kindOf(s.items, depth + 1)}`;
  return (s.format === 'binary' ? 'bytes' : types) + rangeOf(s);
};
const nestedOf = (schema, depth = 0) => {
  const s = schema ?? {};
  if (depth > 12) return [];
  if (typeof s.$ref === 'string') {
    const target = resolve(s);
    return target.properties || target.anyOf || target.oneOf ? [s.$ref] : nestedOf(target, depth + 1);
  }
  return [...new Set([...list(s.anyOf), ...list(s.oneOf), ...(s.items ? [s.items] : [])].flatMap(one => nestedOf(one, depth + 1)))];
};
const lazily = (title, make_) => {
  const box = put(make('details'), make('summary', title));
  box.addEventListener('toggle', () => { if (box.open && box.children.length < 2) box.append(...make_()); });
  return box;
};
const schemaOf = schema => {
  const s = resolve(schema) ?? {};
  const out = [];
  if (s.description) out.push(...paragraphs(s.description));
  if (s.properties) {
    const members = make('dl');
    for (const [name, one] of entries(s.properties)) {
      const head = put(make('dt'), make('code', name), make('span', kindOf(one) + (list(s.required).includes(name) ? ', required' : ''), 'kind'));
      const target = typeof one.$ref === 'string' && !nestedOf(one).length ? resolve(one) : one;
      const text = one.description ?? target.description ?? list(one.anyOf).map(resolve).map(o => o.description).find(Boolean);
      members.append(head, put(make('dd'), ...paragraphs(text), ...nestedOf(one).map(place => lazily(place.split('/').pop(), () => schemaOf({ $ref: place })))));
    }
    out.push(members);
  } else {
    out.push(put(make('p'), make('span', kindOf(s), 'kind')), ...nestedOf(s).map(place => lazily(place.split('/').pop(), () => schemaOf({ $ref: place }))));
  }
  return out;
};
const showReference = one => {
  const out = [make('h3', 'Reference')];
  const all = parameters(one);
  if (all.length) {
    const names = make('dl');
    for (const p of all) {
      names.append(put(make('dt'), make('code', p.name), make('span', `${p.in}, ${kindOf(p.schema)}${p.required ? ', required' : ''}`, 'kind')), put(make('dd'), ...paragraphs(p.description)));
    }
    out.push(put(make('details'), make('summary', 'Parameters'), names));
  }
  const body = dig(ownOf(now.base, now.model) ?? one, 'op', 'requestBody');
  if (dig(body, 'description')) out.push(prose(make('p'), body.description));
  for (const [type, content] of entries(dig(body, 'content'))) out.push(lazily(`Body, ${type}`, () => schemaOf(content.schema)));
  for (const [status, answer] of entries(one.op.responses)) {
    const response = resolve(answer);
    const codes = list(response['x-error-codes']).join(', ');
    const first = codes || String(response.description ?? '').split('\n')[0];
    out.push(lazily(`${status} ${first}`, () => [
      ...paragraphs(response.description),
      ...entries(response.content).flatMap(([type, content]) => [make('h4', type), ...schemaOf(content.schema)]),
    ]));
  }
  fill(at('reference'), ...out);
};

const show = () => {
  const one = current();
  const post = one.verb !== 'get';
  at('title').textContent = one.summary;
  document.title = `${one.summary} – Penstock`;
  fill(at('line'), make('span', one.verb.toUpperCase(), post ? 'verb post' : 'verb'), one.path);
  fill(at('about'), ...paragraphs(one.op.description).slice(0, 1));
  at('menu-now').textContent = now.base.summary;
  file = null;
  showFields(one);
  useForm(now.form ?? 0);
  clearAnswer();
  showReference(one);
  showList();
};
// Load the description of a model that does not fit into the document separately.
const complete = async () => {
  const name = now?.model;
  const out = list(dig(described, 'info', 'x-models-left-out', 'models'));
  if (!out.includes(name) || operations.some(o => o.own === name)) return;
  try {
    const alone = await read('/openapi.json?model=' + encodeURIComponent(name));
    for (const [path, item] of entries(alone.paths)) if (!hasOwn(described.paths, path)) described.paths[path] = item;
    for (const [key, schema] of entries(dig(alone, 'components', 'schemas'))) if (!hasOwn(described.components.schemas, key)) described.components.schemas[key] = schema;
    const { base: { id }, model, version } = now;
    gather();
    now = { ...now, base: operations.find(o => o.id === id), model, version, form: 0 };
    show();
  } catch (error) { trouble(error.message); }
};
const arrive = () => {
  const next = fromHash();
  if (next) { now = { form: 0, ...next }; show(); complete(); return true; }
  return false;
};
const start = async () => {
  trouble();
  try {
    described = await read('/openapi.json');
    gather();
    try { models = list((await read('/v1/models')).models); } catch (error) { models = []; trouble(error.message); }
    at('release').textContent = dig(described, 'info', 'version') ?? '';
    if (!models.length && at('trouble').hidden) trouble('These credentials may see no models.');
    if (!arrive()) {
      const base = operations.find(o => o.base === o && o.verb === 'post' && takesModel(o)) ?? operations[0];
      const first = operations.find(o => o.base === o && o.path.endsWith(':predict')) ?? base;
      if (first) { now = { base: first, model: takesModel(first) ? firstModel(first) : undefined, form: 0 }; show(); complete(); }
    }
  } catch (error) {
    at('title').textContent = 'The description cannot be read';
    trouble(error.message + (credential ? '' : ' – an API key may help'));
  }
};

const menu = open => { at('nav').classList.toggle('open', open); at('menu').setAttribute('aria-expanded', String(open)); };
at('menu').addEventListener('click', () => { const open = !at('nav').classList.contains('open'); menu(open); if (open) at('search').focus(); });
at('search').addEventListener('input', showList);
at('search').addEventListener('keydown', event => {
  if (event.key === 'Enter') at('list').querySelector('a')?.click();
  if (event.key === 'Escape') menu(false);
});
document.addEventListener('keydown', event => {
  if (event.key !== '/' || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  event.preventDefault();
  menu(true);
  at('search').focus();
});
at('list').addEventListener('click', event => {
  if (!event.target.closest('a')) return;
  menu(false);
  setTimeout(() => { at('title').focus({ preventScroll: true }); scrollTo(0, 0); });
});
addEventListener('popstate', arrive);
at('form').addEventListener('submit', event => { event.preventDefault(); if (now) send(); });
for (const id of ['body', 'type']) at(id).addEventListener('input', showRequest);
at('example').addEventListener('click', () => useForm(now.form));
at('login').addEventListener('submit', event => { event.preventDefault(); credential = at('key').value.trim(); start(); });
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
