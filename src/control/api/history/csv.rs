//! Rows of comma-separated values (RFC 4180), for spreadsheets too: no cell can become a formula.

use std::io::Write;

/// One value.
#[derive(Clone, Copy)]
pub(super) enum Cell<'a> {
    /// Perhaps chosen by a client.
    Text(&'a str),
    /// Not negative.
    Number(u64),
    /// Milliseconds, to the microsecond.
    Millis(f64),
}

/// Appends a row with its line end.
pub(super) fn write_row(out: &mut Vec<u8>, cells: &[Cell<'_>]) {
    for (index, cell) in cells.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        // Writing to memory does not fail.
        let _ = match cell {
            Cell::Text(text) => {
                write_text(out, text);
                Ok(())
            }
            Cell::Number(number) => write!(out, "{number}"),
            Cell::Millis(millis) => write!(out, "{millis:.3}"),
        };
    }
    out.extend_from_slice(b"\r\n");
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    // What spreadsheets take for the beginning of a formula gets an apostrophe in front, which they take
    // for "this is text".
    let is_formula =
        text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠']);
    let apostrophe = if is_formula { "'" } else { "" };
    if !text.contains([',', '"', '\r', '\n', ';', '\t']) {
        out.extend_from_slice(apostrophe.as_bytes());
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(apostrophe.as_bytes());
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[Cell<'_>]) -> String {
        let mut out = Vec::new();
        write_row(&mut out, cells);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_are_separated_and_quoted_where_they_must_be() {
        let cells = [
            Cell::Text("plain"),
            Cell::Text(""),
            Cell::Text("a,b"),
            Cell::Text("say \"hi\""),
            Cell::Text("two\r\nlines"),
            Cell::Number(7),
            Cell::Millis(1.5),
        ];
        let expected = "plain,,\"a,b\",\"say \"\"hi\"\"\",\"two\r\nlines\",7,1.500\r\n";
        assert_eq!(row(&cells), expected);
    }

    #[test]
    fn no_cell_becomes_a_formula() {
        for (text, expected) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\t=1", "\"'\t=1\""),
            ("\r=1", "\"'\r=1\""),
            ("＝1", "'＝1"),
            ("=cmd|' /C calc'!A0,", "\"'=cmd|' /C calc'!A0,\""),
            ("a=1", "a=1"),
        ] {
            assert_eq!(row(&[Cell::Text(text)]), format!("{expected}\r\n"));
        }
    }
}
