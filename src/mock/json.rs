//! A look at the top level of a JSON body: its members as they stand, nothing unescaped or copied.
//!
//! It finds where values end and checks no more than that; the router is the one who validates. It
//! must never be used where a lenient reading matters.

/// The members of a JSON object in order, key content and value token as they stand.
pub(super) struct Members<'b> {
    rest: &'b [u8],
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first member.
    First,
    /// Behind a member.
    Later,
    /// Behind the closing brace.
    Whole,
    Broken,
}

impl<'b> Members<'b> {
    /// The members of the object that `object` begins with.
    pub(super) fn of(object: &'b [u8]) -> Self {
        match object.trim_ascii_start() {
            [b'{', rest @ ..] => Self {
                rest,
                state: State::First,
            },
            rest => Self {
                rest,
                state: State::Broken,
            },
        }
    }

    /// Whether the object was read to its closing brace and nothing but whitespace follows it.
    pub(super) fn is_whole(&self) -> bool {
        self.state == State::Whole && self.rest.trim_ascii_start().is_empty()
    }

    fn member(&mut self) -> Option<(&'b [u8], &'b [u8])> {
        let mut rest = self.rest.trim_ascii_start();
        match (rest, self.state) {
            ([b'}', tail @ ..], _) => {
                self.rest = tail;
                self.state = State::Whole;
                return None;
            }
            ([b',', tail @ ..], State::Later) => rest = tail.trim_ascii_start(),
            (_, State::First) => {}
            _ => return None,
        }
        let (key, tail) = token(rest)?;
        let key = string_content(key)?;
        let tail = tail.trim_ascii_start().strip_prefix(b":")?;
        let (value, tail) = token(tail.trim_ascii_start())?;
        self.rest = tail;
        self.state = State::Later;
        Some((key, value))
    }
}

impl<'b> Iterator for Members<'b> {
    type Item = (&'b [u8], &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.state, State::Whole | State::Broken) {
            return None;
        }
        let member = self.member();
        if member.is_none() && self.state != State::Whole {
            self.state = State::Broken;
        }
        member
    }
}

/// The inside of a string token, escapes as they stand; `None` for any other token.
pub(super) fn string_content(token: &[u8]) -> Option<&[u8]> {
    token.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// How many elements an array token has; `None` for any other token.
pub(super) fn element_count(array: &[u8]) -> Option<usize> {
    let mut rest = array.strip_prefix(b"[")?.trim_ascii_start();
    let mut count = 0;
    while !rest.starts_with(b"]") {
        let (_, tail) = token(rest)?;
        count += 1;
        rest = tail.trim_ascii_start();
        if let Some(tail) = rest.strip_prefix(b",") {
            rest = tail.trim_ascii_start();
        }
    }
    Some(count)
}

/// The value of a number token of digits only.
pub(super) fn digits(token: &[u8]) -> Option<usize> {
    if token.is_empty() {
        return None;
    }
    token.iter().try_fold(0_usize, |value, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(usize::from(digit))
    })
}

/// The value that `bytes` begins with, and what follows it.
fn token(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = match bytes.first()? {
        b'"' => string_end(bytes)?,
        b'{' | b'[' => container_end(bytes)?,
        _ => bytes
            .iter()
            .position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'))
            .filter(|end| *end > 0)?,
    };
    bytes.split_at_checked(end)
}

/// The offset behind the closing quote of the string that `bytes` begins with.
fn string_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        // Whatever a backslash escapes, the next byte is not a closing quote.
        at += 2;
    }
}

/// The offset behind the bracket that closes the one `bytes` begins with.
fn container_end(bytes: &[u8]) -> Option<usize> {
    let mut depth = 0_u32;
    let mut at = 0;
    loop {
        match bytes.get(at)? {
            b'"' => {
                at += string_end(bytes.get(at..)?)?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(body: &str) -> (Vec<(&str, &str)>, bool) {
        let mut members = Members::of(body.as_bytes());
        let text = |bytes| std::str::from_utf8(bytes).unwrap();
        let seen = members
            .by_ref()
            .map(|(key, value)| (text(key), text(value)))
            .collect();
        (seen, members.is_whole())
    }

    #[test]
    fn members_come_in_order_with_their_values_as_they_stand() {
        let body = r#" { "a" : "x\"}" , "b":[1,{"c":"]"}] ,"d":null,"e":{"f":{}}} "#;
        let expected = vec![
            ("a", r#""x\"}""#),
            ("b", r#"[1,{"c":"]"}]"#),
            ("d", "null"),
            ("e", r#"{"f":{}}"#),
        ];
        assert_eq!(members(body), (expected, true));
        assert_eq!(members("{}"), (vec![], true));
    }

    #[test]
    fn a_body_that_is_no_object_is_not_whole() {
        for body in [
            "",
            "[]",
            "{",
            r#"{"a""#,
            r#"{"a":1"#,
            r#"{"a":"x"#,
            r#"{"a":[1}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a":}"#,
            r#"{,"a":1}"#,
            r#"{"a":1} x"#,
            r#"{"a":"\"#,
        ] {
            assert!(!members(body).1, "{body}");
        }
    }

    #[test]
    fn elements_are_counted_whatever_they_are() {
        for (array, count) in [
            ("[]", Some(0)),
            ("[ ]", Some(0)),
            (r#"["a"]"#, Some(1)),
            (r#"[ "a,b" , [1,2] , {"x":"]"} ]"#, Some(3)),
            ("[1", None),
            ("7", None),
        ] {
            assert_eq!(element_count(array.as_bytes()), count, "{array}");
        }
    }
}
