// The npm package `openai`: a second implementation of streams, tools and parsing.
import OpenAI from "openai";
import { ensure, equal, run, target } from "./checks.mjs";

const options = { apiKey: "none", maxRetries: 0 };
const client = new OpenAI({ ...options, baseURL: `${target.url}/v1` });
const glm = new OpenAI({ ...options, baseURL: `${target.glm_url}/v1` });
const model = target.model;
const messages = [{ role: "user", content: "Say hello." }];
const schema = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };
// A random model may think for ever: it is told not to think.
const atOnce = { chat_template_kwargs: { enable_thinking: false } };
const city = { enum: ["Lisbon", "Porto"] };
const parameters = { type: "object", properties: { city }, required: ["city"], additionalProperties: false };
const weather = { type: "function", function: { name: "weather", parameters } };

async function until(read, ...running) {
  for (let round = 0; round < 600; round++) {
    const found = await read();
    if (!running.includes(found.status)) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("still running after a minute");
}

await run({
  "`models.list` and `models.retrieve` agree": async () => {
    const names = [];
    for await (const each of client.models.list()) names.push(each.id);
    ensure(names.includes(model));
    equal((await client.models.retrieve(model)).id, model);
  },
  "`chat.completions.create` answers with usage and a finish reason": async () => {
    const reply = await client.chat.completions.create({ model, messages, max_tokens: 4, temperature: 0 });
    equal([reply.choices[0].finish_reason, reply.usage.completion_tokens], ["length", 4]);
    ensure(reply._request_id);
  },
  "a stream's chunks add up to the reply without stream, with usage at the end": async () => {
    const body = { model, messages, max_tokens: 12, temperature: 0 };
    const whole = await client.chat.completions.create(body);
    let [text, usage] = ["", null];
    for await (const chunk of await client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    equal([text, usage.completion_tokens], [whole.choices[0].message.content, whole.usage.completion_tokens]);
  },
  "the stream helper accumulates the message and emits its content": async () => {
    const stream = client.chat.completions.stream({ model, messages, temperature: 0, stop: ["!", "."] });
    let text = "";
    stream.on("content", (delta) => (text += delta));
    equal((await stream.finalChatCompletion()).choices[0].message.content, text);
  },
  "`chat.completions.parse` gives the object of a JSON schema": async () => {
    const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
    const reply = await client.chat.completions.parse({ model, messages, response_format, max_tokens: 60 });
    equal(typeof reply.choices[0].message.parsed.yes, "boolean");
  },
  "a required tool is called with arguments of its schema, streamed or not": async () => {
    const body = { model: target.glm_model, messages, tools: [weather], tool_choice: "required", max_tokens: 400, seed: 1, ...atOnce };
    const whole = await glm.chat.completions.create(body);
    const call = whole.choices[0].message.tool_calls[0].function;
    ensure(["Lisbon", "Porto"].includes(JSON.parse(call.arguments).city));
    const final = await glm.chat.completions.stream(body).finalChatCompletion();
    equal(final.choices[0].message.tool_calls[0].function.arguments, call.arguments);
  },
  "the tool runner calls the function and hands its result back": async () => {
    const called = [];
    const tool = { type: "function", function: { ...weather.function, parse: JSON.parse, function: (input) => called.push(input.city) && "rain" } };
    const runner = glm.chat.completions.runTools(
      { model: target.glm_model, messages, tools: [tool], max_tokens: 400, parallel_tool_calls: false, tool_choice: { type: "function", function: { name: "weather" } }, ...atOnce },
      { maxChatCompletions: 1 },
    );
    await runner.done();
    ensure(called.length >= 1);
    ensure(runner.messages.some((message) => message.role === "tool" && message.content === "rain"));
  },
  "`completions.create` takes several prompts and streams": async () => {
    const reply = await client.completions.create({ model, prompt: ["One", "Two"], max_tokens: 3, echo: true });
    equal(reply.choices.map((choice) => choice.text.slice(0, 3)), ["One", "Two"]);
    let last;
    for await (const chunk of await client.completions.create({ model, prompt: "One", max_tokens: 4, stream: true })) last = chunk;
    equal(last.choices[0].finish_reason, "length");
  },
  "`embeddings.create` decodes base64 and gives what floats give": async () => {
    const packed = await client.embeddings.create({ model: target.embedding_model, input: ["a cat"] });
    const floats = await client.embeddings.create({ model: target.embedding_model, input: ["a cat"], encoding_format: "float" });
    const apart = packed.data[0].embedding.map((value, index) => Math.abs(value - floats.data[0].embedding[index]));
    ensure(Math.max(...apart) < 1e-6);
  },
  "responses: create, stream, continue, delete": async () => {
    const first = await client.responses.create({ model, input: "Say hello.", max_output_tokens: 16 });
    const stream = client.responses.stream({ model, input: "And again.", previous_response_id: first.id, max_output_tokens: 16 });
    let text = "";
    stream.on("response.output_text.delta", (event) => (text += event.delta));
    equal((await stream.finalResponse()).output_text, text);
    await client.responses.delete(first.id);
    ensure(await client.responses.retrieve(first.id).then(() => false, (error) => error instanceof OpenAI.NotFoundError));
  },
  "files and batches: upload, run, read the results": async () => {
    const line = { custom_id: "a", method: "POST", url: "/v1/chat/completions", body: { model, messages, max_tokens: 2 } };
    const file = await client.files.create({ file: new File([JSON.stringify(line) + "\n"], "batch.jsonl"), purpose: "batch" });
    const made = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
    const done = await until(() => client.batches.retrieve(made.id), "validating", "in_progress", "finalizing");
    equal(done.request_counts, { total: 1, completed: 1, failed: 0 });
    const output = await (await client.files.content(done.output_file_id)).text();
    equal(JSON.parse(output).custom_id, "a");
  },
  "errors are the client's typed exceptions and name the parameter": async () => {
    const refused = (body) => client.chat.completions.create({ model, messages, max_tokens: 1, ...body }).then(() => null, (error) => error);
    ensure((await refused({ model: "nope" })) instanceof OpenAI.NotFoundError);
    const wrong = await refused({ temperature: -1 });
    ensure(wrong instanceof OpenAI.BadRequestError);
    equal(wrong.param, "temperature");
  },
  "an aborted stream ends": async () => {
    const stream = await client.chat.completions.create({ model, messages, max_tokens: 500, stream: true });
    for await (const _ of stream) break;
    ensure(stream.controller.signal.aborted);
  },
});
