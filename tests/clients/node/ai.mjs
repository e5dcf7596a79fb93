// The AI SDK with its provider for servers like OpenAI's.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embed, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const fixed = { maxOutputTokens: 16, temperature: 0, maxRetries: 0 };
const provider = ({ url, key }) =>
  createOpenAICompatible({
    name: "mongars",
    baseURL: url,
    apiKey: key,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
const ask = (to, more = {}) =>
  generateText({ model: provider(to)("mongars"), prompt: "Say hello.", ...fixed, ...more });
const weather = tool({
  description: "The weather of a town.",
  inputSchema: z.object({ town: z.string() }),
  execute: async () => "Rain.",
});
const status = (expected) => (error) => {
  assert.ok(APICallError.isInstance(error), String(error));
  return error.statusCode === expected;
};

export const checks = {
  async chat(to) {
    const answer = await ask(to);
    assert.ok(answer.text);
    assert.ok(answer.usage.outputTokens > 0);
  },
  async streaming_with_usage(to) {
    const stream = streamText({ model: provider(to)("mongars"), prompt: "Say hello.", ...fixed });
    let text = "";
    for await (const part of stream.textStream) text += part;
    assert.equal(text, (await ask(to)).text);
    assert.ok((await stream.usage).outputTokens > 0);
  },
  async aborted_stream(to) {
    const controller = new AbortController();
    const stream = streamText({
      model: provider(to)("mongars"),
      prompt: "Count.",
      ...fixed,
      maxOutputTokens: 500,
      abortSignal: controller.signal,
    });
    for await (const _ of stream.textStream) {
      controller.abort();
      break;
    }
    assert.ok((await ask(to)).text);
  },
  async system_message_and_several_turns(to) {
    const messages = [
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Hello" },
      { role: "user", content: "And?" },
    ];
    assert.ok((await ask(to, { prompt: undefined, system: "Be brief.", messages })).text);
  },
  async context_exceeded(to) {
    await assert.rejects(ask(to, { prompt: to.tooLong }), (error) => {
      assert.equal(error.data.error.code, "context_length_exceeded");
      return status(400)(error);
    });
  },
  async wrong_key(to) {
    await assert.rejects(ask({ ...to, key: "nonsense" }), status(401));
  },
  async unknown_model(to) {
    const model = provider(to)("gpt-9");
    await assert.rejects(ask(to, { model }), status(404));
  },
  async timeout(to) {
    const abortSignal = AbortSignal.timeout(50);
    await assert.rejects(ask(to, { maxOutputTokens: 500, abortSignal }), { name: /Timeout|Abort/ });
  },
  async structured_output(to) {
    const { object } = await generateObject({
      model: provider(to)("mongars"),
      prompt: "A cat named Tom, aged 3.",
      schema: z.object({ name: z.string(), age: z.number().int() }),
      ...fixed,
      maxOutputTokens: 200,
    });
    assert.equal(typeof object.name, "string");
  },
  async tools_answered_with_text(to) {
    assert.ok((await ask(to, { tools: { weather } })).text);
  },
  async forced_tool_call(to) {
    const answer = await ask(to, { tools: { weather }, toolChoice: "required" });
    assert.ok(answer.toolCalls.length);
  },
  async embeddings(to) {
    const model = provider(to).textEmbeddingModel("mongars");
    assert.ok((await embed({ model, value: "Hello", maxRetries: 0 })).embedding.length);
  },
  async completions(to) {
    assert.ok((await ask(to, { model: provider(to).completionModel("mongars") })).text);
  },
};
