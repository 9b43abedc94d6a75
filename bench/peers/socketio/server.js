// A Socket.IO node for bench.delivery: a socket joins a room, POST /pub?room=R sends its body to all of the room. With the
// Redis Streams adapter and connection state recovery, as its documentation recommends for several nodes.
const http = require("http");
const { Server } = require("socket.io");
const { createClient } = require("redis");
const { createAdapter } = require("@socket.io/redis-streams-adapter");

(async () => {
  const client = createClient({ url: process.env.REDIS_URL });
  await client.connect();
  let io;
  const server = http.createServer((request, response) => {
    if (request.method !== "POST") {
      response.writeHead(404).end();
      return;
    }
    const room = new URL(request.url, "http://x").searchParams.get("room");
    let body = "";
    request.on("data", (data) => (body += data));
    request.on("end", () => {
      io.to(room).emit("m", JSON.parse(body));
      response.writeHead(204).end();
    });
  });
  io = new Server(server, {
    transports: ["websocket"],
    serveClient: false,
    perMessageDeflate: false,
    connectionStateRecovery: { maxDisconnectionDuration: 120000, skipMiddlewares: true },
    adapter: createAdapter(client),
  });
  io.on("connection", (socket) => socket.on("join", (room) => socket.join(room)));
  server.listen(Number(process.env.PORT), "127.0.0.1", 4096);
})();
