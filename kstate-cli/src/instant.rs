//! Points in time as people and other tools write them: RFC 3339, in UTC.

use std::time::Duration;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Days from the first of March of the year 0 to the Unix epoch.
const EPOCH_DAYS: u64 = 719_468;

/// Days of 400 years.
const ERA_DAYS: u64 = 146_097;

/// The time so long after the Unix epoch, such as `2026-11-26T03:47:12.5Z`; nanoseconds where there are
/// any.
pub(crate) fn show(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    // Years begin in March here, so that the odd day is a year's last.
    // <https://howardhinnant.github.io/date_algorithms.html>
    let days = seconds / DAY_SECONDS + EPOCH_DAYS;
    let (era, day) = (days / ERA_DAYS, days % ERA_DAYS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let day = day - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let fraction = match since_epoch.subsec_nanos() {
        0 => String::new(),
        nanoseconds => format!(".{nanoseconds:09}")
            .trim_end_matches('0')
            .to_owned(),
    };
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// Reads what [`show`] writes; `None` for anything else, and for times before the epoch.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let whole = text.strip_suffix('Z')?;
    let (whole, fraction) = whole.split_once('.').unwrap_or((whole, "0"));
    let (date, clock) = whole.split_once('T')?;
    let mut date = date.splitn(3, '-').map(number);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);

    let year = year.checked_sub(u64::from(month <= 2))?;
    let march = if month > 2 {
        month - 3
    } else {
        month.checked_add(9)?
    };
    let day = (153_u64.checked_mul(march)? + 2) / 5 + day.checked_sub(1)?;
    let in_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100;
    let days = (year / 400).checked_mul(ERA_DAYS)?.checked_add(in_era)?;
    let days = days.checked_add(day)?.checked_sub(EPOCH_DAYS)?;
    let seconds = days
        .checked_mul(DAY_SECONDS)?
        .checked_add(hour.checked_mul(3600)?)?
        .checked_add(minute.checked_mul(60)?)?
        .checked_add(second)?;
    // A thirtieth of February is read as another day, which is written in another way.
    (show(Duration::from_secs(seconds)) == format!("{whole}Z")).then_some(())?;
    number(fraction)?;
    let nanoseconds = format!("{fraction:0<9}").parse().ok()?;
    (fraction.len() <= 9).then(|| Duration::new(seconds, nanoseconds))
}

/// Digits and nothing else.
fn number(digits: &str) -> Option<u64> {
    let are_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times_are_written_as_date_writes_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (1_795_664_832, "2026-11-26T03:47:12Z"),
        ] {
            assert_eq!(show(Duration::from_secs(seconds)), text);
            assert_eq!(parse(text), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(show(Duration::from_millis(1500)), "1970-01-01T00:00:01.5Z");
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "Z",
            "1970-01-01T00:00:00",
            "1969-12-31T23:59:59Z",
            "2026-02-30T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-1-1T00:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.0000000001Z",
            "2026-01-01T00:00:00.+1Z",
            "99999999999999999999-01-01T00:00:00Z",
            "18446744073709551615-18446744073709551615-18446744073709551615T0:0:0Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_is_read_back(seconds in 0..u64::MAX / 2, near in 0..10_000_000_000u64, ns in 0..1_000_000_000u32) {
            for seconds in [seconds, near] {
                let time = Duration::new(seconds, ns);
                prop_assert_eq!(parse(&show(time)), Some(time));
            }
        }

        #[test]
        fn no_text_panics(text in "[0-9TZ:.-]{0,40}") {
            let _ = parse(&text);
        }
    }
}
