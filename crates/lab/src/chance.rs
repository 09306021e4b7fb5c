//! Repeatable chance.

/// SplitMix64 (Steele, Lea, Flood 2014): the seed decides everything.
#[derive(Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs for seed 1234567, as in the reference implementation's test (Vigna, splitmix64.c).
    #[test]
    fn draws_the_reference_numbers() {
        let mut chance = Chance(1_234_567);
        assert_eq!([chance.draw(), chance.draw()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }
}
