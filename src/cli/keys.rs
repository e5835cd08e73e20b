//! `llm-router keys create | list | revoke`.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use llm_router::auth::key::KeyId;
use llm_router::auth::store::{KeyRequest, KeyStore, StoreError, StoredKey};

use super::options::{KeysAction, KeysOptions};
use super::output::{note, refuse, say};

/// Carries out one action on the key file of the data directory.
pub(crate) fn keys(options: &KeysOptions) -> ExitCode {
    let store = match options.config_options().load() {
        Ok(loaded) => KeyStore::new(&loaded.config.server.data_dir),
        Err(problems) => return refuse(problems),
    };
    let done = match &options.action {
        KeysAction::Create {
            name,
            scopes,
            expires_in_days,
        } => {
            let now = unix_seconds();
            let request = KeyRequest {
                name,
                scopes: scopes.iter().map(|scope| scope.scope()).collect(),
                created_at: now,
                expires_at: expires_in_days.map(|days| now + days * DAY_SECS),
            };
            create(&store, request)
        }
        KeysAction::List => list(&store),
        KeysAction::Revoke { id } => return revoke(&store, id),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(error),
    }
}

/// The key alone goes to standard output, so that a script can take it.
fn create(store: &KeyStore, request: KeyRequest<'_>) -> Result<(), StoreError> {
    let (key, secret) = store.create(request)?;
    note(format_args!(
        "created key {} \"{}\" for {}; it is shown only now:",
        key.id, key.name, key.scopes
    ));
    say(secret.expose());
    Ok(())
}

fn list(store: &KeyStore) -> Result<(), StoreError> {
    let keys = store.list()?;
    if keys.is_empty() {
        note("no keys; make one with `llm-router keys create --name NAME`");
        return Ok(());
    }
    say("ID                ENDS IN  CREATED     EXPIRES     SCOPES                 NAME");
    for key in &keys {
        say(row(key));
    }
    Ok(())
}

fn row(key: &StoredKey) -> String {
    format!(
        "{:16}  {:7}  {:10}  {:10}  {:21}  {}",
        key.id.to_string(),
        key.last_four,
        date(key.created_at),
        key.expires_at.map_or_else(|| "never".to_owned(), date),
        key.scopes.to_string(),
        key.name
    )
}

fn revoke(store: &KeyStore, text: &str) -> ExitCode {
    let unknown = || {
        refuse(format_args!(
            "there is no key {text:?}; `keys list` shows the ids"
        ))
    };
    let Some(id) = KeyId::parse_stored(text) else {
        return unknown();
    };
    match store.revoke(id) {
        Ok(Some(key)) => {
            say(format_args!("revoked key {} \"{}\"", key.id, key.name));
            ExitCode::SUCCESS
        }
        Ok(None) => unknown(),
        Err(error) => refuse(error),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a human reads when the key was made"
)]
fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// `2027-01-15` in UTC.
///
/// Counts in eras of 400 years that begin on 1 March, so that the leap day is a year's last day.
fn date(unix_seconds: u64) -> String {
    let days = unix_seconds / DAY_SECS + DAYS_FROM_MARCH_OF_YEAR_0;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let leap_days_before = day_of_era / 1460 + day_of_era / 146_096;
    let year_of_era = (day_of_era + day_of_era / 36_524 - leap_days_before) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March is 0; months of 31 and 30 days alternate so that 153 days are five months.
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

const DAY_SECS: u64 = 86_400;
const DAYS_PER_ERA: u64 = 146_097;
/// From 1 March of year 0 to 1 January 1970.
const DAYS_FROM_MARCH_OF_YEAR_0: u64 = 719_468;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // Checked against `date -u -d @SECONDS +%F`.
        let cases = [
            (0, "1970-01-01"),
            (86_399, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(date(seconds), expected, "{seconds}");
        }
    }
}
