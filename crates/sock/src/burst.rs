//! Many whole IP packets in one system call.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

/// Most packets that one call takes.
pub const BURST: usize = 64;

/// A raw socket that sends packets with their IP header as given (`IPPROTO_RAW`). Needs `CAP_NET_RAW` in its network namespace.
#[derive(Debug)]
pub struct Burst {
    socket: Socket,
}

impl Burst {
    /// A sender of IPv4 or of IPv6 packets.
    pub fn open(ipv6: bool) -> io::Result<Self> {
        let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.set_send_buffer_size(4 << 20)?;
        Ok(Burst { socket })
    }

    /// Sends up to [`BURST`] packets, each to where its header says (`target` carries the same address, port 0). Returns how
    /// many went; blocks while the socket's buffer is full. Errors: none could go.
    pub fn send(&self, packets: &[Vec<u8>], target: SocketAddr) -> io::Result<usize> {
        let address = SockAddr::from(target);
        let mut pieces: Vec<libc::iovec> = packets
            .iter()
            .take(BURST)
            .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = pieces
            .iter_mut()
            .map(|piece| {
                // SAFETY: all zeros is a valid `mmsghdr` (null pointers, zero lengths).
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
                header.msg_hdr.msg_namelen = address.len();
                header.msg_hdr.msg_iov = piece;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        let count = u32::try_from(headers.len()).unwrap_or(0);
        // SAFETY: `headers`, the pieces, the address and the packets outlive the call; the kernel only reads through them.
        let sent = unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent.unsigned_abs() as usize) }
    }
}
