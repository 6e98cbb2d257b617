// A rival: an echo over Node's net module. One loop, whatever number is asked for.
//
// A stream whose peer is slow is paused, so that what is unsent stays bounded.
import net from 'node:net';

const flags = new Map();
for (let n = 2; n + 1 < process.argv.length; n += 2) flags.set(process.argv[n], process.argv[n + 1]);
const [host, port] = (flags.get('--listen') ?? '127.0.0.1:9000').split(':');

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.on('data', (bytes) => {
    if (!socket.write(bytes)) socket.pause();
  });
  socket.on('drain', () => socket.resume());
  socket.on('error', () => socket.destroy()); // the peer is gone, and its connection with it
});
server.listen({ host, port: Number(port), backlog: 4096 }, () => {
  const at = server.address();
  console.log(`READY ${at.address}:${at.port}`);
});
