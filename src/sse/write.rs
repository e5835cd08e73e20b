//! Writes server-sent events. A line end inside a value must never end the field or the event.

/// The event that ends an OpenAI stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// Appends one event with `data`, one `data` line per line of it.
pub fn write_data(out: &mut Vec<u8>, data: &[u8]) {
    write_lines(out, b"data: ", data);
    out.push(b'\n');
}

/// Appends one event with a name. Line ends in the name are left out.
pub fn write_event(out: &mut Vec<u8>, name: &[u8], data: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend(name.iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    out.push(b'\n');
    write_data(out, data);
}

/// Appends a comment, which clients ignore and which keeps a connection alive, one line per line
/// of it.
pub fn write_comment(out: &mut Vec<u8>, text: &[u8]) {
    write_lines(out, b": ", text);
    out.push(b'\n');
}

fn write_lines(out: &mut Vec<u8>, prefix: &[u8], text: &[u8]) {
    let mut rest = text;
    loop {
        out.extend_from_slice(prefix);
        let Some(end) = memchr::memchr2(b'\n', b'\r', rest) else {
            break;
        };
        let (line, tail) = rest.split_at(end);
        out.extend_from_slice(line);
        out.push(b'\n');
        rest = match tail {
            [b'\r', b'\n', tail @ ..] | [_, tail @ ..] => tail,
            [] => tail,
        };
    }
    out.extend_from_slice(rest);
    out.push(b'\n');
}
