//! Writes JSON strings. Must never be used on a body that is forwarded: those stay as they came.

/// Appends `text` to `out` as one JSON string token, quotes included (RFC 8259 section 7).
///
/// Only `"`, `\` and the control characters below U+0020 are escaped; all else is copied as UTF-8.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len().saturating_add(2));
    out.push(b'"');
    write_string_content(out, text);
    out.push(b'"');
}

/// Appends the inside of a JSON string token, for strings that are put together from pieces.
pub(crate) fn write_string_content(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| needs_escape(byte)) {
        let (plain, tail) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((&byte, tail)) = tail.split_first() else {
            break;
        };
        write_escape(out, byte);
        rest = tail;
    }
    out.extend_from_slice(rest);
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 0xf)]),
    }
}

fn hex(nibble: u8) -> u8 {
    match nibble {
        0..=9 => b'0' + nibble,
        _ => b'a' + (nibble - 10),
    }
}

#[cfg(test)]
mod tests {
    use super::write_string;
    use proptest::prelude::*;

    fn written(text: &str) -> String {
        let mut out = Vec::new();
        write_string(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn quotes_backslashes_and_controls_are_escaped() {
        assert_eq!(
            written("a\"b\\c\n\r\t\u{1}\u{1f}"),
            r#""a\"b\\c\n\r\t\u0001\u001f""#
        );
    }

    #[test]
    fn text_beyond_ascii_is_copied() {
        assert_eq!(written("日本\u{2028}🦙"), "\"日本\u{2028}🦙\"");
    }

    proptest! {
        #[test]
        fn any_text_reads_back_equal(text in any::<String>()) {
            let read: String = serde_json::from_str(&written(&text)).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
