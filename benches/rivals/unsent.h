/* Bytes that the kernel did not take, kept beside their connection until it has room. An idle
 * connection has none and owns no memory. */
#ifndef RIVAL_UNSENT_H
#define RIVAL_UNSENT_H

#include "common.h"
#include <errno.h>

struct unsent {
  char *bytes; /* NULL: all has been sent */
  size_t from, to;
};

/* What has become of a write. */
enum sent { SENT_ALL, SENT_PART, SENT_FAILED };

static enum sent unsent_flush(struct unsent *unsent, int fd) {
  while (unsent->from < unsent->to) {
    ssize_t sent = write(fd, unsent->bytes + unsent->from, unsent->to - unsent->from);
    if (sent < 0) return errno == EAGAIN ? SENT_PART : SENT_FAILED;
    unsent->from += (size_t)sent;
  }
  free(unsent->bytes);
  unsent->bytes = NULL;
  return SENT_ALL;
}

/* Writes at once, and keeps only what is left. */
static inline enum sent unsent_write(struct unsent *unsent, int fd, const char *bytes, size_t length) {
  ssize_t sent = write(fd, bytes, length);
  if (sent == (ssize_t)length) return SENT_ALL;
  if (sent < 0 && errno != EAGAIN) return SENT_FAILED;
  size_t done = sent < 0 ? 0 : (size_t)sent;
  unsent->bytes = (char *)rival_allocate(length - done);
  unsent->from = 0;
  unsent->to = length - done;
  memcpy(unsent->bytes, bytes + done, unsent->to);
  return SENT_PART;
}

#endif
