// Twins and direct methods of the hub double with the real SDK over AMQP, for a device and for a module.
'use strict';

const assert = require('node:assert');
const { Client, ModuleClient } = require('azure-iot-device');
const table = require('./messages.js');
const { callback, run } = require('./program.js');
const { ask, connected, connectionString, get, until } = require('./straight.js');

async function check(Kind, module) {
  const path = `/twins/${table.DEVICE}${module ? `/modules/${module}` : ''}`;
  const offline = await ask('POST', `${path}/methods`, { methodName: 'echo' });
  assert.strictEqual(offline.status, 404, 'nobody is there to be called');

  const client = await connected(Kind, connectionString(module));
  const twin = await client.getTwin();
  assert.strictEqual(twin.properties.desired.$version, 1);
  const changes = [];
  twin.on('properties.desired', (patch) => changes.push(patch));
  await callback((done) => twin.properties.reported.update({ a: { b: 1 }, c: [2] }, done));
  await callback((done) => twin.properties.reported.update({ a: null }, done));
  const shown = await get(path);
  const { $metadata, ...reported } = shown.properties.reported;
  assert.deepStrictEqual(reported, { c: [2], $version: 3 });
  assert.ok($metadata.c.$lastUpdated, 'the service side sees when it was reported');
  await assert.rejects(callback((done) => twin.properties.reported.update({ 'a.b': 1 }, done)));

  const patched = await ask('PATCH', path, { properties: { desired: { x: { y: 5 } } } });
  assert.strictEqual(patched.status, 200);
  // The first event is the twin as it was read.
  assert.deepStrictEqual(await until('it is told', () => changes.find((patch) => patch.x)), { x: { y: 5 }, $version: 2 });

  const on = (client.onDeviceMethod || client.onMethod).bind(client);
  on('echo', (request, response) => response.send(207, { got: request.payload }));
  // The links are attached behind the scenes.
  const answer = await until('it can be called', async () => {
    const got = await ask('POST', `${path}/methods`, { methodName: 'echo', payload: { in: [1] } });
    return got.status !== 404 && got;
  });
  assert.deepStrictEqual(answer.body, { status: 207, payload: { got: { in: [1] } } });
  const unknown = await ask('POST', `${path}/methods`, { methodName: 'nobody', responseTimeoutInSeconds: 1 });
  assert.strictEqual(unknown.status, 504, 'the SDK does not answer for a method that it does not have');
  await client.close();
}

async function main() {
  await check(Client);
  await check(ModuleClient, table.MODULE);
  console.log('twins and methods of a device and of a module: as the Node SDK expects them');
}

run(main);
