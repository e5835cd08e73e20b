//! Unit tests of the codec. Verdicts are data, see `corpus`; what holds for all inputs is in
//! `properties`.

mod corpus;

use super::*;

#[test]
fn an_sdk_request_is_parsed_whole() {
    let bytes =
        b"POST /v1/chat/completions?x=1 HTTP/1.1\r\nHost: h:8080\r\nAuthorization: Bearer k\r\n\
        Content-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"model\":1}\n";
    let mut scan = HeadScan::new();
    let Ok(Parsed::Complete {
        head,
        bytes: consumed,
    }) = parse_request(bytes, &mut scan, &HeadLimits::DEFAULT)
    else {
        panic!("a valid head");
    };
    assert_eq!(&bytes[consumed..], b"{\"model\":1}\n");
    assert_eq!(head.method, Method::Post);
    assert_eq!(head.path, "/v1/chat/completions");
    assert_eq!(head.query, Some("x=1"));
    assert_eq!(head.body, BodyLength::Fixed(12));
    assert_eq!(head.authorization, Some(&b"Bearer k"[..]));
    assert_eq!(
        head.end_to_end_fields().collect::<Vec<_>>(),
        [("Content-Type", &b"application/json"[..])]
    );
}
