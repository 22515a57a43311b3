//! Zipf's distribution over ranks: how popular keys are in many real loads.
//!
//! The exponent is that of YCSB (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", 2010, section 4.1,
//! after Gray et al., "Quickly Generating Billion-Record Synthetic Databases", 1994). The sums are kept: one lookup a
//! draw.

/// The exponent.
const SKEW: f64 = 0.99;

/// The distribution over the ranks from 0.
#[derive(Debug)]
pub(super) struct Zipf {
    /// The share of all draws that this rank and those before it get.
    sums: Vec<f64>,
}

impl Zipf {
    /// Over so many ranks, 1 or more.
    pub(super) fn over(ranks: usize) -> Self {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(ranks);
        for rank in 1..=ranks {
            sum += (rank as f64).powf(-SKEW);
            sums.push(sum);
        }
        sums.iter_mut().for_each(|part| *part /= sum);
        Self { sums }
    }

    /// The rank that a number from 0 to 1 falls on.
    pub(super) fn draw(&self, uniform: f64) -> usize {
        self.sums.partition_point(|part| *part < uniform).min(self.sums.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rank_gets_as_much_more_as_the_exponent_says() {
        let zipf = Zipf::over(1000);
        let mut counts = vec![0_u32; 1000];
        for number in 0..100_000 {
            counts[zipf.draw(f64::from(number) / 100_000.0)] += 1;
        }
        let ratio = f64::from(counts[0]) / f64::from(counts[9]);
        assert!((ratio - 10_f64.powf(SKEW)).abs() < 0.1, "{ratio}");
        assert!(counts.is_sorted_by(|a, b| *a + 1 >= *b), "{counts:?}");
    }

    #[test]
    fn every_number_falls_on_a_rank() {
        for ranks in [1, 2, 1000] {
            let zipf = Zipf::over(ranks);
            assert_eq!((zipf.draw(0.0), zipf.draw(1.0)), (0, ranks - 1));
        }
    }
}
