// Embeds one text and many with the AI SDK, and prints what came as one line of JSON.
// Usage: node ai-sdk.mjs <base URL> <API key>
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { embed, embedMany } from 'ai';

const [baseURL, apiKey] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: 'penstock', baseURL, apiKey });
const texts = ['A cat sat on the mat.', 'A dog lay on the rug.', 'The tax return is due in April.'];
const one = await embed({ model: provider.embeddingModel('minilm'), value: texts[0], maxRetries: 0 });
const many = await embedMany({ model: provider.embeddingModel('minilm'), values: texts, maxRetries: 0 });
let refused;
try {
  await embed({ model: provider.embeddingModel('nothing'), value: texts[0], maxRetries: 0 });
} catch (error) {
  refused = { name: error.name, status: error.statusCode, message: error.message };
}
console.log(JSON.stringify({ one: one.embedding, many: many.embeddings, tokens: many.usage.tokens, refused }));
