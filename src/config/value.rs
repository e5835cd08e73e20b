//! One raw value, from the file or as text, turned into a checked one.
//!
//! Every refusal names the allowed range, built from the same numbers that are checked. Nothing
//! here knows which key it works for.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::problem::quoted;

/// A value before it is checked.
#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    /// From the file, typed by TOML.
    Toml(&'a DeValue<'a>),
    /// From the environment or the command line.
    Text(&'a str),
}

/// Why a value, or one element of a list, is refused.
#[derive(Debug)]
pub(super) struct Fault {
    /// Which element: `""` or `"[3]"`, appended to the key path.
    pub(super) element: String,
    /// The rule, in the form "must be …".
    pub(super) reason: String,
}

/// Everything wrong with the value of one key; never empty.
#[derive(Debug)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl<'a> Raw<'a> {
    /// A whole number within the range.
    pub(super) fn integer(self, range: RangeInclusive<u64>) -> Result<u64, Fault> {
        let value = match self {
            Raw::Toml(DeValue::Integer(digits)) => {
                u64::from_str_radix(digits.as_str(), digits.radix()).ok()
            }
            Raw::Text(text) if is_digits(text) => text.parse().ok(),
            _ => None,
        };
        value.filter(|value| range.contains(value)).ok_or_else(|| {
            Fault::rule(format!(
                "must be a whole number from {} to {}",
                range.start(),
                range.end()
            ))
        })
    }

    /// A finite number within the range; both ends included.
    pub(super) fn number(self, range: RangeInclusive<f64>) -> Result<f64, Fault> {
        self.decimal()
            .filter(|value| range.contains(value))
            .ok_or_else(|| {
                Fault::rule(format!(
                    "must be a number from {} to {}",
                    range.start(),
                    range.end()
                ))
            })
    }

    /// Whole or fractional seconds within the range; both ends included.
    pub(super) fn seconds(self, range: RangeInclusive<f64>) -> Result<Duration, Fault> {
        self.decimal()
            .filter(|value| range.contains(value))
            .and_then(|value| Duration::try_from_secs_f64(value).ok())
            .ok_or_else(|| {
                Fault::rule(format!(
                    "must be a number of seconds from {} to {}",
                    range.start(),
                    range.end()
                ))
            })
    }

    /// `true` or `false`.
    pub(super) fn boolean(self) -> Result<bool, Fault> {
        match self {
            Raw::Toml(DeValue::Boolean(value)) => Ok(*value),
            Raw::Text("true" | "1") => Ok(true),
            Raw::Text("false" | "0") => Ok(false),
            _ => Err(Fault::rule("must be true or false".to_owned())),
        }
    }

    /// A string of at most `bytes_max` bytes, not empty and without control characters.
    pub(super) fn text(self, bytes_max: usize) -> Result<&'a str, Fault> {
        self.string()
            .filter(|text| is_plain(text, bytes_max))
            .ok_or_else(|| {
                Fault::rule(format!(
                    "must be a text of 1 to {bytes_max} bytes without control characters"
                ))
            })
    }

    /// One of the named values.
    pub(super) fn choice<T: Copy>(self, choices: &[(&str, T)]) -> Result<T, Fault> {
        let text = self.string().unwrap_or_default();
        let found = choices.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Fault::rule(format!("must be one of: {}", names.join(", ")))
        })
    }

    /// The elements of a list; text is split at commas, and blanks around elements are dropped.
    pub(super) fn list(self) -> Result<Vec<Self>, Fault> {
        match self {
            Raw::Toml(DeValue::Array(elements)) => Ok(elements
                .iter()
                .map(|element| Raw::Toml(element.get_ref()))
                .collect()),
            Raw::Text(text) => Ok(text.split(',').map(|part| Raw::Text(part.trim())).collect()),
            Raw::Toml(_) => Err(Fault::rule("must be a list of texts".to_owned())),
        }
    }

    /// A string of any content.
    pub(super) fn string(self) -> Option<&'a str> {
        match self {
            Raw::Toml(value) => value.as_str(),
            Raw::Text(text) => Some(text),
        }
    }

    /// The value as a report may show it.
    pub(super) fn shown(self) -> String {
        match self {
            Raw::Text(text) => quoted(text),
            Raw::Toml(DeValue::String(text)) => quoted(text),
            Raw::Toml(DeValue::Integer(number)) => number.to_string(),
            Raw::Toml(DeValue::Float(number)) => number.to_string(),
            Raw::Toml(DeValue::Boolean(value)) => value.to_string(),
            Raw::Toml(DeValue::Datetime(value)) => value.to_string(),
            Raw::Toml(DeValue::Array(_)) => "[…]".to_owned(),
            Raw::Toml(DeValue::Table(_)) => "{…}".to_owned(),
        }
    }

    fn decimal(self) -> Option<f64> {
        let value: f64 = match self {
            Raw::Toml(DeValue::Integer(digits)) => {
                let whole = i32::from_str_radix(digits.as_str(), digits.radix()).ok()?;
                f64::from(whole)
            }
            Raw::Toml(DeValue::Float(number)) => number.as_str().parse().ok()?,
            Raw::Text(text) if is_decimal(text) => text.parse().ok()?,
            _ => return None,
        };
        value.is_finite().then_some(value)
    }
}

impl Fault {
    /// A fault of the value as a whole.
    pub(super) fn rule(reason: String) -> Self {
        Self {
            element: String::new(),
            reason,
        }
    }

    /// The same fault, said of one element of a list.
    pub(super) fn of_element(self, index: usize) -> Self {
        Self {
            element: format!("[{index}]{}", self.element),
            ..self
        }
    }
}

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

/// Not empty, at most `bytes_max` bytes, no control characters.
pub(super) fn is_plain(text: &str, bytes_max: usize) -> bool {
    (1..=bytes_max).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `12`, `0.5`: no sign, exponent, `inf` or `nan`, which the standard parser would take.
fn is_decimal(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    is_digits(whole) && is_digits(fraction)
}
