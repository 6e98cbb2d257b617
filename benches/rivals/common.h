/* What every rival in C and C++ has: flags, a listener, one thread for each loop, and `READY`.
 *
 *     int main(int argc, char **argv) { return rival_main(argc, argv, serve); }
 *
 * `serve` gets a non-blocking listener of its own and runs one loop on it, for ever. SIGTERM ends
 * the process. */
#ifndef RIVAL_COMMON_H
#define RIVAL_COMMON_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Completed connections that wait for accept, and a loop's receive block: as with our own server. */
enum { BACKLOG = 4096, BLOCK_BYTES = 64 << 10 };

typedef void (*rival_serve)(int listener);

static void rival_die(const char *doing) {
  perror(doing);
  exit(1);
}

static void *rival_allocate(size_t bytes) {
  void *memory = malloc(bytes);
  if (memory == NULL) rival_die("malloc");
  return memory;
}

/* A non-blocking listener. Its connections inherit that small messages are sent at once. */
static int rival_listener(const struct sockaddr_in *at) {
  int on = 1;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0) rival_die("socket");
  if (setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) ||
      setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) ||
      setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on))
    rival_die("setsockopt");
  if (bind(listener, (const struct sockaddr *)at, sizeof *at)) rival_die("bind");
  if (listen(listener, BACKLOG)) rival_die("listen");
  return listener;
}

static int rival_usage(const char *program) {
  fprintf(stderr, "usage: %s --listen IPV4:PORT [--loops N]\n", program);
  return 2;
}

static int rival_parse_address(char *text, struct sockaddr_in *at) {
  char *colon = strrchr(text, ':');
  if (colon == NULL) return 0;
  *colon = '\0';
  at->sin_family = AF_INET;
  at->sin_port = htons((uint16_t)atoi(colon + 1));
  return inet_pton(AF_INET, text, &at->sin_addr) == 1;
}

struct rival_loop {
  rival_serve serve;
  int listener;
};

static void *rival_thread(void *argument) {
  struct rival_loop *loop = (struct rival_loop *)argument;
  loop->serve(loop->listener);
  return NULL;
}

static int rival_main(int argc, char **argv, rival_serve serve) {
  struct sockaddr_in at;
  memset(&at, 0, sizeof at);
  int loops = 1, has_address = 0;
  for (int n = 1; n + 1 < argc; n += 2) {
    if (strcmp(argv[n], "--listen") == 0)
      has_address = rival_parse_address(argv[n + 1], &at);
    else if (strcmp(argv[n], "--loops") == 0)
      loops = atoi(argv[n + 1]);
    else
      return rival_usage(argv[0]);
  }
  if (!has_address || loops < 1) return rival_usage(argv[0]);
  signal(SIGPIPE, SIG_IGN);

  struct rival_loop *all = (struct rival_loop *)rival_allocate((size_t)loops * sizeof *all);
  for (int n = 0; n < loops; n++) {
    socklen_t length = sizeof at;
    all[n].serve = serve;
    all[n].listener = rival_listener(&at);
    /* The first has chosen a port, which the others share. */
    if (getsockname(all[n].listener, (struct sockaddr *)&at, &length)) rival_die("getsockname");
  }
  char host[INET_ADDRSTRLEN];
  printf("READY %s:%d\n", inet_ntop(AF_INET, &at.sin_addr, host, sizeof host), ntohs(at.sin_port));
  fflush(stdout);

  for (int n = 1; n < loops; n++) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, rival_thread, &all[n])) rival_die("pthread_create");
  }
  serve(all[0].listener); /* loop 0 is this thread */
  return 1;
}

#endif
