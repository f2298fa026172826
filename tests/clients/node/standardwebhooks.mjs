// Verifies messages with the library of Standard Webhooks, and prints one line of JSON: for each message its content, or the text
// of the error. Standard input has a list of messages in JSON, each with `secret`, `headers` and `body`.
import { readFileSync } from 'node:fs';
import { Webhook, WebhookVerificationError } from 'standardwebhooks';

const results = JSON.parse(readFileSync(0, 'utf8')).map(({ secret, headers, body }) => {
  try {
    return { verified: new Webhook(secret).verify(body, headers) };
  } catch (error) {
    if (!(error instanceof WebhookVerificationError)) throw error;
    return { refused: error.message };
  }
});
console.log(JSON.stringify(results));
