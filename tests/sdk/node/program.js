// A program that ends with its `main`, and what the SDK's functions with a callback are as promises.
'use strict';

exports.run = (main) => main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});

exports.callback = (call) => new Promise((resolve, reject) => {
  call((error, value) => (error ? reject(error) : resolve(value)));
});
