//! UDP in runs: many datagrams of one size to or from one address cross the kernel in one piece (UDP_SEGMENT, UDP_GRO), and many
//! such runs in one call.

use crate::batch::{address_of, empty_header};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Most bytes of one run: a UDP datagram before it is cut.
const RUN: usize = 65_536;
/// Room for one control message with a number, and some that the system may add.
const CONTROL: usize = 64;

/// A non-blocking UDP socket that receives runs, never fragments what it sends, and has `buffer` bytes of room each way where the
/// system allows. `share`: another process may bind the same address (the one that takes our place).
pub fn bind_runs(address: SocketAddr, buffer: usize, share: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    socket.set_recv_buffer_size(buffer)?;
    socket.set_send_buffer_size(buffer)?;
    option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
    // full size or nothing: path MTU is probed by those who send (RFC 8899)
    match address {
        SocketAddr::V4(_) => option(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?,
        SocketAddr::V6(_) => option(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?,
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn option(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the option's value is an i32 that outlives the call, and its length is given.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(&value).cast(), length) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct ControlSpace([u8; CONTROL]);

/// One received run: datagrams of `segment` bytes, the last may be shorter.
#[derive(Debug)]
pub struct Received<'a> {
    /// Whom it came from.
    pub from: SocketAddr,
    /// Bytes of each datagram.
    pub segment: usize,
    /// All of them.
    pub bytes: &'a mut [u8],
}

/// Room for received runs, filled by one `recvmmsg`.
pub struct RunInbox {
    buffer: Vec<u8>,
    addresses: Vec<libc::sockaddr_storage>,
    controls: Vec<ControlSpace>,
    got: Vec<(usize, usize)>,
    pieces: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `pieces` and `headers` are set anew before each call, from buffers that move with the struct.
unsafe impl Send for RunInbox {}

impl RunInbox {
    /// Room for `count` runs: 64 KiB each.
    pub fn new(count: usize) -> Self {
        // SAFETY: all zeros is a valid `sockaddr_storage` of the family AF_UNSPEC.
        let address: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        RunInbox {
            buffer: vec![0; count * RUN],
            addresses: vec![address; count],
            controls: vec![ControlSpace([0; CONTROL]); count],
            got: Vec::with_capacity(count),
            pieces: Vec::with_capacity(count),
            headers: Vec::with_capacity(count),
        }
    }

    /// Takes what waits, without waiting; how many runs.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.got.clear();
        self.pieces.clear();
        self.headers.clear();
        let pieces = self.buffer.chunks_exact_mut(RUN);
        self.pieces.extend(pieces.map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: chunk.len() }));
        for ((piece, address), control) in self.pieces.iter_mut().zip(&mut self.addresses).zip(&mut self.controls) {
            let mut header = empty_header();
            header.msg_hdr.msg_name = std::ptr::from_mut(address).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as u32;
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
            self.headers.push(header);
        }
        let count = u32::try_from(self.headers.len()).unwrap_or(u32::MAX);
        let (fd, headers) = (socket.as_raw_fd(), self.headers.as_mut_ptr());
        // SAFETY: headers, pieces, addresses, controls and the buffer outlive the call; the kernel writes at most the lengths given.
        let got = unsafe { libc::recvmmsg(fd, headers, count, libc::MSG_DONTWAIT, std::ptr::null_mut()) };
        if got < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) };
        }
        for header in self.headers.iter().take(got.unsigned_abs() as usize) {
            let length = (header.msg_len as usize).min(RUN);
            self.got.push((length, segment_of(&header.msg_hdr).unwrap_or(length).max(1)));
        }
        Ok(self.got.len())
    }

    /// The runs of the last [`RunInbox::receive`].
    pub fn runs(&mut self) -> impl Iterator<Item = Received<'_>> {
        let buffers = self.buffer.chunks_exact_mut(RUN);
        buffers.zip(&self.addresses).zip(&self.got).map(|((buffer, address), &(length, segment))| Received {
            from: socket_address(address),
            segment,
            bytes: &mut buffer[..length],
        })
    }

    /// The bytes of run `index` of the last [`RunInbox::receive`].
    pub fn bytes(&self, index: usize) -> &[u8] {
        match self.got.get(index) {
            Some(&(length, _)) => &self.buffer[index * RUN..index * RUN + length],
            None => &[],
        }
    }
}

fn segment_of(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer of this header and set its length; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_UDP && (*message).cmsg_type == libc::UDP_GRO {
                let size = std::ptr::read_unaligned(libc::CMSG_DATA(message).cast::<i32>());
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

fn socket_address(storage: &libc::sockaddr_storage) -> SocketAddr {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a `sockaddr_in` was written there; the storage is larger and aligned for it.
            let v4 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            SocketAddr::new(address_of(storage), u16::from_be(v4.sin_port))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, a `sockaddr_in6`.
            let v6 = unsafe { &*std::ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let flat = SocketAddrV6::new(v6.sin6_addr.s6_addr.into(), u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id);
            match flat.ip().to_ipv4_mapped() {
                Some(v4) => SocketAddrV4::new(v4, flat.port()).into(),
                None => flat.into(),
            }
        }
        _ => SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0).into(),
    }
}

/// A run to send: datagrams of `segment` bytes, the last may be shorter; at most 64 of them and 65,000 bytes.
#[derive(Clone, Copy, Debug)]
pub struct ToSend<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Bytes of each datagram.
    pub segment: usize,
    /// All of them.
    pub bytes: &'a [u8],
}

/// Room for sending runs; its memory is used again.
#[derive(Default)]
pub struct RunOutbox {
    addresses: Vec<SockAddr>,
    controls: Vec<Segment>,
    pieces: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: as for `RunInbox`.
unsafe impl Send for RunOutbox {}

/// A control message with UDP_SEGMENT.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Segment([u8; 24]);

impl RunOutbox {
    /// Sends runs in their order, without waiting. Returns how many went; the next one could not, for the reason given (none if
    /// all went). `mapped`: the socket is IPv6 and speaks to IPv4 too.
    pub fn send(&mut self, socket: BorrowedFd<'_>, runs: &[ToSend<'_>], mapped: bool) -> (usize, Option<io::Error>) {
        self.prepare(runs, mapped);
        let mut gone = 0;
        while gone < self.headers.len() {
            let rest = &mut self.headers[gone..];
            let count = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            // SAFETY: headers, pieces, addresses, controls and the runs outlive the call; the kernel only reads through them.
            let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
            if sent < 0 {
                return (gone, Some(io::Error::last_os_error()));
            }
            gone += sent.unsigned_abs() as usize;
        }
        (gone, None)
    }

    fn prepare(&mut self, runs: &[ToSend<'_>], mapped: bool) {
        self.addresses.clear();
        self.controls.clear();
        self.pieces.clear();
        self.headers.clear();
        for run in runs {
            let to = match run.to {
                SocketAddr::V4(v4) if mapped => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
                to => to,
            };
            self.addresses.push(to.into());
            self.controls.push(Segment([0; 24]));
            self.pieces.push(libc::iovec { iov_base: run.bytes.as_ptr().cast_mut().cast(), iov_len: run.bytes.len() });
        }
        let parts = runs.iter().zip(&self.addresses).zip(&mut self.pieces).zip(&mut self.controls);
        for (((run, address), piece), control) in parts {
            let mut header = empty_header();
            header.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
            header.msg_hdr.msg_namelen = address.len();
            header.msg_hdr.msg_iov = piece;
            header.msg_hdr.msg_iovlen = 1;
            if run.bytes.len() > run.segment {
                put_segment(&mut header.msg_hdr, control, u16::try_from(run.segment).unwrap_or(u16::MAX));
            }
            self.headers.push(header);
        }
    }
}

fn put_segment(header: &mut libc::msghdr, control: &mut Segment, size: u16) {
    header.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE of two bytes is 24 on 64-bit systems, which the buffer has (checked below at compile time).
    unsafe {
        header.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
        let message = libc::CMSG_FIRSTHDR(header);
        if let Some(message) = message.as_mut() {
            message.cmsg_level = libc::SOL_UDP;
            message.cmsg_type = libc::UDP_SEGMENT;
            message.cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            std::ptr::write_unaligned(libc::CMSG_DATA(message).cast::<u16>(), size);
        }
    }
}

// SAFETY: a pure computation.
const _: () = assert!(unsafe { libc::CMSG_SPACE(2) } as usize <= size_of::<Segment>());

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interest, Ready};
    use std::os::fd::AsFd;
    use std::time::Duration;

    fn pair(loopback: &str) -> Option<(UdpSocket, UdpSocket)> {
        let address = loopback.parse().unwrap();
        Some((bind_runs(address, 1 << 20, false).ok()?, bind_runs(address, 1 << 20, false).ok()?))
    }

    /// All that comes, as (source, datagram), until `count` datagrams are there.
    fn take(socket: &UdpSocket, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let ready = Ready::new().unwrap();
        ready.add(socket.as_fd(), 1, Interest::Read).unwrap();
        let (mut inbox, mut tokens, mut all) = (RunInbox::new(4), Vec::new(), Vec::new());
        while all.len() < count {
            ready.wait(&mut tokens, Some(Duration::from_secs(20))).unwrap();
            assert!(!tokens.is_empty(), "{} of {count} came", all.len());
            inbox.receive(socket.as_fd()).unwrap();
            for run in inbox.runs() {
                all.extend(run.bytes.chunks(run.segment).map(|one| (run.from, one.to_vec())));
            }
        }
        all
    }

    #[test]
    fn runs_cross_as_single_datagrams_or_as_runs() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let Some((near, far)) = pair(loopback) else { continue };
            let to = far.local_addr().unwrap();
            let bytes: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
            let runs = [
                ToSend { to, segment: 1300, bytes: &bytes },
                ToSend { to, segment: 500, bytes: &bytes[..500] },
                ToSend { to, segment: 700, bytes: &bytes[..1400] },
            ];
            let (gone, error) = RunOutbox::default().send(near.as_fd(), &runs, false);
            assert!(gone == 3 && error.is_none(), "{error:?}");
            let want: Vec<Vec<u8>> = runs.iter().flat_map(|run| run.bytes.chunks(run.segment).map(<[u8]>::to_vec)).collect();
            let got = take(&far, want.len());
            assert!(got.iter().all(|(from, _)| *from == near.local_addr().unwrap()));
            assert_eq!(got.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn a_run_that_cannot_go_is_named() {
        let Some((near, far)) = pair("127.0.0.1:0") else { return };
        let to = far.local_addr().unwrap();
        let long = vec![0; 70_000];
        let runs = [ToSend { to, segment: 9, bytes: &long[..9] }, ToSend { to, segment: 70_000, bytes: &long }];
        let (gone, error) = RunOutbox::default().send(near.as_fd(), &runs, false);
        assert_eq!((gone, error.unwrap().raw_os_error()), (1, Some(libc::EMSGSIZE)));
    }

    #[test]
    fn a_socket_of_both_families_speaks_to_ipv4() {
        let Ok(both) = bind_runs("[::]:0".parse().unwrap(), 1 << 16, false) else { return };
        let far = bind_runs("127.0.0.1:0".parse().unwrap(), 1 << 16, false).unwrap();
        let runs = [ToSend { to: far.local_addr().unwrap(), segment: 3, bytes: b"abc" }];
        let (gone, error) = RunOutbox::default().send(both.as_fd(), &runs, true);
        assert!(gone == 1 && error.is_none(), "{error:?}");
        let (from, bytes) = take(&far, 1).remove(0);
        assert_eq!(bytes, b"abc");
        // and hears it under its IPv4 address
        let back = [ToSend { to: from, segment: 3, bytes: b"def" }];
        RunOutbox::default().send(far.as_fd(), &back, false);
        assert_eq!(take(&both, 1)[0].0, far.local_addr().unwrap());
    }

    #[test]
    fn two_processes_may_share_an_address() {
        let first = bind_runs("127.0.0.1:0".parse().unwrap(), 1 << 16, true).unwrap();
        let address = first.local_addr().unwrap();
        assert!(bind_runs(address, 1 << 16, true).is_ok());
        assert!(bind_runs(address, 1 << 16, false).is_err());
    }
}
