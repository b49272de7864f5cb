// Starts fauxqs in memory on 127.0.0.1, prints its port, and exits when standard input is closed, that is
// with the benchmark, however that ends. fauxqs's own command listens on every interface.
import { register } from "node:module";

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

const app = buildApp({ logger: false });
await app.listen({ host: "127.0.0.1", port: 0 });
console.log(app.server.address().port);
process.on("SIGINT", () => {}); // Ctrl-C reaches this process too, while queues are still in use
process.stdin.resume().on("end", () => process.exit());
