#!/usr/bin/env node
// Prints a position whenever it changes, in Node.js.
//
//   one terminal:   any publisher, such as ./publish.js /run/kstate/demo.position
//   another:        ./watch.js /run/kstate/demo.position
//
// A second argument says how many to print. For no more than four a second, watch
// /run/kstate/demo.position@4hz: the suffixes of a view add up.
"use strict";

const { open } = require("node:fs/promises");

async function watch(path, count) {
  // Of this view a read waits until there is a version that has not been read. It waits in one of
  // node's four threads for files: to watch more than a few, set UV_THREADPOOL_SIZE.
  const state = await open(path.includes("@") ? `${path},wait` : `${path}@wait`);
  const buffer = Buffer.alloc(4096);
  for (let printed = 0; printed < count; ) {
    try {
      const { bytesRead } = await state.read(buffer, 0, buffer.length, null);
      if (bytesRead === 0) break; // The state was deleted.
      const [step, x, y] = buffer.toString("utf8", 0, bytesRead).trim().split(" ");
      console.log(`${step}: ${x} ${y}`);
      printed++;
    } catch (error) {
      if (error.code === "EINTR") continue; // A signal came, which is another thread's to handle.
      if (error.code !== "ETIMEDOUT") throw error;
      console.error("overdue: nothing new by the state's deadline");
    }
  }
  await state.close();
}

const [path, count = Infinity] = process.argv.slice(2);
if (path === undefined) {
  console.error(`usage: ${process.argv[1]} STATE [COUNT]`);
  process.exit(2);
}
watch(path, Number(count)).catch((error) => {
  console.error(`${path}: ${error.message}`);
  process.exitCode = 1;
});
