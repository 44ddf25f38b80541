// The npm package `@anthropic-ai/sdk` against /v1/messages.
import Anthropic from "@anthropic-ai/sdk";
import { ensure, equal, run, target } from "./checks.mjs";

const client = new Anthropic({ baseURL: target.url, apiKey: "none", maxRetries: 0 });
const glm = new Anthropic({ baseURL: target.glm_url, apiKey: "none", maxRetries: 0 });
const model = target.model;
const messages = [{ role: "user", content: "Say hello." }];
const city = { enum: ["Lisbon", "Porto"] };
const input_schema = { type: "object", properties: { city }, required: ["city"], additionalProperties: false };

await run({
  "`messages.create` answers with text, a stop reason and usage": async () => {
    const reply = await client.messages.create({ model, messages, max_tokens: 3, temperature: 0 });
    equal([reply.content[0].type, reply.stop_reason, reply.usage.output_tokens], ["text", "max_tokens", 3]);
  },
  "`messages.stream` accumulates the message that `messages.create` gives": async () => {
    const body = { model, messages, max_tokens: 12, temperature: 0 };
    const whole = await client.messages.create(body);
    let text = "";
    const final = await client.messages.stream(body).on("text", (delta) => (text += delta)).finalMessage();
    equal([text, final.content[0].text], [whole.content[0].text, whole.content[0].text]);
    equal(final.usage.output_tokens, whole.usage.output_tokens);
  },
  "a tool that must be used is used, with input of its schema, streamed or not": async () => {
    const body = {
      model: target.glm_model, messages, max_tokens: 400, thinking: { type: "disabled" },
      tools: [{ name: "weather", input_schema }], tool_choice: { type: "any" },
    };
    const whole = await glm.messages.create(body);
    equal(whole.stop_reason, "tool_use");
    const final = await glm.messages.stream(body).finalMessage();
    for (const reply of [whole, final]) {
      ensure(["Lisbon", "Porto"].includes(reply.content.find((block) => block.type === "tool_use").input.city));
    }
  },
  "`messages.countTokens` counts": async () => {
    ensure((await client.messages.countTokens({ model, messages })).input_tokens > 0);
  },
  "`models.list` reads the models": async () => {
    const names = [];
    for await (const each of client.models.list()) names.push(each.id);
    ensure(names.includes(model));
  },
  "errors are the client's typed exceptions": async () => {
    const refused = (body) => client.messages.create({ model, messages, max_tokens: 1, ...body }).then(() => null, (error) => error);
    ensure((await refused({ model: "nope" })) instanceof Anthropic.NotFoundError);
    ensure((await refused({ colour: 1 })) instanceof Anthropic.BadRequestError);
  },
});
