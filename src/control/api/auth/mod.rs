//! `/api/auth/*`: login, logout, and who is asking. A password is checked on one of the API's threads, at most
//! two at once; what counts against its source is counted before it is checked, so that many guesses at the
//! same time gain nothing.

mod lockout;
mod sessions;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::auth::{AdminPassword, Secret};
use crate::openai::ApiError;
use crate::runtime::clock;
use crate::store::Store;
use crate::telemetry::log;

use super::rights::{self, Presented, Who};
use super::{Call, Context, Reply};

use lockout::Lockout;
pub(super) use sessions::{Sessions, is_session_token};

/// Logins as a whole.
pub(super) struct Logins {
    /// Who is logged in.
    pub(super) sessions: Sessions,
    lockout: Lockout,
    /// Passwords being checked.
    checking: AtomicUsize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: String,
    password: Password,
}

/// Wiped when it is dropped.
struct Password(Secret);

#[derive(Serialize)]
struct LoginBody<'s> {
    token: &'s str,
    expires_in: u64,
    user: UserBody<'s>,
}

#[derive(Serialize)]
struct MeBody<'s> {
    user: UserBody<'s>,
    via: &'static str,
    expires_at: Option<u64>,
}

#[derive(Serialize)]
struct UserBody<'s> {
    username: &'s str,
}

/// One password being checked; the next may be when it is dropped.
struct Checking<'l>(&'l AtomicUsize);

impl Logins {
    pub(super) fn new(store: Store) -> Self {
        Self {
            sessions: Sessions::new(store),
            lockout: Lockout::new(),
            checking: AtomicUsize::new(0),
        }
    }

    fn begin_check(&self) -> Option<Checking<'_>> {
        let next = |count: usize| (count < CHECKS_MAX).then_some(count + 1);
        let counted = self
            .checking
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
        counted.ok().map(|_| Checking(&self.checking))
    }
}

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// `POST /api/auth/login`.
pub(super) fn login(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    if !rights::is_own_origin(&call.request.head) {
        return Err(ApiError::csrf());
    }
    let login: Login = call.json()?;
    let config = context.shared.config.current();
    let auth = &config.auth;
    let peer = call.request.peer;
    if auth.admin_password.is_default() && !rights::is_of_this_machine(call.request) {
        return Err(ApiError::default_password());
    }
    check_password(context, peer, || {
        let is_user = login
            .username
            .as_bytes()
            .ct_eq(auth.admin_username.as_bytes());
        // Checked whoever it is: the time must not tell whether the name is right.
        is_right(&auth.admin_password, &login.password) & bool::from(is_user)
    })?;
    let lifetime = auth.session_lifetime.as_secs();
    let now = clock::unix_secs();
    context.logins.sessions.follow(auth);
    let token = context.logins.sessions.begin(auth, now)?;
    log::info(format_args!("login from {peer}"));
    let reply = Reply::json(&LoginBody {
        token: token.expose(),
        expires_in: lifetime,
        user: UserBody {
            username: &auth.admin_username,
        },
    })?;
    Ok(reply.field("Set-Cookie", cookie(token.expose(), "")))
}

/// `POST /api/auth/logout`. An API key has no session to end.
pub(super) fn logout(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    if let Presented::Session { token, .. } = Presented::of(&call.request.head.credentials) {
        context.logins.sessions.end(token);
    }
    Ok(Reply::no_content().field("Set-Cookie", cookie("", "; Max-Age=0")))
}

/// `GET /api/auth/me`.
pub(super) fn me(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    match &call.who {
        Who::Session { user, expires_at } => Reply::json(&MeBody {
            user: UserBody { username: user },
            via: "session",
            expires_at: Some(*expires_at),
        }),
        Who::Key(identity) => {
            let keys = context.shared.keys.load();
            let entry = keys.entry(*identity);
            Reply::json(&MeBody {
                user: UserBody {
                    username: entry.map_or("", |entry| &entry.name),
                },
                via: "key",
                expires_at: entry.and_then(|entry| entry.expires_at),
            })
        }
        Who::Anybody => Err(ApiError::not_authenticated()),
    }
}

/// Whether `is_right` says so, counted against the source if it does not.
fn check_password(
    context: &Context,
    peer: IpAddr,
    is_right: impl FnOnce() -> bool,
) -> Result<(), ApiError> {
    let lockout = &context.logins.lockout;
    lockout
        .begin(peer, clock::now())
        .map_err(ApiError::too_many_attempts)?;
    let Some(_checking) = context.logins.begin_check() else {
        lockout.take_back(peer);
        return Err(ApiError::control_busy());
    };
    if is_right() {
        lockout.succeeded(peer);
        Ok(())
    } else {
        log::warn(format_args!("a login from {peer} has failed"));
        Err(ApiError::invalid_credentials())
    }
}

fn is_right(password: &AdminPassword, candidate: &Password) -> bool {
    password.matches(candidate.0.expose().as_bytes())
}

fn cookie(token: &str, more: &str) -> String {
    format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/{more}")
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// The name of the session cookie.
pub(super) const COOKIE: &str = "llm_router_session";
/// Each takes a core and 19 MiB for some tens of milliseconds.
const CHECKS_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_two_passwords_are_checked_at_once() {
        let checking = AtomicUsize::new(0);
        let next = |count: usize| (count < CHECKS_MAX).then_some(count + 1);
        let begin = || {
            let counted = checking.fetch_update(Ordering::AcqRel, Ordering::Relaxed, next);
            counted.ok().map(|_| Checking(&checking))
        };
        let (first, second) = (begin().unwrap(), begin().unwrap());
        assert!(begin().is_none());
        drop(first);
        assert!(begin().is_some());
        drop(second);
        assert_eq!(checking.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_cookie_is_for_our_pages_only() {
        assert_eq!(
            cookie("st-1", ""),
            "llm_router_session=st-1; HttpOnly; SameSite=Strict; Path=/"
        );
    }
}
