//! Writes the model list and the single model in OpenAI's form. Must never decide which models
//! exist or in what order: it writes what it is given.

use super::json::write_string;

/// Appends `{"object":"list","data":[…]}` with one entry per id, in the order given.
///
/// `created_secs` is Unix time in seconds; clients treat it as opaque.
pub fn write_list<'i>(
    out: &mut Vec<u8>,
    ids: impl IntoIterator<Item = &'i str>,
    created_secs: u64,
) {
    out.extend_from_slice(br#"{"object":"list","data":["#);
    for (index, id) in ids.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_model(out, id, created_secs);
    }
    out.extend_from_slice(b"]}");
}

/// Appends `{"id":…,"object":"model","created":…,"owned_by":…}`.
pub fn write_model(out: &mut Vec<u8>, id: &str, created_secs: u64) {
    out.extend_from_slice(br#"{"id":"#);
    write_string(out, id);
    out.extend_from_slice(br#","object":"model","created":"#);
    out.extend_from_slice(itoa::Buffer::new().format(created_secs).as_bytes());
    out.extend_from_slice(br#","owned_by":"#);
    write_string(out, OWNED_BY);
    out.push(b'}');
}

/// Who owns the models, in the words of the API: this router stands in front of all of them.
const OWNED_BY: &str = "llm-router";

#[cfg(test)]
mod tests {
    use super::{write_list, write_model};
    use serde_json::{Value, json};

    #[test]
    fn the_list_keeps_the_order_given_and_has_the_openai_form() {
        let mut out = Vec::new();
        write_list(&mut out, ["b", "a"], 17);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            concat!(
                r#"{"object":"list","data":["#,
                r#"{"id":"b","object":"model","created":17,"owned_by":"llm-router"},"#,
                r#"{"id":"a","object":"model","created":17,"owned_by":"llm-router"}]}"#
            )
        );
    }

    #[test]
    fn an_empty_list_is_a_list() {
        let mut out = Vec::new();
        write_list(&mut out, [], 0);
        assert_eq!(out, br#"{"object":"list","data":[]}"#);
    }

    #[test]
    fn a_hostile_id_stays_inside_its_string() {
        let id = "a\"},{\"id\":\"b\r\n\u{0}\\";
        let mut out = Vec::new();
        write_model(&mut out, id, u64::MAX);
        let read: Value = serde_json::from_slice(&out).unwrap();
        let expected = json!({
            "id": id, "object": "model", "created": u64::MAX, "owned_by": "llm-router",
        });
        assert_eq!(read, expected);
    }
}
