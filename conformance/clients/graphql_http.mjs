// The audits of `graphql-http`: what the GraphQL-over-HTTP specification asks of a server. MUST counts; SHOULD and MAY
// that are not followed are told as not applicable, with the reason the audit gives.
import { serverAudits } from "graphql-http";
import { NotApplicable, run, target } from "./checks.mjs";

const url = `${target.url}/graphql`;
const authorised = (input, init = {}) => fetch(input, { ...init, headers: { ...init.headers, authorization: `Bearer ${target.key}` } });
const checks = {};
for (const audit of serverAudits({ url, fetchFn: authorised })) {
  checks[`${audit.id}: ${audit.name}`] = async () => {
    const result = await audit.fn();
    if (result.status === "ok") return;
    if (result.status === "error") throw new Error(result.reason);
    throw new NotApplicable(`${result.status === "warn" ? "SHOULD" : "MAY"}: ${result.reason}`);
  };
}
await run(checks);
