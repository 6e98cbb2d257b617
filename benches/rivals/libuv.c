/* A rival: an echo over libuv.
 *
 * All connections of a loop receive into one block; an answer is tried at once, and only what the
 * kernel did not take is copied and queued. Until that is sent, the connection is not read. */
#include "common.h"
#include <uv.h>

static __thread char block[BLOCK_BYTES];

/* The rest of an answer. */
struct rest {
  uv_write_t request;
  char bytes[];
};

static void check(int error, const char *doing) {
  if (error == 0) return;
  fprintf(stderr, "%s: %s\n", doing, uv_strerror(error));
  exit(1);
}

static void on_close(uv_handle_t *connection) { free(connection); }

static void end(uv_stream_t *connection) {
  if (!uv_is_closing((uv_handle_t *)connection)) uv_close((uv_handle_t *)connection, on_close);
}

static void lend_block(uv_handle_t *connection, size_t wanted, uv_buf_t *buffer) {
  (void)connection, (void)wanted;
  *buffer = uv_buf_init(block, BLOCK_BYTES);
}

static void on_read(uv_stream_t *connection, ssize_t got, const uv_buf_t *buffer);

static void on_rest_sent(uv_write_t *request, int error) {
  uv_stream_t *connection = request->handle;
  free(request->data);
  if (error || uv_read_start(connection, lend_block, on_read)) end(connection);
}

static void send_later(uv_stream_t *connection, const char *bytes, size_t length) {
  struct rest *rest = rival_allocate(sizeof *rest + length);
  memcpy(rest->bytes, bytes, length);
  rest->request.data = rest;
  uv_buf_t buffer = uv_buf_init(rest->bytes, (unsigned)length);
  uv_read_stop(connection);
  if (uv_write(&rest->request, connection, &buffer, 1, on_rest_sent)) {
    free(rest);
    end(connection);
  }
}

static void on_read(uv_stream_t *connection, ssize_t got, const uv_buf_t *buffer) {
  if (got < 0) {
    end(connection);
    return;
  }
  if (got == 0) return; /* nothing to read after all */
  uv_buf_t answer = uv_buf_init(buffer->base, (unsigned)got);
  int sent = uv_try_write(connection, &answer, 1);
  if (sent == got) return;
  if (sent < 0 && sent != UV_EAGAIN) {
    end(connection);
    return;
  }
  size_t done = sent < 0 ? 0 : (size_t)sent;
  send_later(connection, buffer->base + done, (size_t)got - done);
}

static void on_connection(uv_stream_t *listener, int error) {
  check(error, "listener");
  uv_tcp_t *connection = rival_allocate(sizeof *connection);
  check(uv_tcp_init(listener->loop, connection), "uv_tcp_init");
  if (uv_accept(listener, (uv_stream_t *)connection) ||
      uv_read_start((uv_stream_t *)connection, lend_block, on_read))
    end((uv_stream_t *)connection);
}

static void serve(int descriptor) {
  uv_loop_t loop;
  uv_tcp_t listener;
  check(uv_loop_init(&loop), "uv_loop_init");
  check(uv_tcp_init(&loop, &listener), "uv_tcp_init");
  check(uv_tcp_open(&listener, descriptor), "uv_tcp_open");
  check(uv_listen((uv_stream_t *)&listener, BACKLOG, on_connection), "uv_listen");
  uv_run(&loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv) { return rival_main(argc, argv, serve); }
