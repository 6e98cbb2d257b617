//! Bytes of the queue that are in a pipe, and are not copied into this process.

use super::Output;
use super::chunk::{Chunk, Own};
use crate::pipe::Pipe;
use crate::pool::Pool;

impl Output {
    /// Returns what is to be sent next if it is in a pipe: the pipe, and the number of bytes.
    pub fn next_pipe(&self) -> Option<(&Pipe, usize)> {
        let pipe = self.chunks.front()?.pipe()?;
        Some((pipe, pipe.len() - self.sent_front))
    }

    /// Calls `fill` to move bytes into a pipe, at the end of the queue. `fill` returns how many it moved.
    ///
    /// If the last bytes of the queue are in a pipe, that pipe is used. Otherwise the pool lends a pipe until
    /// its bytes are sent. A queue has one pipe at a time. An error of `fill` must mean that it moved
    /// nothing.
    ///
    /// Returns `None`, without a call of `fill`, if the pool has no pipe to lend, or if other bytes are
    /// queued after the bytes in the queue's pipe.
    pub fn fill_pipe<E>(
        &mut self,
        pool: &mut Pool,
        fill: impl FnOnce(&Pipe) -> Result<usize, E>,
    ) -> Option<Result<usize, E>> {
        if let Some(Chunk::Own(Own::Pipe(pipe))) = self.chunks.back_mut()
            && pipe.is_whole()
        {
            let filled = fill(pipe);
            if let Ok(n) = filled {
                pipe.filled(n);
                self.len += n;
                pool.charge(n);
            }
            return Some(filled);
        }
        if !self.may_take_pipe() {
            return None;
        }
        let mut pipe = pool.pipes().lend()?;
        let filled = fill(&pipe);
        match filled {
            Ok(n) if n > 0 => {
                pipe.filled(n);
                self.len += n;
                self.append(Chunk::Own(Own::Pipe(pipe)), pool);
            }
            _ => pool.pipes().take_back(pipe),
        }
        Some(filled)
    }

    /// Returns whether the queue has no pipe, so that [`fill_pipe`](Self::fill_pipe) would take one from the
    /// pool.
    pub fn may_take_pipe(&self) -> bool {
        self.chunks.iter().all(|chunk| chunk.pipe().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::fs::File;
    use std::io::{self, IoSlice, Read, Write};

    fn pool_with_pipes(open_max: usize) -> Pool {
        let mut pool = Pool::new(usize::MAX);
        pool.allow_pipes(open_max);
        pool
    }

    /// Puts `bytes` into the queue's pipe. Returns false if there is no pipe for them.
    fn fill(output: &mut Output, pool: &mut Pool, bytes: &[u8]) -> bool {
        if output.may_take_pipe() && pool.wants_pipe() {
            let (read_end, write_end) = io::pipe().unwrap();
            pool.add_pipe(Some(Pipe::new(read_end.into(), write_end.into())));
        }
        let into = |pipe: &Pipe| {
            File::from(pipe.write_end().try_clone_to_owned().unwrap()).write_all(bytes)?;
            Ok::<_, io::Error>(bytes.len())
        };
        output.fill_pipe(pool, into).is_some_and(|filled| filled.unwrap() == bytes.len())
    }

    /// Sends everything, at most `budget` bytes at a time.
    fn drain(output: &mut Output, pool: &mut Pool, budget: usize) -> Vec<u8> {
        let mut sent = Vec::new();
        while !output.is_empty() {
            if let Some((pipe, left)) = output.next_pipe() {
                let mut block = vec![0; left.min(budget)];
                let mut from = File::from(pipe.read_end().try_clone_to_owned().unwrap());
                from.read_exact(&mut block).unwrap();
                output.advance(block.len(), pool);
                sent.extend(block);
                continue;
            }
            let mut into = [IoSlice::new(&[]); 4];
            let (filled, bytes) = output.slices(&mut into, budget);
            assert!(filled > 0, "neither bytes nor a pipe");
            sent.extend(into[..filled].iter().flat_map(|slice| slice.iter()));
            output.advance(bytes, pool);
        }
        sent
    }

    #[test]
    fn bytes_in_a_pipe_keep_their_place_and_the_pipe_comes_back() {
        for budget in [1, 3, usize::MAX] {
            let mut pool = pool_with_pipes(1);
            let mut output = Output::default();
            for _ in 0..3 {
                output.push(b"before", &mut pool);
                assert!(fill(&mut output, &mut pool, b"in the pipe"));
                assert!(fill(&mut output, &mut pool, b" and more"), "it is still the last");
                output.push_shared(Bytes::from_static(b"behind"), &mut pool);
                assert!(!fill(&mut output, &mut pool, b"out of order"));
                let expected = b"beforein the pipe and morebehind";
                assert_eq!(output.len(), expected.len());
                assert_eq!(drain(&mut output, &mut pool, budget), expected);
                assert_eq!((pool.pipes_open(), pool.wants_pipe()), (1, false), "spare again");
            }
            pool.trim(0);
            assert_eq!(pool.memory(), 0);
        }
    }

    #[test]
    fn no_queue_gets_more_pipes_than_there_may_be() {
        let mut pool = pool_with_pipes(2);
        let mut outputs = [(); 3].map(|()| Output::default());
        let got = outputs.each_mut().map(|output| fill(output, &mut pool, b"x"));
        assert_eq!((got, pool.pipes_open()), ([true, true, false], 2));
        assert_eq!(drain(&mut outputs[0], &mut pool, 9), b"x");
        assert!(fill(&mut outputs[2], &mut pool, b"y"), "one has become free");
        assert!(!fill(&mut Output::default(), &mut Pool::new(0), b"z"), "a pool without any");
        outputs.iter_mut().for_each(|output| _ = output.clear(&mut pool));
    }

    #[test]
    fn a_pipe_with_bytes_that_are_not_sent_is_closed_and_not_lent_again() {
        let mut pool = pool_with_pipes(2);
        let mut output = Output::default();
        assert!(fill(&mut output, &mut pool, b"never sent"));
        assert_eq!((output.clear(&mut pool), pool.pipes_open()), (10, 0));
        assert!(fill(&mut output, &mut pool, b"fresh"), "in a new one");
        assert_eq!(drain(&mut output, &mut pool, 9), b"fresh");
        // Truncated in the middle: the rest is sent, nothing is put after the cut, then the pipe is closed.
        assert!(fill(&mut output, &mut pool, b"kept, cut"));
        let (pipe, _) = output.next_pipe().unwrap();
        let mut from = File::from(pipe.read_end().try_clone_to_owned().unwrap());
        from.read_exact(&mut [0; 2]).unwrap();
        output.advance(2, &mut pool);
        output.truncate(2, &mut pool);
        assert!(!fill(&mut output, &mut pool, b"behind the cut"));
        output.push_front(b"first ", &mut pool);
        assert_eq!(drain(&mut output, &mut pool, 9), b"first pt");
        assert_eq!(pool.pipes_open(), 0);
        pool.trim(0);
        assert_eq!(pool.memory(), 0);
    }

    #[test]
    fn what_could_not_be_filled_is_given_back_and_after_a_refusal_none_is_wanted_for_a_while() {
        let mut pool = pool_with_pipes(4);
        let mut output = Output::default();
        assert!(pool.wants_pipe());
        pool.add_pipe(None);
        let asks = (0..5000).take_while(|_| !pool.wants_pipe()).count();
        assert_eq!(asks, 1023);
        let (read_end, write_end) = io::pipe().unwrap();
        pool.add_pipe(Some(Pipe::new(read_end.into(), write_end.into())));
        assert_eq!(output.fill_pipe(&mut pool, |_| Ok::<_, ()>(0)), Some(Ok(0)));
        assert_eq!(output.fill_pipe(&mut pool, |_| Err("refused")), Some(Err("refused")));
        assert!(output.is_empty() && output.next_pipe().is_none());
        assert!(!pool.wants_pipe(), "it lies there");
    }
}
