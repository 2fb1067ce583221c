// OpenAI's client for JavaScript, against the running program.
//
// Usage: node openai.mjs URL

import assert from 'node:assert/strict'
import OpenAI from 'openai'

const client = new OpenAI({ baseURL: `${process.argv[2].replace(/\/$/, '')}/v1`, apiKey: 'none', maxRetries: 0 })
const settings = {
  model: 'any',
  messages: [{ role: 'user', content: 'Tell me a story about a fox.' }],
  seed: 7,
  max_tokens: 24,
}

const models = (await client.models.list()).data
assert.equal(models.length, 1)

const reply = await client.chat.completions.create(settings)
const text = reply.choices[0].message.content
assert.equal(reply.choices[0].finish_reason, 'length')
assert.equal(reply.usage.completion_tokens, 24)

let streamed = ''
let usage
const options = { stream: true, stream_options: { include_usage: true } }
for await (const chunk of await client.chat.completions.create({ ...settings, ...options })) {
  streamed += chunk.choices[0]?.delta.content ?? ''
  usage = chunk.usage ?? usage
}
assert.equal(streamed, text)
assert.equal(usage.total_tokens, reply.usage.total_tokens)

const middle = Math.floor(text.length / 2)
const stop = text.slice(middle, middle + 4)
const stopped = await client.chat.completions.create({ ...settings, stop })
assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(stop)))
assert.equal(stopped.choices[0].finish_reason, 'stop')

const response = await client.responses.create({ model: 'any', input: 'Hi', max_output_tokens: 8, temperature: 0 })
let deltas = ''
const events = await client.responses.create({
  model: 'any',
  input: 'Hi',
  max_output_tokens: 8,
  temperature: 0,
  stream: true,
})
for await (const event of events) if (event.type === 'response.output_text.delta') deltas += event.delta
assert.ok(deltas.length > 0)
assert.equal(deltas, response.output_text)

await assert.rejects(client.chat.completions.create({ ...settings, temperature: 3 }), (error) => {
  assert.ok(error instanceof OpenAI.BadRequestError)
  assert.equal(error.param, 'temperature')
  return true
})
await assert.rejects(client.models.retrieve('gpt-4'), OpenAI.NotFoundError)

// Leaving a stream ends it here and there.
const left = await client.chat.completions.create({ ...settings, max_tokens: undefined, stream: true })
for await (const _ of left) break

console.log('ok      openai for JavaScript')
