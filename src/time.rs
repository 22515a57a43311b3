//! Times as people and JSON write them.
//!
//! Owns two small conversions: a [`Tick`] of the Unix epoch to RFC 3339 in UTC with milliseconds, and a
//! duration to whole milliseconds. Reads no clock. A leaf.

use std::time::Duration;

use crate::ids::Tick;

const MS_PER_DAY: u64 = 86_400_000;

/// The last millisecond of the year 9999, the last that RFC 3339 can write.
const LAST_MS: u64 = 253_402_300_799_999;

/// A duration in whole milliseconds, rounded down; the longest that there is if it is longer.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A moment of the Unix epoch, such as `2026-11-22T21:11:04.250Z`.
pub fn rfc3339(at: Tick) -> String {
    let ms = at.0.min(LAST_MS);
    let (year, month, day) = civil_from_days(ms / MS_PER_DAY);
    let of_day = ms % MS_PER_DAY;
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", of_day % 1000)
}

/// Year, month and day of a day since 1970-01-01 in the Gregorian calendar (Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`, for days that are not negative).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_utc_with_milliseconds() {
        assert_eq!(rfc3339(Tick(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(Tick(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(Tick(1_795_381_864_250)), "2026-11-22T21:11:04.250Z");
        assert_eq!(rfc3339(Tick(4_107_542_399_999)), "2100-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(Tick(4_107_542_400_000)), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn the_far_future_ends_with_the_year_9999() {
        assert_eq!(rfc3339(Tick(u64::MAX)), "9999-12-31T23:59:59.999Z");
    }
}
