// Cloud-to-device messages of the hub double with the real SDK over AMQP: completed, abandoned, rejected, and one that waits
// for the device.
'use strict';

const assert = require('node:assert');
const { Client } = require('azure-iot-device');
const table = require('./messages.js');
const { run } = require('./program.js');
const { ask, connected, connectionString, get, until } = require('./straight.js');

const queue = `/devices/${table.DEVICE}/c2d`;

async function send(message) {
  const { status, body } = await ask('POST', queue, { ack: 'full', ...message });
  assert.strictEqual(status, 201, body);
}

async function main() {
  // The first one waits before the device has ever asked.
  await send({
    messageId: 'm-1', correlationId: 'c-9', userId: 'ops', contentType: 'application/json', contentEncoding: 'utf-8',
    expiryTimeUtc: '2999-01-01T00:00:00Z', body: { led: true }, properties: { colour: 'deep blue' },
  });
  const client = await connected(Client, connectionString());
  const messages = [];
  const answers = { 'm-2': ['abandon', 'complete'], 'm-3': ['reject'] };
  client.on('message', (message) => {
    messages.push(message);
    const how = (answers[message.messageId] || ['complete']).shift();
    client[how](message, (error) => { if (error) throw error; });
  });
  const first = await until('the message that waited', () => messages[0]);
  assert.strictEqual(first.messageId, 'm-1');
  assert.strictEqual(first.correlationId, 'c-9');
  // The SDK itself does not show the user id over AMQP; it has it in the message of its AMQP library.
  assert.strictEqual(String(first.transportObj.user_id), 'ops');
  assert.strictEqual(first.ack, 'full');
  assert.strictEqual(String(first.contentType), 'application/json');
  assert.strictEqual(String(first.contentEncoding), 'utf-8');
  assert.strictEqual(first.to, `/devices/${table.DEVICE}/messages/deviceBound`);
  assert.strictEqual(new Date(first.expiryTimeUtc).toISOString(), '2999-01-01T00:00:00.000Z');
  assert.strictEqual(first.getData().toString(), '{"led":true}');
  const properties = first.properties.propertyList.filter(({ key }) => key === 'colour');
  assert.deepStrictEqual(properties, [{ key: 'colour', value: 'deep blue' }]);

  const settledAre = (number) => until(`${number} outcomes`, async () => {
    const { messages: records } = await get(queue);
    return records.length === number && records.every((record) => record.outcome) && records;
  });
  // One after the other: of two outcomes that are to go out at the same time, the SDK's AMQP library tells the first for both.
  await send({ messageId: 'm-2', body: 'again' });
  await settledAre(2);
  await send({ messageId: 'm-3', body: 'no' });
  const settled = await settledAre(3);
  assert.deepStrictEqual(settled.map(({ messageId, state, deliveryCount, handedOut }) =>
    [messageId, state, deliveryCount, handedOut]), [
    ['m-1', 'Completed', 0, 1],
    ['m-2', 'Completed', 1, 2],
    ['m-3', 'DeadLettered', 0, 1],
  ]);
  const { batches, open } = await get('/feedback');
  const feedback = batches.flatMap((batch) => batch.records).concat(open);
  assert.deepStrictEqual(feedback.map((record) => `${record.originalMessageId} ${record.statusCode}`).sort(),
    ['m-1 Success', 'm-2 Success', 'm-3 Rejected']);
  await client.close();
  console.log('cloud-to-device messages: as the Node SDK expects them');
}

run(main);
