//! What an error of accept(2) means. Pure.

use crate::sys::Errno;

/// What to do after a failed accept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AcceptError {
    /// No client waits. The next client brings a new edge (edge-triggered epoll).
    Nothing,
    /// One client is lost, or Linux passed a network error through accept (accept(2), "Error handling").
    /// The next accept may succeed. If many accepts in a row fail, the listener rests.
    Skip,
    /// Descriptors or memory have run out. Clients wait, and no new edge will come for them. So the listener
    /// sheds a few clients, rests, and tries again by a timer.
    Starved,
    /// This listener can never accept again: its descriptor is no listener, or is no longer ours.
    Broken,
}

/// The table of the errors of accept(2).
pub(crate) fn judge(errno: Errno) -> AcceptError {
    match errno {
        Errno::AGAIN => AcceptError::Nothing,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => AcceptError::Starved,
        Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT => AcceptError::Broken,
        // EINTR, ECONNABORTED, EPERM, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET,
        // EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH, and every error that a later kernel adds: never fatal.
        _ => AcceptError::Skip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_of_a_client_or_the_machine_ends_a_listener() {
        let fatal = [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::FAULT];
        for raw in 1..=133 {
            let is_fatal = judge(Errno::new(raw)) == AcceptError::Broken;
            assert_eq!(is_fatal, fatal.contains(&Errno::new(raw)), "errno {raw}");
        }
        assert_eq!(judge(Errno::MFILE), AcceptError::Starved);
        assert_eq!(judge(Errno::CONNABORTED), AcceptError::Skip);
        assert_eq!(judge(Errno::INTR), AcceptError::Skip);
    }
}
