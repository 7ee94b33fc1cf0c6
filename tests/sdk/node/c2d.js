// Cloud-to-device messages of the hub double with the real SDK over AMQP: completed, abandoned, rejected, and one that waits
// for the device. The key comes in the environment; the first argument is the port of the admin API.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { Client } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const table = require('./messages.js');

const ca = fs.readFileSync(process.env.CA_FILE, 'utf8');
const admin = `http://127.0.0.1:${process.argv[2]}`;
const queue = `${admin}/devices/${table.DEVICE}/c2d`;
const connectionString = `HostName=${table.HUB};DeviceId=${table.DEVICE};SharedAccessKey=${process.env.DEVICE_KEY}`;

async function send(message) {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(queue, { method: 'POST', headers, body: JSON.stringify({ ack: 'full', ...message }) });
  assert.strictEqual(answer.status, 201, await answer.text());
}

const get = async (url) => (await fetch(url)).json();

async function until(what, look) {
  for (let tries = 0; tries < 600; tries += 1) {
    const found = await look();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return assert.fail(`in vain: ${what}`);
}

async function main() {
  // The first one waits before the device has ever asked.
  await send({
    messageId: 'm-1', correlationId: 'c-9', userId: 'ops', contentType: 'application/json', contentEncoding: 'utf-8',
    expiryTimeUtc: '2999-01-01T00:00:00Z', body: { led: true }, properties: { colour: 'deep blue' },
  });
  const client = Client.fromConnectionString(connectionString, Amqp);
  await client.setOptions({ ca });
  await client.open();
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

  await send({ messageId: 'm-2', body: 'again' });
  await send({ messageId: 'm-3', body: 'no' });
  const settled = await until('three outcomes', async () => {
    const { messages: records } = await get(queue);
    return records.length === 3 && records.every((record) => record.outcome) && records;
  });
  assert.deepStrictEqual(settled.map(({ messageId, state, deliveryCount, handedOut }) =>
    [messageId, state, deliveryCount, handedOut]), [
    ['m-1', 'Completed', 0, 1],
    ['m-2', 'Completed', 1, 2],
    ['m-3', 'DeadLettered', 0, 1],
  ]);
  const { batches, open } = await get(`${admin}/feedback`);
  const feedback = batches.flatMap((batch) => batch.records).concat(open);
  assert.deepStrictEqual(feedback.map((record) => `${record.originalMessageId} ${record.statusCode}`).sort(),
    ['m-1 Success', 'm-2 Success', 'm-3 Rejected']);
  await client.close();
  console.log('cloud-to-device messages: as the Node SDK expects them');
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
