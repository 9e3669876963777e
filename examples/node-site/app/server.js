import { createServer } from "node:http";
import express from "express";

const title = "What time is it?";

const app = express();
app.disable("x-powered-by");
app.get("/healthz", (_req, res) => res.type("text").send("ok"));
app.get("/", (_req, res) =>
  res.send(`<!doctype html><title>${title}</title><h1>${title}</h1><time></time><script src="/page.js"></script>`));
app.use(express.static(new URL("public", import.meta.url).pathname));

const [host, port] = process.env.LISTEN.split(":");
const server = createServer(app);
server.listen(Number(port), host || "0.0.0.0", () => console.log(`listening on ${process.env.LISTEN}`));

// systemd stops it so. Requests that it has are answered; kept connections on
// which nothing is under way are closed.
process.once("SIGTERM", () => server.close(() => process.exit(0)));
