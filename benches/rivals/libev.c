/* A rival: an echo over libev.
 *
 * All connections of a loop receive into one block and are answered at once; a connection waits
 * for room, instead of input, only while something of its answer is unsent. */
#define _GNU_SOURCE
#include "unsent.h"
#include <ev.h>

struct connection {
  ev_io watcher;
  struct unsent unsent;
};

static __thread char block[BLOCK_BYTES];

static void wait_for(struct ev_loop *loop, ev_io *watcher, int events) {
  int fd = watcher->fd;
  ev_io_stop(loop, watcher);
  ev_io_set(watcher, fd, events);
  ev_io_start(loop, watcher);
}

static void end(struct ev_loop *loop, struct connection *connection) {
  ev_io_stop(loop, &connection->watcher);
  close(connection->watcher.fd);
  free(connection->unsent.bytes);
  free(connection);
}

static void on_room(struct ev_loop *loop, struct connection *connection) {
  enum sent sent = unsent_flush(&connection->unsent, connection->watcher.fd);
  if (sent == SENT_FAILED) end(loop, connection);
  if (sent == SENT_ALL) wait_for(loop, &connection->watcher, EV_READ);
}

static void on_event(struct ev_loop *loop, ev_io *watcher, int events) {
  struct connection *connection = (struct connection *)watcher; /* its first member */
  if (events & EV_WRITE) {
    on_room(loop, connection);
    return;
  }
  ssize_t got = read(watcher->fd, block, sizeof block);
  if (got < 0 && errno == EAGAIN) return;
  enum sent sent = got > 0 ? unsent_write(&connection->unsent, watcher->fd, block, (size_t)got)
                           : SENT_FAILED; /* the peer has ended, or is gone */
  if (sent == SENT_FAILED) end(loop, connection);
  if (sent == SENT_PART) wait_for(loop, watcher, EV_WRITE);
}

static void on_connections(struct ev_loop *loop, ev_io *listener, int events) {
  (void)events;
  int fd;
  while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    struct connection *connection = rival_allocate(sizeof *connection);
    memset(connection, 0, sizeof *connection);
    ev_io_init(&connection->watcher, on_event, fd, EV_READ);
    ev_io_start(loop, &connection->watcher);
  }
  if (errno != EAGAIN && errno != ECONNABORTED) rival_die("accept4");
}

static void serve(int descriptor) {
  struct ev_loop *loop = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
  if (loop == NULL) rival_die("ev_loop_new");
  ev_io listener;
  ev_io_init(&listener, on_connections, descriptor, EV_READ);
  ev_io_start(loop, &listener);
  ev_run(loop, 0);
}

int main(int argc, char **argv) { return rival_main(argc, argv, serve); }
