// A device made with the real SDK over MQTT that does what it is told: a line of JSON asks, a line of JSON answers.
// {"do":"create", ...}, {"do":"connect"}, {"do":"send", ...}; {"error": null} or the SDK's error. Ends with its input.
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const { Client, Message, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const { ExponentialBackOffWithJitter, NoRetry } = require('azure-iot-common');
const { Mqtt } = require('azure-iot-device-mqtt');

const FIELDS = { message_id: 'messageId', correlation_id: 'correlationId', user_id: 'userId',
  content_type: 'contentType', content_encoding: 'contentEncoding' };

let client;

const does = {
  // `renewal`: how long a token is valid, and how long before its end there is a new one; seconds.
  async create({ connectionString, sharedAccessSignature, ca, renewal, retries }) {
    if (sharedAccessSignature) {
      client = Client.fromSharedAccessSignature(sharedAccessSignature, Mqtt);
    } else {
      const keys = SharedAccessKeyAuthenticationProvider.fromConnectionString(connectionString, ...(renewal || []));
      client = Client.fromAuthenticationProvider(keys, Mqtt);
    }
    // Its own would try for four minutes what may come out otherwise.
    client.setRetryPolicy(retries ? new ExponentialBackOffWithJitter() : new NoRetry());
    client.on('error', () => {}); // `connect` and `send` tell
    await client.setOptions({ ca: fs.readFileSync(ca, 'utf8') });
  },
  async connect() {
    await client.open();
  },
  async send({ body, properties, system }) {
    const message = new Message(body);
    for (const [name, value] of Object.entries(system)) message[FIELDS[name]] = value;
    for (const [name, value] of Object.entries(properties)) message.properties.add(name, value);
    await client.sendEvent(message);
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let error = null;
    try {
      await does[asked.do](asked);
    } catch (e) {
      error = { name: e.name, message: e.message };
    }
    console.log(JSON.stringify({ error }));
  }
  await client.close();
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
