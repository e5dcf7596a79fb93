// The official Node client.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const hello = [{ role: "user", content: "Say hello." }];
const fixed = { model: "mongars", messages: hello, max_tokens: 16, temperature: 0 };
const tools = [
  { type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } },
];
const open = ({ url, key }, more = {}) =>
  new OpenAI({ baseURL: url, apiKey: key, timeout: 60_000, ...more });
const ask = (to, more = {}) => open(to).chat.completions.create({ ...fixed, ...more });

export const checks = {
  async chat(to) {
    const answer = await ask(to);
    assert.ok(answer.choices[0].message.content);
    assert.ok(answer.usage.total_tokens > 0);
  },
  async streaming_with_usage(to) {
    let text = "";
    let usage = null;
    for await (const chunk of await ask(to, { stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage;
    }
    assert.equal(text, (await ask(to)).choices[0].message.content);
    assert.ok(usage.completion_tokens > 0);
  },
  async aborted_stream(to) {
    const stream = await ask(to, { stream: true, max_tokens: 500 });
    for await (const _ of stream) break;
    assert.ok((await ask(to)).choices[0].message.content);
  },
  async system_message_and_several_turns(to) {
    const messages = [
      { role: "system", content: "Be brief." },
      ...hello,
      (await ask(to)).choices[0].message,
      { role: "user", content: "Again." },
    ];
    assert.ok((await ask(to, { messages })).choices[0].message.content);
  },
  async models(to) {
    const names = [];
    for await (const model of open(to).models.list()) names.push(model.id);
    assert.ok(names.includes("mongars"));
  },
  async context_exceeded(to) {
    await assert.rejects(ask(to, { messages: [{ role: "user", content: to.tooLong }] }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      return error.code === "context_length_exceeded";
    });
  },
  async wrong_key(to) {
    await assert.rejects(ask({ ...to, key: "nonsense" }), OpenAI.AuthenticationError);
  },
  async unknown_model(to) {
    await assert.rejects(ask(to, { model: "gpt-9" }), OpenAI.NotFoundError);
  },
  async timeout(to) {
    const impatient = open(to, { timeout: 50, maxRetries: 0 });
    await assert.rejects(
      impatient.chat.completions.create({ ...fixed, max_tokens: 500 }),
      (error) => error instanceof OpenAI.APIConnectionTimeoutError || error.status === 504,
    );
  },
  async structured_output(to) {
    const Pet = z.object({ name: z.string(), age: z.number().int() });
    const answer = await open(to).chat.completions.parse({
      ...fixed,
      messages: [{ role: "user", content: "A cat named Tom, aged 3." }],
      max_tokens: 200,
      response_format: zodResponseFormat(Pet, "pet"),
    });
    assert.equal(typeof answer.choices[0].message.parsed.name, "string");
  },
  async json_mode(to) {
    const answer = await ask(to, { response_format: { type: "json_object" }, max_tokens: 1000 });
    JSON.parse(answer.choices[0].message.content);
  },
  async tools_answered_with_text(to) {
    assert.ok((await ask(to, { tools, tool_choice: "auto" })).choices[0].message.content);
  },
  async forced_tool_call(to) {
    const answer = await ask(to, { tools, tool_choice: "required" });
    assert.ok(answer.choices[0].message.tool_calls.length);
  },
  async embeddings(to) {
    const found = await open(to).embeddings.create({ model: "mongars", input: "Hello" });
    assert.ok(found.data[0].embedding.length);
  },
  async completions(to) {
    await open(to).completions.create({ model: "mongars", prompt: "One, two,", max_tokens: 4 });
  },
  async responses(to) {
    const answer = await open(to).responses.create({ model: "mongars", input: "Say hello." });
    assert.ok(answer.output_text);
  },
};
