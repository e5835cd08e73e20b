//! The date in the name of a result.

use llm_router::runtime::clock;

/// Today (UTC), the parts joined with `separator`.
pub(crate) fn today(separator: &str) -> String {
    let days = i64::try_from(clock::unix_secs() / 86_400).unwrap_or_default();
    let (year, month, day) = civil(days);
    format!("{year:04}{separator}{month:02}{separator}{day:02}")
}

/// Year, month and day of a day counted from 1970-01-01, in years that begin in March, so that the
/// leap day comes last (proleptic Gregorian calendar; from 1970 on).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}
