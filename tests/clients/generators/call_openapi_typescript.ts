// The types of openapi-typescript, with openapi-fetch.
import createClient from "openapi-fetch";
import type { components, paths } from "./generated/openapi-typescript";

declare const process: { argv: string[] };

const rows: components["schemas"]["InputsForIdentity"] = { a: [[1, 2, 3, 4]] };
const client = createClient<paths>({ baseUrl: process.argv[2] });

async function main() {
  const predicted = await client.POST("/v1/models/identity:predict", { body: { inputs: rows } });
  const inferred = await client.POST("/v2/models/identity/infer", {
    body: { inputs: [{ name: "a", datatype: "FP32", shape: [1, 4], data: [1, 2, 3, 4] }] },
  });
  const missing = await client.GET("/v1/models/{model}", { params: { path: { model: "nothing" } } });
  const outputs = typeof inferred.data === "object" && "outputs" in inferred.data ? inferred.data.outputs : [];
  console.log(
    JSON.stringify({
      predicted: predicted.data && "predictions" in predicted.data ? predicted.data.predictions[0].b : null,
      inferred: outputs[0].data,
      missing: missing.error && "error" in missing.error ? (missing.error.error as { code: string }).code : null,
    }),
  );
}
main();
