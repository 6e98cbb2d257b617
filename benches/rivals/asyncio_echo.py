"""A rival: an echo over Python's asyncio. One loop, whatever number is asked for.

All connections receive into one block. A transport whose peer is slow is paused, so that what is
unsent stays bounded.
"""

import argparse
import asyncio
import socket

BLOCK = memoryview(bytearray(64 << 10))


class Echo(asyncio.BufferedProtocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def get_buffer(self, _wanted):
        return BLOCK

    def buffer_updated(self, got):
        self.transport.write(bytes(BLOCK[:got]))

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def serve(host, port):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, host, port, backlog=4096)
    host, port = server.sockets[0].getsockname()
    print(f"READY {host}:{port}", flush=True)
    await server.serve_forever()


flags = argparse.ArgumentParser()
flags.add_argument("--listen", default="127.0.0.1:9000")
flags.add_argument("--loops", type=int, default=1)
host, _, port = flags.parse_args().listen.rpartition(":")
asyncio.run(serve(host, int(port)))
