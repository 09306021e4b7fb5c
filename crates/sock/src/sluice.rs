//! Which new connections a listening socket takes, decided by the kernel before they cost anything.
//!
//! Theory of operation. A listener's socket filter (classic BPF, `socket(7)` SO_ATTACH_FILTER) sees each SYN before a request socket
//! exists. It looks the source up in a binary tree of jumps: who is listed passes, or passes with a chance of his own; everybody else
//! passes with the common chance. A SYN that does not pass is dropped, and whoever is honest says it again a second later. Sources are
//! compared by 32 bits: an IPv4 address, or both halves of an IPv6 /64 folded together. Two that fold alike share their luck.

use libc::{sock_filter, sock_fprog};
use std::collections::BTreeMap;
use std::io;
use std::mem::size_of_val;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

/// Sources that one filter can name: a program has 4,096 instructions.
pub const MOST_SOURCES: usize = 800;
/// As many fit where the system allows little memory for options (`net.core.optmem_max`).
const FEW_SOURCES: usize = 200;

/// Passes always.
pub const ALWAYS: u32 = u32::MAX;

const ALL: u32 = u32::MAX;
const NONE: u32 = 0;
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const SYN_ACK: u32 = 0x12;
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
const RANDOM: u32 = libc::SKF_AD_OFF.cast_unsigned().wrapping_add(56);

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const SHIFT: u32 = libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K;
const XOR: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X;
const ASIDE: u32 = libc::BPF_MISC | libc::BPF_TAX;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

/// Lets new connections of `listed` sources pass with their chance, and all others with `chance`, each of 2³² ([`ALWAYS`]: no dice).
/// Of more than [`MOST_SOURCES`] the first count. Errors: the system refuses filters; the listener is as before then.
pub fn sift(listener: &impl AsFd, listed: &[(IpAddr, u32)], chance: u32) -> io::Result<()> {
    let most = listed.len().min(MOST_SOURCES);
    attach(listener, &program(&listed[..most], chance)).or_else(|error| {
        if error.raw_os_error() == Some(libc::ENOMEM) && most > FEW_SOURCES {
            return attach(listener, &program(&listed[..FEW_SOURCES], chance));
        }
        Err(error)
    })
}

/// Takes the filter off: of a listener, or of a connection, which has inherited its listener's.
pub fn open(socket: &impl AsFd) -> io::Result<()> {
    match option(socket, libc::SO_DETACH_FILTER, &0_i32) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        done => done,
    }
}

/// New connections that the system has dropped at this listener since it was opened; it wraps.
pub fn dropped(listener: &impl AsFd) -> io::Result<u32> {
    const DROPS: usize = 8; // SK_MEMINFO_DROPS
    let mut info = [0_u32; DROPS + 1];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call, and the kernel writes at most `length` bytes into `info`.
    let done = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(info[DROPS]) } else { Err(io::Error::last_os_error()) }
}

fn attach(listener: &impl AsFd, program: &[sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The kernel only reads what `filter` points at.
    option(listener, libc::SO_ATTACH_FILTER, &sock_fprog { len, filter: program.as_ptr().cast_mut() })
}

fn option<T>(socket: &impl AsFd, name: i32, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(value)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is borrowed for the call; the kernel reads `length` bytes behind a pointer to as many, and the program
    // behind the one in `sock_fprog`, which its borrower keeps alive for the call.
    let done =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, name, std::ptr::from_ref(value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const fn step(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn program(listed: &[(IpAddr, u32)], chance: u32) -> Vec<sock_filter> {
    let (mut four, mut six) = (BTreeMap::new(), BTreeMap::new());
    for (address, chance) in listed.iter().rev() {
        match address.to_canonical() {
            IpAddr::V4(v4) => four.insert(u32::from(v4), *chance),
            IpAddr::V6(v6) => six.insert((u128::from(v6) >> 96) as u32 ^ (u128::from(v6) >> 64) as u32, *chance),
        };
    }
    let [four, six] = [four, six].map(|sources| tree(&sources.into_iter().collect::<Vec<_>>(), chance));
    let mut all = vec![
        step(LOAD_BYTE, FLAGS),
        step(AND, SYN_ACK),
        jump(EQUAL, SYN, 1, 0),
        step(RETURN, ALL),
        step(LOAD_BYTE, NETWORK),
        step(SHIFT, 4),
        jump(EQUAL, 4, 1, 0),
        step(JUMP, four.len() as u32 + 1),
        step(LOAD, NETWORK + 12),
    ];
    all.extend(four);
    all.extend([step(LOAD, NETWORK + 8), step(ASIDE, 0), step(LOAD, NETWORK + 12), step(XOR, 0)]);
    all.extend(six);
    all
}

/// What decides about the source in the accumulator; `sources` are in order.
fn tree(sources: &[(u32, u32)], chance: u32) -> Vec<sock_filter> {
    if sources.len() > 4 {
        let (low, high) = sources.split_at(sources.len() / 2);
        let [left, right] = [low, high].map(|half| tree(half, chance));
        let mut all = vec![jump(LEAST, high[0].0, 0, 1), step(JUMP, left.len() as u32)];
        all.extend(left);
        all.extend(right);
        return all;
    }
    let mut all = Vec::new();
    for (source, chance) in sources {
        let verdict = verdict(*chance);
        all.push(jump(EQUAL, *source, 0, verdict.len() as u8));
        all.extend(verdict);
    }
    all.extend(verdict(chance));
    all
}

fn verdict(chance: u32) -> Vec<sock_filter> {
    match chance {
        ALWAYS => vec![step(RETURN, ALL)],
        0 => vec![step(RETURN, NONE)],
        chance => vec![step(LOAD, RANDOM), jump(LEAST, chance, 0, 1), step(RETURN, NONE), step(RETURN, ALL)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Protocol, SockAddr, Socket, Type};
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
    use std::time::Duration;

    /// The kernel's machine, as far as these programs go: whether a SYN from `source` passes when the dice show `random`.
    fn passes(program: &[sock_filter], source: IpAddr, random: u32) -> bool {
        let word = |k: u32| match (source, k.wrapping_sub(NETWORK)) {
            (IpAddr::V4(v4), 12) => u32::from(v4),
            (IpAddr::V6(v6), 8) => (u128::from(v6) >> 96) as u32,
            (IpAddr::V6(v6), 12) => (u128::from(v6) >> 64) as u32,
            _ if k == RANDOM => random,
            _ => panic!("no word at {k:#x}"),
        };
        let (mut at, mut a, mut x) = (0, 0_u32, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match u32::from(code) {
                LOAD_BYTE if k == FLAGS => a = SYN,
                LOAD_BYTE => a = if source.is_ipv4() { 0x45 } else { 0x60 },
                LOAD => a = word(k),
                AND => a &= k,
                SHIFT => a >>= k,
                XOR => a ^= x,
                ASIDE => x = a,
                EQUAL => at += usize::from(if a == k { jt } else { jf }),
                LEAST => at += usize::from(if a >= k { jt } else { jf }),
                JUMP => at += k as usize,
                RETURN => return k == ALL,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    #[test]
    fn the_listed_have_their_chance_and_all_others_the_common_one() {
        let four = |n: u32| IpAddr::from(Ipv4Addr::from(n.wrapping_mul(0x9E37_79B1)));
        let six = |n: u32| IpAddr::from(Ipv6Addr::from(u128::from(n.wrapping_mul(0x9E37_79B1)) << 64 | u128::from(n)));
        for count in [0, 1, 4, 5, 9, 64, 400] {
            let chance = |n: u32| if n.is_multiple_of(5) { 1000 } else { ALWAYS };
            let listed: Vec<_> = (0..count).flat_map(|n| [(four(n), chance(n)), (six(n), chance(n))]).collect();
            let program = program(&listed, 50);
            assert!(program.len() <= 4096, "{count}: {}", program.len());
            let mine: HashMap<_, _> = listed.iter().copied().collect();
            for n in 0..2 * count + 10 {
                for source in [four(n), six(n)] {
                    let chance = mine.get(&source).copied().unwrap_or(50);
                    for random in [0, 49, 50, 999, 1000, u32::MAX] {
                        let expected = chance == ALWAYS || random < chance;
                        assert_eq!(passes(&program, source, random), expected, "{count} {source} {random}");
                    }
                }
            }
        }
        let many: Vec<_> = (0..MOST_SOURCES as u32).map(|n| (four(n), if n < 64 { 1000 } else { ALWAYS })).collect();
        assert!(program(&many, 50).len() <= 4096);
    }

    fn connects(from: [u8; 4], to: SocketAddr) -> bool {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.bind(&SockAddr::from(SocketAddr::from((from, 0)))).expect("an address of loopback");
        socket.connect_timeout(&to.into(), Duration::from_millis(300)).is_ok()
    }

    #[test]
    fn the_kernel_drops_who_does_not_pass_and_counts_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let here = listener.local_addr().expect("its address");
        let known = [(IpAddr::from([127, 0, 0, 2]), ALWAYS)];
        sift(&listener, &known, 0).expect("filters");
        let before = dropped(&listener).expect("a count");
        assert!(connects([127, 0, 0, 2], here) && !connects([127, 0, 0, 3], here));
        assert!(dropped(&listener).expect("a count").wrapping_sub(before) >= 1);
        let (inside, _) = listener.accept().expect("the known one");
        open(&inside).expect("a connection may forget its listener's filter");
        let many: Vec<_> = (0..2000_u32).map(|n| (IpAddr::from((0x0A00_0000 + 7 * n).to_be_bytes()), ALWAYS)).collect();
        sift(&listener, &many, 0).expect("as many as fit");
        assert!(!connects([127, 0, 0, 2], here));
        open(&listener).expect("no filter");
        open(&listener).expect("twice is harmless");
        assert!(connects([127, 0, 0, 3], here));
    }
}
