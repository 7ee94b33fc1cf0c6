// Twins and direct methods of the hub double with the real SDK over AMQP, for a device and for a module. Keys come in the
// environment; the first argument is the port of the admin API.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { Client, ModuleClient } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const table = require('./messages.js');

const ca = fs.readFileSync(process.env.CA_FILE, 'utf8');
const key = process.env.DEVICE_KEY;
const admin = `http://127.0.0.1:${process.argv[2]}/twins/${table.DEVICE}`;

async function ask(method, path, body) {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(admin + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, body: answer.ok ? JSON.parse(text) : text };
}

const callback = (call) => new Promise((resolve, reject) => {
  call((error, value) => (error ? reject(error) : resolve(value)));
});

async function check(Kind, connectionString, path) {
  const offline = await ask('POST', `${path}/methods`, { methodName: 'echo' });
  assert.strictEqual(offline.status, 404, 'nobody is there to be called');

  const client = Kind.fromConnectionString(connectionString, Amqp);
  await client.setOptions({ ca });
  await client.open();

  const twin = await client.getTwin();
  assert.strictEqual(twin.properties.desired.$version, 1);
  const changes = [];
  let told;
  twin.on('properties.desired', (patch) => {
    changes.push(patch);
    if (told) told();
  });
  await callback((done) => twin.properties.reported.update({ a: { b: 1 }, c: [2] }, done));
  await callback((done) => twin.properties.reported.update({ a: null }, done));
  const shown = await ask('GET', path);
  const { $metadata, ...reported } = shown.body.properties.reported;
  assert.deepStrictEqual(reported, { c: [2], $version: 3 });
  assert.ok($metadata.c.$lastUpdated, 'the service side sees when it was reported');
  await assert.rejects(callback((done) => twin.properties.reported.update({ 'a.b': 1 }, done)));

  const next = new Promise((resolve) => { told = resolve; });
  const patched = await ask('PATCH', path, { properties: { desired: { x: { y: 5 } } } });
  assert.strictEqual(patched.status, 200);
  // The first event is the twin as it was read.
  while (!changes.some((patch) => patch.x)) await Promise.race([next, new Promise((r) => setTimeout(r, 50))]);
  assert.deepStrictEqual(changes.find((patch) => patch.x), { x: { y: 5 }, $version: 2 });

  const on = (client.onDeviceMethod || client.onMethod).bind(client);
  on('echo', (request, response) => response.send(207, { got: request.payload }));
  // The links are attached behind the scenes.
  let answer = { status: 404 };
  for (let tries = 0; answer.status === 404 && tries < 200; tries += 1) {
    answer = await ask('POST', `${path}/methods`, { methodName: 'echo', payload: { in: [1] } });
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.deepStrictEqual(answer.body, { status: 207, payload: { got: { in: [1] } } });
  const unknown = await ask('POST', `${path}/methods`, { methodName: 'nobody', responseTimeoutInSeconds: 1 });
  assert.strictEqual(unknown.status, 504, 'the SDK does not answer for a method that it does not have');
  await client.close();
}

async function main() {
  const device = `HostName=${table.HUB};DeviceId=${table.DEVICE}`;
  await check(Client, `${device};SharedAccessKey=${key}`, '');
  await check(ModuleClient, `${device};ModuleId=${table.MODULE};SharedAccessKey=${key}`, `/modules/${table.MODULE}`);
  console.log('twins and methods of a device and of a module: as the Node SDK expects them');
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
