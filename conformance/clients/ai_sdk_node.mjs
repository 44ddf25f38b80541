// Vercel's AI SDK (`ai` with `@ai-sdk/openai-compatible`), the strictest about reasoning fields and tool deltas.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, jsonSchema, Output, streamText, tool } from "ai";
import { ensure, equal, run, target } from "./checks.mjs";

const atOnce = (body) => ({ ...body, chat_template_kwargs: { enable_thinking: false } });
const common = { name: "glm", apiKey: "none", includeUsage: true, supportsStructuredOutputs: true };
const main = createOpenAICompatible({ ...common, baseURL: `${target.url}/v1` });
const glm = createOpenAICompatible({ ...common, baseURL: `${target.glm_url}/v1`, transformRequestBody: atOnce });
const thinking = createOpenAICompatible({ ...common, baseURL: `${target.glm_url}/v1` });
const prompt = "Say hello.";
const quiet = { maxRetries: 0, temperature: 0 };
const yes = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };

await run({
  "`generateText` gives text and usage": async () => {
    const reply = await generateText({ model: main(target.model), prompt, maxOutputTokens: 8, ...quiet });
    equal([reply.usage.outputTokens, reply.finishReason], [8, "length"]);
  },
  "`streamText` adds up to `generateText`": async () => {
    const settings = { model: main(target.model), prompt, maxOutputTokens: 12, ...quiet };
    const stream = streamText(settings);
    let text = "";
    for await (const part of stream.textStream) text += part;
    equal(text, (await generateText(settings)).text);
    equal((await stream.usage).outputTokens, 12);
  },
  "an object by JSON schema": async () => {
    const output = Output.object({ schema: jsonSchema(yes) });
    const reply = await generateText({ model: main(target.model), prompt, output, maxOutputTokens: 60, ...quiet });
    equal(typeof reply.output.yes, "boolean");
  },
  "a required tool is called with its input, streamed": async () => {
    const city = { enum: ["Lisbon", "Porto"] };
    const inputSchema = jsonSchema({ type: "object", properties: { city }, required: ["city"], additionalProperties: false });
    const called = [];
    const weather = tool({ description: "The weather.", inputSchema, execute: async (input) => called.push(input.city) });
    const settings = { model: glm(target.glm_model), prompt, tools: { weather }, toolChoice: "required", maxOutputTokens: 400, maxRetries: 0, seed: 1 };
    await streamText(settings).consumeStream();
    await generateText(settings);
    ensure(called.length >= 2 && called.every((each) => ["Lisbon", "Porto"].includes(each)), JSON.stringify(called));
  },
  "reasoning is a part of its own, streamed or not": async () => {
    const settings = { model: thinking(target.glm_model), prompt, maxOutputTokens: 20, maxRetries: 0, seed: 1 };
    ensure((await generateText(settings)).reasoningText);
    const kinds = new Set();
    for await (const part of streamText(settings).fullStream) kinds.add(part.type);
    ensure(kinds.has("reasoning-delta"), [...kinds].join());
  },
  "`embedMany` gives a vector for each text": async () => {
    const model = main.embeddingModel(target.embedding_model);
    equal((await embedMany({ model, values: ["a cat", "a dog"], maxRetries: 0 })).embeddings.length, 2);
  },
});
