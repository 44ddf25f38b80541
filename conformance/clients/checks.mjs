// The protocol of the client scripts, as in checks.py: a sentence, a function that throws, one JSON line.

export class NotApplicable extends Error {}

export const target = JSON.parse(process.argv.at(-1));

export function ensure(truth, message = "not so") {
  if (!truth) throw new Error(message);
}

export function equal(found, wanted) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${a?.slice(0, 200)} is not ${b?.slice(0, 200)}`);
}

export async function run(checks) {
  for (const [sentence, work] of Object.entries(checks)) {
    let [outcome, reason] = ["passed", ""];
    try {
      await work();
    } catch (error) {
      outcome = error instanceof NotApplicable ? "not applicable" : "failed";
      const place = String(error.stack).split("\n").find((line) => line.includes("clients/") && !line.includes("checks.mjs"));
      reason = outcome === "failed" ? `${error.name}: ${error.message.slice(0, 300)} (${place?.trim()})` : error.message;
    }
    console.log(JSON.stringify({ check: sentence, outcome, reason }));
  }
}
