#!/usr/bin/env node
// Publishes a position ten times a second, in Node.js.
//
//   one terminal:   ./publish.js /run/kstate/demo.position
//   another:        any watcher, such as ./watch.js /run/kstate/demo.position
//
// A position is a line of text, "STEP X Y". A second argument says how many to publish.
"use strict";

const { constants } = require("node:fs");
const { open } = require("node:fs/promises");
const { setTimeout: sleep } = require("node:timers/promises");

async function publish(path, count) {
  // Opening with O_CREAT subscribes, and creates the state if it is not there.
  const state = await open(path, constants.O_WRONLY | constants.O_CREAT, 0o644);
  for (let step = 0; step < count; step++) {
    const [x, y] = [Math.cos(step / 10), Math.sin(step / 10)];
    // Truncating commits nothing: it makes the next write replace the whole value, which the last
    // one may have been longer than. One write is one version.
    await state.truncate(0);
    await state.write(`${step} ${x.toFixed(3)} ${y.toFixed(3)}\n`, 0);
    await sleep(100);
  }
  await state.close();
}

const [path, count = Infinity] = process.argv.slice(2);
if (path === undefined) {
  console.error(`usage: ${process.argv[1]} STATE [COUNT]`);
  process.exit(2);
}
publish(path, Number(count)).catch((error) => {
  console.error(`${path}: ${error.message}`);
  process.exitCode = 1;
});
