/* A rival: an echo over asio.
 *
 * An answer is written at once, and only what the kernel did not take is awaited. A receive owns
 * its buffer until it completes, by asio's contract, so each connection has one of its own, as in
 * asio's examples. A loop is one thread's, and takes no lock. */
#include "common.h"
#include <array>
#include <asio.hpp>
#include <memory>

using asio::ip::tcp;

namespace {

constexpr std::size_t buffer_bytes = 16 << 10;

class Connection : public std::enable_shared_from_this<Connection> {
public:
  explicit Connection(tcp::socket socket) : socket_(std::move(socket)) {}

  void receive() {
    socket_.async_read_some(asio::buffer(buffer_),
        [self = shared_from_this()](std::error_code error, std::size_t got) {
          if (!error) self->answer(got);
        });
  }

private:
  void answer(std::size_t got) {
    std::error_code error;
    std::size_t sent = socket_.write_some(asio::buffer(buffer_, got), error);
    if (error && error != asio::error::would_block) return; // the last owner closes it
    if (sent == got) return receive();
    asio::async_write(socket_, asio::buffer(buffer_.data() + sent, got - sent),
        [self = shared_from_this()](std::error_code error, std::size_t) {
          if (!error) self->receive();
        });
  }

  tcp::socket socket_;
  std::array<char, buffer_bytes> buffer_;
};

void accept(tcp::acceptor &acceptor) {
  acceptor.async_accept([&acceptor](std::error_code error, tcp::socket socket) {
    if (!error) {
      socket.non_blocking(true);
      std::make_shared<Connection>(std::move(socket))->receive();
    }
    accept(acceptor);
  });
}

void serve(int listener) {
  asio::io_context loop(ASIO_CONCURRENCY_HINT_UNSAFE);
  tcp::acceptor acceptor(loop, tcp::v4(), listener);
  accept(acceptor);
  loop.run();
}

} // namespace

int main(int argc, char **argv) { return rival_main(argc, argv, serve); }
