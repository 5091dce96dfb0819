//! The two clocks of the program. Decisions use [`Clock`], monotonic and private to this process; people read
//! [`unix_ms`], which is never compared between hosts, and the dates that it stands for.

use holdfast_core::Millis;
use tokio::time::Instant;

/// Monotonic milliseconds since this process began to count. Copies count from the same moment.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }
    pub fn now(&self) -> Millis {
        self.at(Instant::now())
    }
    /// A moment on this clock; what lies before its start counts as its start.
    pub fn at(&self, instant: Instant) -> Millis {
        Millis(u64::try_from(instant.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX))
    }
    /// The moment that `millis` names.
    pub fn instant(&self, millis: Millis) -> Instant {
        self.start + std::time::Duration::from_millis(millis.0)
    }
}

/// Milliseconds since 1970 by the wall clock, for people only.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Minutes since midnight (UTC) by the wall clock, for what a person wants done at a time of the day.
pub fn minute_of_day() -> u16 {
    u16::try_from(unix_ms() / 60_000 % (24 * 60)).unwrap_or(0)
}

/// Seconds since 1970 by the wall clock, for certificates.
pub fn unix_s() -> i64 {
    i64::try_from(unix_ms() / 1_000).unwrap_or(i64::MAX)
}

/// `2026-11-23 20:55:01.123Z` (civil-from-days by Howard Hinnant's published algorithm).
pub fn utc(unix_ms: u64) -> String {
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}.{:03}Z", ms % 1_000)
}

/// The moment that a text names: `2026-11-23T20:55:01.5Z`, also with a space between, without the fraction, or with an
/// offset like `+01:00` in place of `Z`. Digits behind the milliseconds are cut off. `None` if it names none, or leaves
/// open which zone it is of (days-from-civil by Howard Hinnant's published algorithm).
pub fn from_utc(text: &str) -> Option<u64> {
    let text = text.trim();
    let (date, rest) = (text.get(..10)?, text.get(10..)?.strip_prefix(['T', 't', ' '])?);
    let number = |text: &str, max: u64| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|n: &u64| *n <= max)
    };
    let mut parts = date.split('-');
    let (year, month, day) =
        (number(parts.next()?, 9_999)?, number(parts.next()?, 12)?, number(parts.next()?, 31)?);
    let zone = rest.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut parts = clock.split(':');
    let (h, m, s) = (number(parts.next()?, 23)?, number(parts.next()?, 59)?, number(parts.next()?, 59)?);
    number(fraction, u64::MAX)?;
    let ms = number(&format!("{fraction:0<3}")[..3], 999)?;
    let east = match zone.trim_start_matches(['+', '-']) {
        "Z" | "z" => 0,
        offset => {
            let (h, m) = offset.split_once(':')?;
            number(h, 14)? * 60 + number(m, 59)?
        }
    };
    if month == 0 || day == 0 || parts.next().is_some() || year < 1970 {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, yoe) = (year / 400, year % 400);
    let doy = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy;
    let local = (days.checked_sub(719_468)? * 24 + h) * 60 + m;
    let minutes = if zone.starts_with('-') { local + east } else { local.checked_sub(east)? };
    let unix_ms = (minutes * 60 + s) * 1_000 + ms;
    // The 31st of a month of 30 days is no day.
    (east != 0 || utc(unix_ms).starts_with(date)).then_some(unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(utc(951_782_400_123), "2000-02-29 00:00:00.123Z");
        assert_eq!(utc(1_795_467_600_000), "2026-11-23 21:00:00.000Z");
    }

    #[test]
    fn a_moment_has_many_texts_and_nothing_else_is_one() {
        for ms in [0, 951_782_400_123, 1_795_467_600_000, 4_102_444_799_999] {
            assert_eq!(from_utc(&utc(ms)), Some(ms));
        }
        let at = Some(1_795_467_600_500);
        for text in [
            "2026-11-23T21:00:00.5Z",
            "2026-11-23T21:00:00.500999z",
            "2026-11-23 22:00:00.5+01:00",
            "2026-11-23T15:30:00.5-05:30",
        ] {
            assert_eq!(from_utc(text), at, "{text}");
        }
        for text in [
            "",
            "2026-11-23",
            "2026-11-23T21:00:00",
            "2026-11-31T21:00:00Z",
            "2026-13-01T21:00:00Z",
            "2026-11-23T21:00Z",
            "2026-11-23T21:00:00.Z",
            "2026-11-23T21:00:00.5+1",
            "1969-12-31T23:59:59Z",
            "é026-11-23T21:00:00Z",
        ] {
            assert_eq!(from_utc(text), None, "{text}");
        }
    }
}
