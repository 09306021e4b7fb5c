//! Listening sockets that another process opened.

use crate::adopt;
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::TcpListener;
use std::os::fd::RawFd;

/// A non-blocking TCP listener of our own for one that was inherited by number; the number stays the caller's. Errors: nothing
/// is open there, or it is no TCP socket that listens.
pub fn adopt_listener(fd: RawFd) -> io::Result<TcpListener> {
    let socket = Socket::from(adopt(fd)?);
    let tcp = socket.r#type()? == Type::STREAM && matches!(socket.domain()?, Domain::IPV4 | Domain::IPV6);
    if !tcp || !socket.is_listener()? {
        return Err(io::Error::other("it is no TCP socket that listens"));
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_listener_goes_on_when_its_first_owner_lets_go() {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let second = adopt_listener(first.as_raw_fd()).unwrap();
        drop(first);
        let client = TcpStream::connect(address).unwrap();
        let from = loop {
            match second.accept() {
                Ok((_, from)) => break from,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert_eq!(from, client.local_addr().unwrap());
    }

    #[test]
    fn anything_else_is_refused() {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for fd in [datagrams.as_raw_fd(), stream.as_raw_fd(), -1] {
            assert!(adopt_listener(fd).is_err());
        }
    }
}
