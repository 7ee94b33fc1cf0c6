// A device made with the real SDK over MQTT that does what it is told: a line of JSON asks, a line of JSON answers.
// {"do":"create", ...}, {"do":"connect"}, {"do":"send", ...} ...; {"error": null, "value": ..} or the SDK's error. What it
// hears by itself comes as lines {"event": {"kind": .., ..}}: packets ("wire") and connections ("state") if `create` asks for
// them, and what the SDK calls its application for once `listen` was asked. Ends with its input.
'use strict';

const fs = require('node:fs');
const readline = require('node:readline');
const mqtt = require('mqtt');
const { Client, Message, SharedAccessKeyAuthenticationProvider } = require('azure-iot-device');
const { ExponentialBackOffWithJitter, NoRetry } = require('azure-iot-common');
const { Mqtt } = require('azure-iot-device-mqtt');
const { callback, run } = require('./program.js');

const FIELDS = { message_id: 'messageId', correlation_id: 'correlationId', user_id: 'userId',
  content_type: 'contentType', content_encoding: 'contentEncoding', expiry_time_utc: 'expiryTimeUtc' };

let client;
let twin;

const event = (kind, content) => console.log(JSON.stringify({ event: { kind, ...content } }));

// Bytes as [text, encoding], for JSON has none.
function body(bytes) {
  const text = bytes.toString('utf8');
  return Buffer.from(text, 'utf8').equals(bytes) ? [text, 'utf-8'] : [bytes.toString('base64'), 'base64'];
}

function tap() {
  const { connect } = mqtt;
  mqtt.connect = (...how) => {
    const connection = connect(...how);
    // Once closed, the SDK's own client never tells again that it is disconnected.
    connection.on('connect', () => event('state', { connected: true }));
    connection.on('close', () => event('state', { connected: false }));
    connection.on('packetreceive', (packet) => {
      const { cmd, topic, qos, dup, retain } = packet;
      if (cmd === 'connack') event('wire', { cmd, code: packet.returnCode, present: packet.sessionPresent });
      if (cmd === 'suback') event('wire', { cmd, granted: [...packet.granted] });
      if (cmd === 'publish') event('wire', { cmd, topic, qos, dup, retain, body: body(packet.payload) });
    });
    return connection;
  };
}

function onMessage(message) {
  const content = { properties: {} };
  for (const name of [...Object.values(FIELDS), 'ack', 'to']) {
    if (message[name] !== undefined) content[name] = String(message[name]);
  }
  for (const { key, value } of message.properties.propertyList) content.properties[key] = value;
  event('message', { content, body: body(message.getData()) });
  client.complete(message, () => {});
}

const does = {
  // `renewal`: how long a token is valid, and how long before its end there is a new one; seconds.
  async create({ connectionString, sharedAccessSignature, ca, renewal, retries, tapped }) {
    if (tapped) tap();
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
  async disconnect() {
    await client.close();
  },
  async send({ body: text, encoding, properties, system }) {
    const message = new Message(Buffer.from(text, encoding || 'utf8'));
    for (const [name, value] of Object.entries(system)) message[FIELDS[name]] = value;
    for (const [name, value] of Object.entries(properties)) message.properties.add(name, value);
    await client.sendEvent(message);
  },
  // `answers`: by the name of a method {"status", "delay" in seconds, "payload" or else the request's}.
  async listen({ answers }) {
    for (const [name, answer] of Object.entries(answers)) {
      client.onDeviceMethod(name, (request, response) => {
        event('method', { name: request.methodName, payload: request.payload });
        const payload = 'payload' in answer ? answer.payload : request.payload;
        setTimeout(() => response.send(answer.status, payload, () => {}), (answer.delay || 0) * 1000);
      });
    }
    client.on('message', onMessage);
    twin = await client.getTwin();
    twin.on('properties.desired', (patch) => event('desired', { patch }));
  },
  async getTwin() {
    if (!twin) twin = await client.getTwin();
    const { desired, reported } = (await callback((done) => twin.get(done))).properties;
    return JSON.parse(JSON.stringify({ desired, reported })); // without the methods
  },
  async report({ patch }) {
    await callback((done) => twin.properties.reported.update(patch, done));
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    let error = null;
    let value;
    try {
      value = await does[asked.do](asked);
    } catch (e) {
      error = { name: e.name, message: e.message };
    }
    console.log(JSON.stringify({ error, value }));
  }
  await client.close();
}

run(main);
