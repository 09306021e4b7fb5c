//! Waiting for many descriptors and one deadline.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Most descriptors that one wait reports.
const BATCH: usize = 64;

/// Which directions a descriptor is watched in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something to read, or the end.
    Read,
    /// Room to write: for a socket that connects, the outcome.
    Write,
}

/// An epoll set, level-triggered. Waits end at a deadline with better than millisecond grain (`epoll_pwait2`, Linux 5.11).
#[derive(Debug)]
pub struct Ready {
    epoll: OwnedFd,
}

impl Ready {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked and owned here.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        Ok(Ready { epoll: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Watches a descriptor; `token` comes back from [`Ready::wait`]. Closing the descriptor ends the watch.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Changes the direction that a watched descriptor is watched in.
    pub fn change(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let events = match interest {
            Interest::Read => libc::EPOLLIN,
            Interest::Write => libc::EPOLLOUT,
        };
        let mut event = libc::epoll_event { events: events.cast_unsigned(), u64: token };
        // SAFETY: both descriptors are open for the call and `event` outlives it.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Replaces `tokens` by those of the ready descriptors, at most 64; waits up to `limit` (`None`: without end).
    pub fn wait(&self, tokens: &mut Vec<u64>, limit: Option<Duration>) -> io::Result<()> {
        tokens.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        let limit = limit.map(|limit| libc::timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let pointer = limit.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: `events` has room for BATCH entries; `pointer` is null or points at `limit`, which outlives the call.
        let count =
            unsafe { libc::epoll_pwait2(self.epoll.as_raw_fd(), events.as_mut_ptr(), BATCH as i32, pointer, std::ptr::null()) };
        if count < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        }
        tokens.extend(events.iter().take(count.unsigned_abs() as usize).map(|event| event.u64));
        Ok(())
    }
}

/// A descriptor of our own for one that was inherited by number. Errors: nothing is open under that number.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC has no memory effects; a bad number gives EBADF.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `copy` was just opened and belongs to nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn reports_readable_and_writable_descriptors_by_token() {
        let ready = Ready::new().unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        ready.add(near.as_fd(), 7, Interest::Read).unwrap();
        let mut tokens = vec![99];
        ready.wait(&mut tokens, Some(Duration::ZERO)).unwrap();
        assert_eq!(tokens, []);
        far.write_all(b"x").unwrap();
        ready.wait(&mut tokens, None).unwrap();
        assert_eq!(tokens, [7]);
        ready.change(near.as_fd(), 8, Interest::Write).unwrap();
        ready.wait(&mut tokens, None).unwrap();
        assert_eq!(tokens, [8]);
    }

    #[test]
    fn adopts_open_descriptors_only() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let copy = UnixStream::from(adopt(near.as_raw_fd()).unwrap());
        drop(near);
        far.write_all(b"y").unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(&mut &copy, &mut byte).unwrap();
        assert_eq!(&byte, b"y");
        assert!(adopt(-1).is_err());
    }
}
