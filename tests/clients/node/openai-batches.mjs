// Runs a batch with OpenAI's client, and prints what came as one line of JSON.
// Usage: node openai-batches.mjs <base URL> <API key>
import OpenAI, { toFile } from 'openai';

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const lines = ['A cat sat on the mat.', 'A dog lay on the rug.'].map((input, n) => JSON.stringify({
  custom_id: `text-${n}`, method: 'POST', url: '/v1/embeddings', body: { model: 'minilm', input },
}));
const file = await client.files.create({
  file: await toFile(Buffer.from(lines.join('\n')), 'in.jsonl'),
  purpose: 'batch',
});
let batch = await client.batches.create({ input_file_id: file.id, endpoint: '/v1/embeddings', completion_window: '24h' });
const states = [batch.status];
while (['validating', 'in_progress', 'finalizing'].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 100));
  batch = await client.batches.retrieve(batch.id);
  states.push(batch.status);
}
const output = await (await client.files.content(batch.output_file_id)).text();
const cancelled = await client.batches.cancel(batch.id);
const deleted = await client.files.delete(file.id);
let refused;
try {
  await client.batches.retrieve('batch_1');
} catch (error) {
  refused = { name: error.constructor.name, status: error.status, code: error.code };
}
console.log(JSON.stringify({
  file, batch, states, lines: output.trim().split('\n').map((line) => JSON.parse(line)), cancelled: cancelled.status, deleted, refused,
}));
