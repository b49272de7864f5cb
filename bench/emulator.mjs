// fauxqs in memory on 127.0.0.1. Prints its port; then each line of standard input is a command as JSON, and is answered
// by a line of JSON. Exits when standard input is closed, that is with the benchmark, however that ends.
import { readFileSync } from "node:fs";
import { register } from "node:module";
import { createInterface } from "node:readline";

// fauxqs imports node:sqlite (Node 22.5) for persistence, which is not used here; an older Node gets a stub.
const loader = `export const resolve = (name, context, next) =>
  name === "node:sqlite"
    ? { url: "data:text/javascript,export class DatabaseSync {}", shortCircuit: true }
    : next(name, context);`;
try {
  await import("node:sqlite");
} catch {
  register(`data:text/javascript,${encodeURIComponent(loader)}`);
}
const { buildApp } = await import("fauxqs");
const { SqsQueue, SqsStore } = await import(new URL("node_modules/fauxqs/dist/sqs/sqsStore.js", import.meta.url));

// An array of more than some thousand elements is copied whole by each shift().
class Messages {
  #items = [];
  #first = 0;
  get length() {
    return this.#items.length - this.#first;
  }
  push(...added) {
    this.#items.push(...added);
  }
  shift() {
    if (!this.length) return undefined;
    const item = this.#items[this.#first];
    this.#items[this.#first++] = undefined;
    if (this.#first >= 65_536) {
      this.#items = this.#items.slice(this.#first);
      this.#first = 0;
    }
    return item;
  }
}

// Each receive looks at every message in flight, whose number is the contender's own: a few looks a second will do.
const { dequeue, deleteMessage, processTimers } = SqsQueue.prototype;
SqsQueue.prototype.processTimers = function () {
  if (Date.now() < (this.timersAt ?? 0)) return;
  this.timersAt = Date.now() + 200;
  processTimers.call(this);
};
SqsQueue.prototype.dequeue = function (...how) {
  const received = dequeue.apply(this, how);
  if (received.length) {
    this.firstReceiveAt ??= Date.now();
    this.received = (this.received ?? 0) + received.length;
  }
  return received;
};
SqsQueue.prototype.deleteMessage = function (handle) {
  if (this.deletesToLose > 0) {
    this.deletesToLose--;
    return true;
  }
  this.lastDeleteAt = Date.now();
  return deleteMessage.call(this, handle);
};

let delay = 0;
const store = new SqsStore();
const app = buildApp({ logger: false, stores: { sqsStore: store } });
app.addHook("onRequest", (request, reply, done) => (delay ? setTimeout(done, delay) : done()));

const commands = {
  // A queue with the bodies of a file, each line of which is a JSON string.
  fill({ queue: name, file, visibility_seconds, deletes_to_lose }) {
    const arn = `arn:aws:sqs:us-east-1:000000000000:${name}`;
    const attributes = { VisibilityTimeout: String(visibility_seconds) };
    const queue = store.createQueue(name, `${app.listeningOrigin}/000000000000/${name}`, arn, attributes);
    queue.messages = new Messages();
    queue.deletesToLose = deletes_to_lose;
    for (const line of readFileSync(file, "utf8").split("\n")) {
      if (line) queue.enqueue(SqsStore.createMessage(JSON.parse(line)));
    }
    return { messages: queue.messages.length };
  },
  state({ queue: name }) {
    const queue = store.getQueueByName(name);
    return {
      waiting: queue.messages.length,
      in_flight: queue.inflightMessages.size,
      received: queue.received ?? 0,
      first_receive_at: (queue.firstReceiveAt ?? 0) / 1000,
      last_delete_at: (queue.lastDeleteAt ?? 0) / 1000,
    };
  },
  // As when the visibility time-out of all that is in flight has passed.
  async expire({ queue: name }) {
    const queue = store.getQueueByName(name);
    queue.cancelWaiters(); // long polls of processes that have ended: they would take what comes
    await new Promise(setImmediate);
    for (const { message } of queue.inflightMessages.values()) queue.messages.push(message);
    queue.inflightMessages.clear();
    return {};
  },
  remove({ queue: name }) {
    store.deleteQueue(store.getQueueByName(name).url);
    return {};
  },
  delay({ milliseconds }) {
    delay = milliseconds;
    return {};
  },
};

await app.listen({ host: "127.0.0.1", port: 0 });
console.log(app.server.address().port);
const lines = createInterface({ input: process.stdin });
lines.on("line", async (line) => {
  const { command, ...how } = JSON.parse(line);
  console.log(JSON.stringify(await commands[command](how)));
});
lines.on("close", () => process.exit());
