// Sends the table of messages.js with the real SDK over AMQP, straight to the hub double. Keys come in the environment.
'use strict';

const fs = require('node:fs');
const { Client, Message, ModuleClient } = require('azure-iot-device');
const { Amqp } = require('azure-iot-device-amqp');
const table = require('./messages.js');

const ca = fs.readFileSync(process.env.CA_FILE, 'utf8');
const key = process.env.DEVICE_KEY;
const wrongKey = Buffer.from('not the key of this device').toString('base64');

function message(m) {
  const out = new Message(m.body);
  for (const field of ['messageId', 'correlationId', 'contentType', 'contentEncoding']) {
    if (m[field] !== undefined) out[field] = m[field];
  }
  for (const [name, value] of Object.entries(m.properties)) out.properties.add(name, value);
  return out;
}

async function connected(Kind, connectionString) {
  const client = Kind.fromConnectionString(connectionString, Amqp);
  await client.setOptions({ ca });
  await client.open();
  return client;
}

async function main() {
  const device = `HostName=${table.HUB};DeviceId=${table.DEVICE}`;

  const client = await connected(Client, `${device};SharedAccessKey=${key}`);
  for (const m of table.single) await client.sendEvent(message(m));
  await Promise.all(table.stream.map((m) => client.sendEvent(message(m))));
  await client.close();

  const module = await connected(ModuleClient, `${device};ModuleId=${table.MODULE};SharedAccessKey=${key}`);
  for (const m of table.module) await module.sendEvent(message(m));
  await module.close();

  // The other way round: a key that is not the device's gets nowhere.
  const refused = Client.fromConnectionString(`${device};SharedAccessKey=${wrongKey}`, Amqp);
  await refused.setOptions({ ca });
  try {
    await refused.open();
  } catch (error) {
    console.log(`a wrong key is refused: ${error.name}`);
    if (error.name !== 'UnauthorizedError') throw error;
    return;
  }
  throw new Error('the hub double took a wrong key');
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
