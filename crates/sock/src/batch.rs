//! Many datagrams in one system call, in both directions.

use socket2::SockAddr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Room for `count` datagrams of up to `size` bytes, filled by one `recvmmsg`.
pub struct Inbox {
    size: usize,
    buffer: Vec<u8>,
    addresses: Vec<libc::sockaddr_storage>,
    lengths: Vec<usize>,
}

impl Inbox {
    /// Memory: `count · (size + 136)` bytes.
    pub fn new(count: usize, size: usize) -> Self {
        // SAFETY: all zeros is a valid `sockaddr_storage` of the family AF_UNSPEC.
        let address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        Inbox { size, buffer: vec![0; count * size], addresses: vec![address; count], lengths: Vec::with_capacity(count) }
    }

    /// Takes what waits, at most the inbox's count, without waiting. Longer datagrams are cut; they count as `size` bytes.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.lengths.clear();
        let mut pieces: Vec<libc::iovec> = self
            .buffer
            .chunks_exact_mut(self.size)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() })
            .collect();
        let mut headers: Vec<libc::mmsghdr> = pieces
            .iter_mut()
            .zip(&mut self.addresses)
            .map(|(piece, address)| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
                header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
                header.msg_hdr.msg_iov = piece;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        let count = u32::try_from(headers.len()).unwrap_or(u32::MAX);
        // SAFETY: headers, pieces, addresses and the buffer outlive the call; the kernel writes at most the lengths given.
        let got =
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        }
        self.lengths.extend(headers.iter().take(got.unsigned_abs() as usize).map(|header| header.msg_len as usize));
        Ok(self.lengths.len())
    }

    /// Datagram `index` of the last `receive`, and whom it came from (unspecified for families other than IP).
    pub fn datagram(&mut self, index: usize) -> Option<(&mut [u8], IpAddr)> {
        let length = (*self.lengths.get(index)?).min(self.size);
        let from = address_of(self.addresses.get(index)?);
        self.buffer.get_mut(index * self.size..index * self.size + length).map(|bytes| (bytes, from))
    }
}

pub(crate) fn address_of(storage: &libc::sockaddr_storage) -> IpAddr {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a `sockaddr_in` was written there; the storage is larger and aligned for it.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes()).into()
        }
        libc::AF_INET6 => {
            // SAFETY: as above, a `sockaddr_in6`.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            Ipv6Addr::from(v6.sin6_addr.s6_addr).into()
        }
        _ => Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// Sends datagrams without waiting; returns how many went. Errors: the first could not go.
pub fn send_batch(socket: BorrowedFd<'_>, datagrams: &[(&[u8], &SockAddr)]) -> io::Result<usize> {
    let mut pieces: Vec<libc::iovec> = datagrams
        .iter()
        .map(|(bytes, _)| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = pieces
        .iter_mut()
        .zip(datagrams)
        .map(|(piece, (_, address))| {
            let mut header = empty_header();
            header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = address.len();
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let count = u32::try_from(headers.len()).unwrap_or(u32::MAX);
    // SAFETY: headers, pieces, addresses and datagrams outlive the call; the kernel only reads through them.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(sent.unsigned_abs() as usize) }
}

pub(crate) fn empty_header() -> libc::mmsghdr {
    // SAFETY: all zeros is a valid `mmsghdr`: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn carries_a_batch_with_its_sources_over_both_families() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let (Ok(near), Ok(far)) = (UdpSocket::bind(loopback), UdpSocket::bind(loopback)) else { continue };
            let to = SockAddr::from(far.local_addr().unwrap());
            let words: [&[u8]; 3] = [b"one", b"", b"three-is-cut"];
            assert_eq!(send_batch(near.as_fd(), &words.map(|word| (word, &to))).unwrap(), 3);
            let mut inbox = Inbox::new(8, 5);
            assert_eq!(inbox.receive(far.as_fd()).unwrap(), 3);
            let got: Vec<_> = (0..3).map(|i| inbox.datagram(i).map(|(bytes, _)| bytes.to_vec()).unwrap()).collect();
            assert_eq!(got, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
            assert_eq!(inbox.datagram(0).unwrap().1, near.local_addr().unwrap().ip());
            assert!(inbox.datagram(3).is_none());
            assert_eq!(inbox.receive(far.as_fd()).unwrap(), 0);
        }
    }
}
