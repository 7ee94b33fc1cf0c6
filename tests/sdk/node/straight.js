// What the programs of run.sh share: the real SDK over AMQP straight to the hub double, with the device of messages.js, and the
// double's admin API. The key and the CA come in the environment, the port of the admin API as the first argument.
'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const { Amqp } = require('azure-iot-device-amqp');
const table = require('./messages.js');

const admin = `http://127.0.0.1:${process.argv[2]}`;

// Of the device, or of its module.
exports.connectionString = (module, key = process.env.DEVICE_KEY) =>
  `HostName=${table.HUB};DeviceId=${table.DEVICE}${module ? `;ModuleId=${module}` : ''};SharedAccessKey=${key}`;

exports.made = async (Kind, connectionString) => {
  const client = Kind.fromConnectionString(connectionString, Amqp);
  await client.setOptions({ ca: fs.readFileSync(process.env.CA_FILE, 'utf8') });
  return client;
};

exports.connected = async (Kind, connectionString) => {
  const client = await exports.made(Kind, connectionString);
  await client.open();
  return client;
};

// Status and body; the body of a refusal is text.
exports.ask = async (method, path, body) => {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(admin + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, body: answer.ok ? JSON.parse(text) : text };
};

exports.get = async (path) => {
  const { status, body } = await exports.ask('GET', path);
  assert.strictEqual(status, 200, body);
  return body;
};

// What `look` gives, once that is true.
exports.until = async (what, look) => {
  for (let tries = 0; tries < 600; tries += 1) {
    const found = await look();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return assert.fail(`in vain: ${what}`);
};
