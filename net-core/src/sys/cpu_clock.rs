//! The CPU time of a thread, which any other thread of the process may read.

use std::mem;
use std::time::Duration;

/// The clock of the calling thread, as a number. Other threads may use it, also after this thread has ended.
pub(crate) fn own() -> Option<i32> {
    let mut clock = 0;
    // SAFETY: it is this thread's own handle, and `clock` is writable.
    let result = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
    (result == 0).then_some(clock)
}

/// The CPU time that the clock's thread has used so far. `None`: the thread has ended.
pub(crate) fn read(clock: i32) -> Option<Duration> {
    // SAFETY: plain data for which zero is valid.
    let mut time: libc::timespec = unsafe { mem::zeroed() };
    // SAFETY: `time` is a writable timespec. A number that is no clock is an error.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_threads_time_is_its_own_and_ends_with_it() {
        let ((tell, told), (release, released)) = (channel(), channel::<()>());
        let thread = std::thread::spawn(move || {
            tell.send(own().unwrap()).unwrap();
            let _ = released.recv();
        });
        let clock = told.recv().unwrap();
        let before = read(own().unwrap()).unwrap();
        while read(own().unwrap()).unwrap() < before + Duration::from_millis(30) {}
        assert!(read(clock).unwrap() < Duration::from_millis(30), "it waits meanwhile");
        drop(release);
        thread.join().unwrap();
        // A joined thread may still be ending in the kernel.
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while read(clock).is_some() {
            assert!(std::time::Instant::now() < end, "its clock goes on");
            std::thread::yield_now();
        }
        assert_ne!(own(), Some(clock));
    }
}
