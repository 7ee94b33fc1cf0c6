// Asks the hub double's admin API what it received, and compares it with the table of messages.js.
'use strict';

const assert = require('node:assert');
const table = require('./messages.js');
const { run } = require('./program.js');
const { get } = require('./straight.js');

const SYSTEM = { messageId: 'message-id', correlationId: 'correlation-id', contentType: 'content-type',
  contentEncoding: 'content-encoding' };

function compare(sent, got, module) {
  const wanted = Buffer.from(sent.body);
  const body = Buffer.from(got.body, got.bodyEncoding === 'base64' ? 'base64' : 'utf8');
  assert.ok(wanted.equals(body), `${sent.messageId}: body`);
  assert.deepStrictEqual(got.properties, { ...sent.properties }, `${sent.messageId}: properties`);
  for (const [field, name] of Object.entries(SYSTEM)) {
    assert.strictEqual(got.systemProperties[name], sent[field], `${sent.messageId}: ${name}`);
  }
  const { 'iothub-enqueuedtime': time, 'iothub-connection-auth-generation-id': generation, ...stamps } =
    got.annotations;
  assert.ok(Date.parse(time) > 0 && Number(generation) > 0, `${sent.messageId}: stamps`);
  const expected = {
    'iothub-connection-device-id': table.DEVICE,
    'iothub-connection-auth-method':
      `{"scope":"${module ? 'module' : 'device'}","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}`,
    'iothub-message-source': 'Telemetry',
  };
  if (module) expected['iothub-connection-module-id'] = module;
  assert.deepStrictEqual(stamps, expected, `${sent.messageId}: annotations`);
  assert.strictEqual(got.deviceId, table.DEVICE);
  assert.strictEqual(got.moduleId, module);
}

async function main() {
  const { messages } = await get('/messages?limit=100000');
  const asDevice = [...table.single, ...table.stream];
  assert.strictEqual(messages.length, asDevice.length + table.module.length, 'number of messages');
  asDevice.forEach((sent, i) => compare(sent, messages[i], null));
  table.module.forEach((sent, i) => compare(sent, messages[asDevice.length + i], table.MODULE));

  const counts = await get('/counts');
  assert.strictEqual(counts.duplicates, 0, 'duplicates');
  assert.strictEqual(counts.reordered, 0, 'reordered');
  assert.ok(counts.tokensRefused > 0, 'the wrong key was seen and refused');
  console.log(`the hub double shows exactly the ${messages.length} messages that the Node SDK sent`);
}

run(main);
