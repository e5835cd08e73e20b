//! `POST /api/reload`: what SIGHUP does, for those who want to know what came of it.

use serde::Serialize;

use crate::openai::ApiError;

use super::super::reload::ReloadRefusal;
use super::{Call, Context, Reply};

#[derive(Serialize)]
struct ReloadedBody {
    applied: Vec<&'static str>,
    needs_restart: Vec<&'static str>,
}

/// `POST /api/reload`.
pub(super) fn reload(context: &Context, _: &Call<'_>) -> Result<Reply, ApiError> {
    match context.reloader.reload() {
        Ok(reloaded) => Reply::json(&ReloadedBody {
            applied: reloaded.applied,
            needs_restart: reloaded.needs_restart,
        }),
        Err(refusal @ ReloadRefusal::Invalid(_)) => {
            Err(ApiError::invalid_configuration(refusal.problems()))
        }
        Err(ReloadRefusal::Busy) => Err(ApiError::control_busy()),
        Err(ReloadRefusal::HandingOver) => Err(ApiError::handing_over()),
    }
}
