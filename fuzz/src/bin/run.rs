//! `run [--seconds N] [--seed N] [target …]`: mutates seeds on a stable toolchain, for a bounded time.
//!
//! Not guided by coverage: `fuzz/libfuzzer` is. An input that fails is kept under `fuzz/artifacts` and said; exit status 3.

use polder_fuzz::{TARGETS, Target};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest input tried.
const LONGEST: usize = 40_000;
/// What parsers stumble over.
const WORDS: [&[u8]; 30] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"\t",
    b";",
    b",",
    b"0",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"Host: a.example\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: x\r\n",
    b"GET http://a.example/ HTTP/1.1\r\n",
    b"CONNECT a.example:80 HTTP/1.1\r\n",
    b"POST ",
    b"HTTP/1.0",
    b"HTTP/1.1 200 OK\r\n",
    b"\xff",
    b"\x80",
    b"\xc0",
    b"\xde\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"99999999999999999999",
];

/// xorshift64*: chance that can be repeated.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n.max(1)
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut seconds, mut seed, mut chosen) = (10, 1, Vec::new());
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|n| n.parse().ok()).unwrap_or_else(|| usage());
        match argument.as_str() {
            "--seconds" => seconds = number(),
            "--seed" => seed = number(),
            name if TARGETS.iter().any(|(target, _)| *target == name) => chosen.push(argument),
            _ => usage(),
        }
    }
    let targets: Vec<_> = TARGETS.iter().filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|c| c == name)).collect();
    let share = Duration::from_secs(seconds) / targets.len() as u32;
    let mut failed = false;
    for (name, target) in targets {
        failed |= !fuzz(name, *target, share, seed);
    }
    std::process::exit(if failed { 3 } else { 0 });
}

fn usage() -> ! {
    let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    eprintln!("usage: run [--seconds N] [--seed N] [target …]\ntargets: {}", names.join(" "));
    std::process::exit(2);
}

/// Runs one target; false when an input failed.
fn fuzz(name: &str, target: Target, share: Duration, seed: u64) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seeds = polder_fuzz::seeds(name);
    seeds.push(Vec::new());
    let mut chance = Chance(seed | 1 << 63);
    let (start, mut runs) = (Instant::now(), 0u64);
    let mut queue: Vec<Vec<u8>> = seeds.clone();
    while let Some(input) = queue.pop().or_else(|| (start.elapsed() < share).then(|| mutate(&seeds, &mut chance))) {
        runs += 1;
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            let mut hasher = DefaultHasher::new();
            input.hash(&mut hasher);
            let file = root.join("artifacts").join(format!("{name}-{:016x}", hasher.finish()));
            let kept = std::fs::create_dir_all(root.join("artifacts")).and_then(|()| std::fs::write(&file, &input));
            println!("{name}: FAILED after {runs} runs; input {} ({kept:?})", file.display());
            return false;
        }
    }
    println!("{name}: {runs} runs of {} seeds in {:.1} s", seeds.len(), start.elapsed().as_secs_f64());
    true
}

fn mutate(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut input = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(6) {
        let at = chance.below(input.len() + 1);
        let to = (at + chance.below(16)).min(input.len());
        match chance.below(8) {
            0 if at < input.len() => input[at] ^= 1 << chance.below(8),
            1 if at < input.len() => input[at] = chance.next() as u8,
            2 => drop(input.splice(at..at, WORDS[chance.below(WORDS.len())].iter().copied())),
            3 => drop(input.splice(at..to, WORDS[chance.below(WORDS.len())].iter().copied())),
            4 => drop(input.drain(at..to)),
            5 => input.truncate(at),
            6 => {
                let again = input[at..to].to_vec();
                drop(input.splice(at..at, again));
            }
            _ => {
                let other = &seeds[chance.below(seeds.len())];
                input.truncate(at);
                input.extend_from_slice(&other[chance.below(other.len() + 1)..]);
            }
        }
        input.truncate(LONGEST);
    }
    input
}
