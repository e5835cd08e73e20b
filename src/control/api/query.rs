//! The parameters of a query, decoded. Each is taken by its name; what nobody takes is refused.

use std::ops::RangeInclusive;

use crate::openai::ApiError;

/// The parameters that were not taken yet.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let name = decoded(name).ok_or_else(|| undecodable("the query"))?;
            let value = decoded(value).ok_or_else(|| undecodable(&name))?;
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(ApiError::invalid_field(&name, "is there twice"));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    /// A parameter as text; empty counts as absent, as forms send it.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let index = self.0.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.0.swap_remove(index);
        (!value.is_empty()).then_some(value)
    }

    /// A parameter as a whole number within `range`.
    ///
    /// # Errors
    /// 400 for anything else.
    pub(super) fn take_number(
        &mut self,
        name: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.take(name) else {
            return Ok(None);
        };
        let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text
            .parse()
            .ok()
            .filter(|number| is_digits && range.contains(number));
        let rule = || {
            let rule = format!("must be a number from {} to {}", range.start(), range.end());
            ApiError::invalid_field(name, &rule)
        };
        number.map(Some).ok_or_else(rule)
    }

    /// To be called once everything that is known has been taken.
    ///
    /// # Errors
    /// 400 for a parameter that is not known.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.0.first() {
            Some((name, _)) => Err(ApiError::unknown_field(name)),
            None => Ok(()),
        }
    }
}

fn undecodable(name: &str) -> ApiError {
    ApiError::invalid_field(name, "does not decode as text")
}

/// `%XX` and `+` decoded (application/x-www-form-urlencoded).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return String::from_utf8(bytes).ok(),
            [b'%', high, low, tail @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let byte = digit(*high)? * 16 + digit(*low)?;
                bytes.push(u8::try_from(byte).ok()?);
                tail
            }
            [b'%', ..] => return None,
            [b'+', tail @ ..] => {
                bytes.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                bytes.push(*byte);
                tail
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_taken_by_name() {
        let mut query = Query::parse("model=org%2Fm%C3%A9+x&page=2&node=&status").unwrap();
        assert_eq!(query.take("model").as_deref(), Some("org/mé x"));
        assert_eq!(query.take_number("page", 1..=9), Ok(Some(2)));
        assert_eq!((query.take("node"), query.take("status")), (None, None));
        assert_eq!(query.take("absent"), None);
        assert_eq!(query.finish(), Ok(()));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "a=%",
            "a=%2",
            "a=%zz",
            "a=%ff",
            "%=1",
            "a=1&a=2",
            "a=1&%61=2",
        ] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
        for text in [
            "page=0",
            "page=10",
            "page=-1",
            "page=+1",
            "page=x",
            "page=1e1",
            "page=99999999999999999999",
        ] {
            let mut query = Query::parse(text).unwrap();
            assert!(query.take_number("page", 1..=9).is_err(), "{text}");
        }
        let mut query = Query::parse("page=1&pgae=2").unwrap();
        assert_eq!(query.take_number("page", 1..=9), Ok(Some(1)));
        assert_eq!(query.finish().unwrap_err().code, "invalid_field");
    }
}
