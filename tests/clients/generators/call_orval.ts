// The fetch client of orval.
import { getModel, inferIdentity, predictIdentity } from "./generated/orval";

async function main() {
  const predicted = await predictIdentity({ inputs: { a: [[1, 2, 3, 4]] } });
  const inferred = await inferIdentity({
    inputs: [{ name: "a", datatype: "FP32", shape: [1, 4], data: [1, 2, 3, 4] }],
  });
  const missing = await getModel("nothing");
  const outputs = inferred.status === 200 && "outputs" in inferred.data ? inferred.data.outputs : [];
  console.log(
    JSON.stringify({
      predicted: predicted.status === 200 ? predicted.data.predictions[0].b : null,
      inferred: outputs[0].data,
      missing: missing.status === 404 && "error" in missing.data ? missing.data.error.code : null,
    }),
  );
}
main();
