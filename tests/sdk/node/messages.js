// What the SDK is given to send, and what the hub must show for it: one table for both sides.
'use strict';

exports.HUB = 'hub-double.example';
exports.DEVICE = 'node-dev1';
exports.MODULE = 'node-mod1';

const plain = (n) => ({
  body: JSON.stringify({ n }),
  messageId: `stream-${n}`,
  properties: { seq: String(n) },
});

// Sent one by one, as the device.
exports.single = [
  { body: '{"temperature":21.5}', messageId: 'one', contentType: 'application/json', contentEncoding: 'utf-8',
    correlationId: 'cor 1', properties: { 'alert level': 'high&low=é', empty: '' } },
  { body: 'plain text', messageId: 'two', properties: {} },
  { body: '', messageId: 'empty-body', properties: { seq: '1' } },
  { body: Buffer.from([0, 1, 2, 253, 254, 255]), messageId: 'binary', properties: { seq: '2' } },
  { body: 'x'.repeat(200000), messageId: 'large', properties: { seq: '3' } },
];

// Sent without waiting for one another, as the device (this SDK does not batch over AMQP).
exports.stream = Array.from({ length: 50 }, (_, i) => plain(i + 10));

// Sent as the module.
exports.module = [
  { body: 'from a module', messageId: 'mod-1', properties: { k: 'v' } },
];
