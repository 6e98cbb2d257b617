/* A rival: an echo over libevent, by its plain events: its bufferevents need a multiple of that in
 * instructions and memory.
 *
 * All connections of a loop receive into one block and are answered at once; a connection waits
 * for room, instead of input, only while something of its answer is unsent. The base is one
 * thread's, and has no lock. */
#define _GNU_SOURCE
#include "unsent.h"
#include <event2/event.h>
#include <event2/event_struct.h>

struct connection {
  struct event event;
  struct unsent unsent;
};

static __thread char block[BLOCK_BYTES];

static void on_event(evutil_socket_t fd, short events, void *argument);

static void wait_for(struct event_base *base, struct connection *connection, int fd, short events) {
  event_assign(&connection->event, base, fd, (short)(events | EV_PERSIST), on_event, connection);
  if (event_add(&connection->event, NULL)) rival_die("event_add");
}

static void wait_instead(struct connection *connection, int fd, short events) {
  struct event_base *base = event_get_base(&connection->event);
  event_del(&connection->event);
  wait_for(base, connection, fd, events);
}

static void end(struct connection *connection, int fd) {
  event_del(&connection->event);
  close(fd);
  free(connection->unsent.bytes);
  free(connection);
}

static void on_room(struct connection *connection, int fd) {
  enum sent sent = unsent_flush(&connection->unsent, fd);
  if (sent == SENT_FAILED) end(connection, fd);
  if (sent == SENT_ALL) wait_instead(connection, fd, EV_READ);
}

static void on_event(evutil_socket_t fd, short events, void *argument) {
  struct connection *connection = argument;
  if (events & EV_WRITE) {
    on_room(connection, fd);
    return;
  }
  ssize_t got = read(fd, block, sizeof block);
  if (got < 0 && errno == EAGAIN) return;
  enum sent sent = got > 0 ? unsent_write(&connection->unsent, fd, block, (size_t)got)
                           : SENT_FAILED; /* the peer has ended, or is gone */
  if (sent == SENT_FAILED) end(connection, fd);
  if (sent == SENT_PART) wait_instead(connection, fd, EV_WRITE);
}

static void on_connections(evutil_socket_t listener, short events, void *base) {
  (void)events;
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    struct connection *connection = rival_allocate(sizeof *connection);
    memset(connection, 0, sizeof *connection);
    wait_for(base, connection, fd, EV_READ);
  }
  if (errno != EAGAIN && errno != ECONNABORTED) rival_die("accept4");
}

static void serve(int descriptor) {
  struct event_config *config = event_config_new();
  if (config == NULL || event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK))
    rival_die("event_config");
  struct event_base *base = event_base_new_with_config(config);
  event_config_free(config);
  if (base == NULL) rival_die("event_base_new");
  struct event *listener = event_new(base, descriptor, EV_READ | EV_PERSIST, on_connections, base);
  if (listener == NULL || event_add(listener, NULL)) rival_die("event_add");
  event_base_dispatch(base);
}

int main(int argc, char **argv) { return rival_main(argc, argv, serve); }
