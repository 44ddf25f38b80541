// The npm package `ollama` against /api.
import { Ollama } from "ollama";
import { ensure, equal, run, target } from "./checks.mjs";

const client = new Ollama({ host: target.url });
const model = target.model;
const messages = [{ role: "user", content: "Say hello." }];
const options = { num_predict: 8, temperature: 0 };

async function joined(stream, read) {
  let text = "";
  for await (const part of stream) text += read(part);
  return text;
}

await run({
  "`list`, `show` and `ps` name the model": async () => {
    ensure((await client.list()).models.some((each) => each.model === model));
    ensure((await client.show({ model })).details.format);
    ensure((await client.ps()).models.some((each) => each.model === model));
  },
  "`chat` answers, and a stream's parts add up to it": async () => {
    const whole = await client.chat({ model, messages, options });
    const text = await joined(await client.chat({ model, messages, options, stream: true }), (part) => part.message.content);
    equal([text, whole.eval_count], [whole.message.content, 8]);
  },
  "`generate` answers, and a stream's parts add up to it": async () => {
    const whole = await client.generate({ model, prompt: "One two", raw: true, options });
    const text = await joined(await client.generate({ model, prompt: "One two", raw: true, options, stream: true }), (part) => part.response);
    equal(text, whole.response);
  },
  "`format` holds the reply to a JSON schema": async () => {
    const format = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };
    const reply = await client.chat({ model, messages, format, options: { num_predict: 60 } });
    equal(typeof JSON.parse(reply.message.content).yes, "boolean");
  },
  "`embed` gives a vector for each text": async () => {
    equal((await client.embed({ model: target.embedding_model, input: ["a cat", "a dog"] })).embeddings.length, 2);
  },
  "an aborted stream ends": async () => {
    const stream = await client.chat({ model, messages, stream: true, options: { num_predict: 500 } });
    let reason = "";
    try {
      for await (const _ of stream) stream.abort();
    } catch (error) {
      reason = error.name;
    }
    equal(reason, "AbortError");
  },
  "errors carry the message": async () => {
    const error = await client.chat({ model: "nope", messages }).then(() => null, (refusal) => refusal);
    ensure(error.message.includes("nope"));
  },
});
