//! How full is full.

/// Where memory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watermark {
    /// Below 80 %, or without a limit.
    Calm,
    /// From 80 % on.
    High,
    /// From 95 % on.
    Full,
}

impl Watermark {
    /// Of `held` of `limit` bytes; a limit of 0 means none.
    pub fn of(held: u64, limit: u64) -> Self {
        let percent = if limit == 0 { 0 } else { u128::from(held) * 100 / u128::from(limit) };
        match percent {
            0..80 => Watermark::Calm,
            80..95 => Watermark::High,
            _ => Watermark::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_reached_at_80_and_95_percent() {
        let at = |held| Watermark::of(held, 1000);
        assert_eq!([at(0), at(799)], [Watermark::Calm; 2]);
        assert_eq!([at(800), at(949)], [Watermark::High; 2]);
        assert_eq!([at(950), at(u64::MAX)], [Watermark::Full; 2]);
        assert_eq!(Watermark::of(u64::MAX, 0), Watermark::Calm);
    }
}
