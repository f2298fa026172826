// The client of @hey-api/openapi-ts.
import { getModel, inferIdentity, predictIdentity } from "./generated/hey-api";
import { client } from "./generated/hey-api/client.gen";

declare const process: { argv: string[] };

async function main() {
  client.setConfig({ baseUrl: process.argv[2] });
  const predicted = await predictIdentity({ body: { inputs: { a: [[1, 2, 3, 4]] } } });
  const inferred = await inferIdentity({
    body: { inputs: [{ name: "a", datatype: "FP32", shape: [1, 4], data: [1, 2, 3, 4] }] },
  });
  const missing = await getModel({ path: { model: "nothing" } });
  const outputs = inferred.data && "outputs" in inferred.data ? inferred.data.outputs : [];
  console.log(
    JSON.stringify({
      predicted: predicted.data && "predictions" in predicted.data ? predicted.data.predictions[0].b : null,
      inferred: outputs[0].data,
      missing: missing.error && "error" in missing.error ? missing.error.error.code : null,
    }),
  );
}
main();
