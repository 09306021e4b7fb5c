//! The C library's allocator, told what a relay does all day.

/// Free memory that the heap keeps instead of giving it back: bulk traffic frees and takes the same few megabytes thousands
/// of times a second, and each time the kernel would clear the pages again.
const KEEP: libc::c_int = 8 << 20;
/// By how much the heap grows at once, the default being single pages of a thread's heap; and from which size on a piece is mapped by
/// itself: reads of 256 KiB are not, for the kernel would clear every page of each.
const GROW: libc::c_int = 1 << 20;

/// Lets the allocator of this process keep up to 8 MiB that it has freed (measured: a fifth of a hop's CPU time in bulk).
/// Does nothing where the C library is not glibc.
pub fn keep_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers, has no memory preconditions, and may be called at any time from any thread.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEEP);
        libc::mallopt(libc::M_TOP_PAD, GROW);
        libc::mallopt(libc::M_MMAP_THRESHOLD, GROW);
    }
}

/// Gives what has been freed back to the system, when memory is short. Milliseconds; does nothing where the C library is not glibc.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes an integer, has no memory preconditions, and may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the C library's allocator has for this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heap {
    /// Bytes that somebody holds.
    pub used: u64,
    /// Bytes that were taken from the system: those, and what was freed and not given back.
    pub held: u64,
}

/// Counts the heaps of all threads: microseconds to milliseconds, with each heap locked in turn. Zero where the C library is not glibc.
#[must_use]
pub fn heap() -> Heap {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallinfo2 takes nothing, returns numbers by value, and may be called at any time from any thread.
        let told = unsafe { libc::mallinfo2() };
        Heap { used: (told.uordblks + told.hblkhd) as u64, held: (told.arena + told.hblkhd) as u64 }
    }
    #[cfg(not(target_env = "gnu"))]
    Heap::default()
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn what_is_taken_and_what_is_freed_is_counted() {
        const SIZE: u64 = 64 << 20;
        let before = super::heap();
        let taken = vec![1u8; SIZE as usize];
        let meanwhile = super::heap();
        assert!(meanwhile.used >= before.used + SIZE / 2 && meanwhile.held >= meanwhile.used, "{before:?}, {meanwhile:?}");
        drop(taken);
        assert!(super::heap().used <= meanwhile.used - SIZE / 2, "{meanwhile:?}, {:?}", super::heap());
    }
}
