//! Owns the syntax of the Prometheus text format 0.0.4. Never decides what is exposed.

use super::names::{Kind, Metric};

/// Writes families one after the other.
#[derive(Debug)]
pub(super) struct TextWriter<'a> {
    out: &'a mut String,
}

/// Writes the samples of one family. A family cannot be resumed once another was begun, as the
/// format demands.
#[derive(Debug)]
pub(super) struct Family<'a> {
    out: &'a mut String,
    metric: Metric,
}

/// The labels of one sample: name and value.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

impl<'a> TextWriter<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        Self { out }
    }

    /// Begins a family with its `HELP` and `TYPE` lines.
    pub(super) fn family(&mut self, metric: Metric) -> Family<'_> {
        for (keyword, text) in [("HELP", metric.help), ("TYPE", metric.kind.as_str())] {
            self.out.push_str("# ");
            self.out.push_str(keyword);
            self.out.push(' ');
            self.out.push_str(metric.name);
            self.out.push(' ');
            self.out.push_str(text);
            self.out.push('\n');
        }
        Family {
            out: self.out,
            metric,
        }
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, metric: Metric, value: u64) {
        self.family(metric).count(&[], value);
    }
}

impl Family<'_> {
    /// A sample that is a whole number.
    pub(super) fn count(&mut self, labels: Labels<'_>, value: u64) {
        self.sample("", labels, itoa::Buffer::new().format(value));
    }

    /// A sample in seconds.
    pub(super) fn seconds(&mut self, labels: Labels<'_>, value: f64) {
        self.sample("", labels, &value.to_string());
    }

    /// A bucket of a histogram.
    pub(super) fn bucket(&mut self, bound: &str, value: u64) {
        debug_assert_eq!(self.metric.kind, Kind::Histogram);
        self.sample(
            "_bucket",
            &[("le", bound)],
            itoa::Buffer::new().format(value),
        );
    }

    /// The sum and the count that end a summary or histogram.
    pub(super) fn totals(&mut self, sum_seconds: f64, count: u64) {
        debug_assert!(matches!(self.metric.kind, Kind::Summary | Kind::Histogram));
        self.sample("_sum", &[], &sum_seconds.to_string());
        self.sample("_count", &[], itoa::Buffer::new().format(count));
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, value: &str) {
        self.out.push_str(self.metric.name);
        self.out.push_str(suffix);
        for (index, (name, text)) in labels.iter().enumerate() {
            self.out.push(if index == 0 { '{' } else { ',' });
            self.out.push_str(name);
            self.out.push_str("=\"");
            push_label_value(self.out, text);
            self.out.push('"');
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        self.out.push(' ');
        self.out.push_str(value);
        self.out.push('\n');
    }
}

/// Escapes a label value. Quotes and backslashes get a backslash, as the format wants it. White
/// space, control characters and `%` become `%` and two hexadecimal digits per byte: spec section 8
/// allows no spaces within labels, and two different names must not become one series.
fn push_label_value(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' | '"' => {
                out.push('\\');
                out.push(character);
            }
            '%' => push_percent(out, character),
            _ if character.is_whitespace() || character.is_control() => {
                push_percent(out, character);
            }
            _ => out.push(character),
        }
    }
}

fn push_percent(out: &mut String, character: char) {
    for &byte in character.encode_utf8(&mut [0; 4]).as_bytes() {
        out.push('%');
        for digit in [byte >> 4, byte & 15] {
            out.push(
                char::from_digit(u32::from(digit), 16)
                    .unwrap_or('0')
                    .to_ascii_uppercase(),
            );
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn escaped(value: &str) -> String {
        let mut out = String::new();
        push_label_value(&mut out, value);
        out
    }

    #[test]
    fn ordinary_model_names_stay_as_they_are() {
        for name in ["llama-3.2-1b", "openai:gpt-4o", "Qwen/Qwen3-8B", "モデル"] {
            assert_eq!(escaped(name), name);
        }
    }

    #[test]
    fn label_values_hold_no_white_space_quote_or_control_character() {
        assert_eq!(escaped("my model"), "my%20model");
        assert_eq!(escaped("a\"b\\c"), "a\\\"b\\\\c");
        assert_eq!(escaped("a\r\nb\x1b[0m"), "a%0D%0Ab%1B[0m");
        assert_eq!(
            escaped("\u{2028}\u{3000}\u{85}"),
            "%E2%80%A8%E3%80%80%C2%85"
        );
    }

    #[test]
    fn different_names_stay_different_series() {
        assert_ne!(escaped("a b"), escaped("a%20b"));
        assert_eq!(escaped("a%20b"), "a%2520b");
    }
}
