// Sends the table of messages.js with the real SDK over AMQP, straight to the hub double.
'use strict';

const { Client, Message, ModuleClient } = require('azure-iot-device');
const table = require('./messages.js');
const { run } = require('./program.js');
const { connected, connectionString, made } = require('./straight.js');

const wrongKey = Buffer.from('not the key of this device').toString('base64');

function message(m) {
  const out = new Message(m.body);
  for (const field of ['messageId', 'correlationId', 'contentType', 'contentEncoding']) {
    if (m[field] !== undefined) out[field] = m[field];
  }
  for (const [name, value] of Object.entries(m.properties)) out.properties.add(name, value);
  return out;
}

async function main() {
  const client = await connected(Client, connectionString());
  for (const m of table.single) await client.sendEvent(message(m));
  await Promise.all(table.stream.map((m) => client.sendEvent(message(m))));
  await client.close();

  const module = await connected(ModuleClient, connectionString(table.MODULE));
  for (const m of table.module) await module.sendEvent(message(m));
  await module.close();

  // The other way round: a key that is not the device's gets nowhere.
  const refused = await made(Client, connectionString(null, wrongKey));
  try {
    await refused.open();
  } catch (error) {
    console.log(`a wrong key is refused: ${error.name}`);
    if (error.name !== 'UnauthorizedError') throw error;
    return;
  }
  throw new Error('the hub double took a wrong key');
}

run(main);
