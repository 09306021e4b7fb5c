//! How much the kernel takes before it can send it.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd};

/// Lets the kernel hold little more than `bytes` that it has not sent yet (`TCP_NOTSENT_LOWAT`): a peer that reads nothing costs that, and
/// not the megabytes to which its buffer would grow. What is on its way does not count, so that a long line stays full.
pub fn bound_unsent(socket: &impl AsFd, bytes: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call, and the kernel reads `length` bytes behind a pointer to as many.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            std::ptr::from_ref(&bytes).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    fn taken(bound: Option<u32>) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let _silent = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        let (mut socket, _) = listener.accept().expect("the same connection");
        if let Some(bytes) = bound {
            bound_unsent(&socket, bytes).expect("a TCP socket");
        }
        socket.set_nonblocking(true).expect("a socket");
        let mut taken = 0;
        while let Ok(n) = socket.write(&[0; 16384]) {
            taken += n;
        }
        taken
    }

    #[test]
    fn a_peer_that_reads_nothing_costs_little() {
        let (free, bound) = (taken(None), taken(Some(65536)));
        assert!(2 * bound < free, "{bound} of {free}");
    }
}
