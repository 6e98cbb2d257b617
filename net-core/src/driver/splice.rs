//! The splice that all drivers share: it chooses the pipe, and decides what an error means.

use super::Spliced;
use crate::sys::Errno;
use net_buffer::{Output, Pipe, Pool};

/// Moves bytes by `fill` into a pipe at the end of `output`. `make` makes the pipe if the pool has none.
pub(super) fn splice<K>(
    kernel: &mut K,
    output: &mut Output,
    pool: &mut Pool,
    make: impl FnOnce(&mut K) -> Result<Pipe, Errno>,
    fill: impl FnOnce(&mut K, &Pipe) -> Result<usize, Errno>,
) -> Spliced {
    if output.may_take_pipe() && pool.wants_pipe() {
        let made = make(kernel);
        if let Err(errno) = made {
            tracing::debug!(%errno, open = pool.pipes_open(), "no pipe to splice by");
        }
        pool.add_pipe(made.ok());
    }
    match output.fill_pipe(pool, |pipe| fill(kernel, pipe)) {
        None => Spliced::NoPipe,
        // Perhaps the peer's end of stream. A receive decides that, as for a stream that is copied.
        Some(Ok(0)) => Spliced::Nothing,
        Some(Ok(bytes)) => Spliced::Bytes(bytes),
        Some(Err(errno)) => match errno {
            Errno::AGAIN => Spliced::Nothing,
            // The system refuses the call, or splices of this kind of socket.
            Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP | Errno::NOMEM => {
                Spliced::NoPipe
            }
            _ => Spliced::Failed(errno),
        },
    }
}
